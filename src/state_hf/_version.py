"""The version of state-hf, written once."""

__version__ = "0.1.0"
