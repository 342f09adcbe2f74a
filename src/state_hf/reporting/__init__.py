"""Floor 4: figures and the HTML report."""
