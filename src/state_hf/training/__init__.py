"""Training: a Trainer for sets of cells, fitting of baselines, and transfer to new screens."""
