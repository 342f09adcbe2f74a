"""Floor 3: what runs a loaded model over cells: any family's encoder, blocks, processes."""
