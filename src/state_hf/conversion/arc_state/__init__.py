"""Checkpoints of arc-state: State Embedding and State Transition, in and back."""
