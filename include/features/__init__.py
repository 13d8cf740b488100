"""What a model sees: declared in params.yaml or computed by a definition, the same code offline and online."""
