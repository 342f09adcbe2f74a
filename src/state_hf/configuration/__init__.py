"""Floor 0: what a model is. One strict configuration class a file."""
