"""The prediction service beside others: the same model, the same requests, one worker on one core.

PYTHONPATH=. python -m benchmarks.serving --help
"""
