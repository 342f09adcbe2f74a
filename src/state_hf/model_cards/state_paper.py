"""What the cards of Arc Institute's models say of their paper and of the licence of their weights."""

LICENCE = {"license": "other", "license_name": "non-commercial"}
LICENCE_NOTE = (
    "Weights released by Arc Institute, and what is made from them, are licensed for non-commercial use only."
)
CITATION = """\
## Citation

```bibtex
@article{adduri2025predicting,
  title = {Predicting cellular responses to perturbation across diverse contexts with State},
  author = {Adduri, Abhinav K. and Gautam, Dhruv and Bevilacqua, Beatrice and others},
  journal = {bioRxiv},
  year = {2025},
  doi = {10.1101/2025.06.26.661135}
}
```"""

__all__ = ["CITATION", "LICENCE", "LICENCE_NOTE"]
