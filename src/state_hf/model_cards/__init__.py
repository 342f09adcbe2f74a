"""Model cards: one template a family, filled in from the files of a model's folder."""
