"""What runs inside the prediction service; BentoML runs it: see bentofiles/prediction/service.py.

    start and end      command · launcher · worker · beat, ending · inner · log
    a request          connections → direct, or ASGI → application → site, headers · access, keys · admission · bodies
                       → requests, fields, duplicates, refusals; table_process, which runs tables
                       → batching → scoring → answers; inference_protocol · openapi · feedback · access_log
    a prediction       predictor · kernels · explanation
    which version      models ← wanted, holding, loading, memory, copies, routes; router · tallies · shadow · metrics
    what is kept       prediction_log · spool · durable · drain

It imports none of the libraries of training, so that a service starts fast and its image is small.
"""
