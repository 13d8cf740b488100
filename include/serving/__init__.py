"""What runs inside the prediction service; BentoML runs it: see bentofiles/prediction/service.py.

    process          command → supervisor → worker: start and end, heartbeat, shutdown, json_log
    http             connections → fast_path, or ASGI → application → headers, route_table, authentication,
                     load_shedding, request_body → endpoints → predict; table_process, which reads tables; access_log
    batching         micro_batcher → scoring; shadow
    control          reconciler: what ledger_reader reads in PostgreSQL → actual_state; status, in words
    routing          table → route: which version answers; rollout, breaker
    versions         cache → loader ← disk_cache; memory_budget, memory; response_encoder
    prediction_log   copy_text; log → segments → disk_writer; segment_reader → shipper → copier, to PostgreSQL
    metrics          counters → reporter → prometheus; limits
    api_keys         who may ask for what

A room imports those below it only (pyproject.toml, import-linter). How a prediction is computed is in
include/inference. It imports none of the libraries of training, so that a service starts fast and its image is small.
"""
