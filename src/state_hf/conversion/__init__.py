"""Floor 3: foreign checkpoints in, safetensors, configuration and vocabulary out; and back."""
