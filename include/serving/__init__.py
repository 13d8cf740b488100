"""What runs inside the prediction service; BentoML runs it: see bentofiles/prediction/service.py.

The way of a predicted row, in this order; where a room ends, the next one is below it:

    http             connections → fast_path, or ASGI      bytes → a request
                     application → access_log              its id; at the end its line
                     route_table → endpoint                its row: permission, handler
                     authentication → load_shedding        whose key it is; whether there is room
                     request_body                          by ASGI only: the body, within limits
                     endpoints/predict → predict           the arm; the response that will be encoded
    inference        schema/                               decoded, checked: columns (see its own table)
    batching         micro_batcher → scoring               what came at the same time is one batch
    inference        predictor → runtimes                  features, model: predictions
    versions         loader, response_encoder              of the loaded version: ids, the answer's bytes
    prediction_log   copy_text → log → segments            lines, on disk before the answer leaves
                     disk_writer
    metrics          counters                              counted, after the answer has left

What is not on that way:

    process          command → supervisor → worker: start and end, heartbeat, shutdown, json_log
    http             endpoints: one file each; openapi, made of them; table_process, which reads tables; bentoml_app
    batching         shadow
    control          reconciler: what ledger_reader reads in PostgreSQL → actual_state; status, in words
    routing          table → route: which version answers; rollout, breaker
    versions         cache → loader ← disk_cache; memory_budget, memory
    prediction_log   segment_keeper; segment_reader → shipper → copier, to PostgreSQL
    metrics          reporter → prometheus; limits
    api_keys         which key may do what

A room imports those below it only (pyproject.toml, import-linter). It imports none of the libraries of training, so
that a service starts fast and its image is small.
"""
