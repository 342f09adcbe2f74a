"""What is wrong with a checkpoint that cannot be converted."""


class CheckpointError(ValueError):
    """A checkpoint is broken, incomplete, or not what it says it is."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint names code. Nothing of it was imported or run."""


__all__ = ["CheckpointError", "UnsafeCheckpointError"]
