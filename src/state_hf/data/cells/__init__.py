"""Cells as they lie in files and objects: one reader for every command."""
