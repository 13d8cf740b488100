"""Is the champion still good: drift, performance, and the decision to ask for retraining."""
