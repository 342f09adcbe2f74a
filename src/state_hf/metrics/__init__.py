"""Floor 1: array kernels of the Virtual Cell Challenge metrics, and the `evaluate` modules over them."""
