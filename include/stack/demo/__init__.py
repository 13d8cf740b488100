"""`make demo`: the whole chain, for every model of params.yaml."""
