"""What runs inside the prediction service."""
