"""Floor 3: what embeddings of cells tell, over `CellEncoder` and never over a family."""
