"""Floor 1: from counts to tensors. Gene vocabularies and cell sentences."""
