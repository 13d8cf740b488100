"""One file per model that computes features in Python: pure functions on columns."""
