"""The Space of this metric: upload two screens, read the scores."""

from pathlib import Path

from state_hf.reporting.metric_space import build_space

if __name__ == "__main__":
    build_space(Path(__file__).with_name("expression_error.py")).launch()
