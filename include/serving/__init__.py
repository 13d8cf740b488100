"""What runs inside the prediction service: requests, the predictor, the models it follows, the application."""
