"""What is needed to compute predictions from a served form, without a service and without the libraries of training.

    served_form        the folder that a version is served from: manifest, graph, definition, golden rows
    predictor          a loaded served form: rows in, predictions out; runtimes and explanation behind it
    schema             what a request must hold: json_path, columnar tables, duplicate_keys
    errors             the refusals that a caller reads

Export, the gate, monitoring, verification and serving share it, so that all of them compute the same numbers.
"""
