"""What the service counts, for Prometheus and for the decisions of a rollout."""
