"""Is the champion still good: drift, performance, and the decision to request retraining."""
