"""From features to a registered candidate: the study, the fit, the evaluation, the served form."""
