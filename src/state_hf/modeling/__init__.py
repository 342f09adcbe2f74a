"""Floor 2: transformers models, one family a file."""
