"""Floor 4: whole jobs as plain functions."""
