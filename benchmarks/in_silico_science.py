"""Do in-silico knock-outs rank, or point to, what real knock-outs do? A screen's control cells, a model, and baselines.

python benchmarks/in_silico_science.py SCREEN.h5ad MODEL [--cells 300] [--key perturbation] [--control non-targeting]

For every target of the screen that is among its genes: each gene of the model is deleted from control cells. Over the
other genes, the deletion's effect on a gene's state is held against the measured change of the gene (both without
sign). Over the deleted genes, the shift towards the cells of the knock-out is held against that of all other genes.
Beside it: random weights in the same architecture, the expression of the affected gene, its correlation with the
target over control cells, and the shift of plain expression when the gene is set to zero.
"""

import argparse
import tempfile
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import torch
from scipy import sparse
from scipy.stats import mannwhitneyu, rankdata, spearmanr, ttest_1samp
from transformers import AutoConfig, AutoModel, AutoTokenizer

from state_hf import perturb
from state_hf.metrics.multiple_testing import benjamini_hochberg


def logged(counts: sparse.csr_matrix) -> np.ndarray:
    values = np.asarray(counts.todense(), dtype=np.float64)
    return np.log1p(values / np.maximum(values.sum(axis=1, keepdims=True), 1) * 1e4)


def measured(cells: anndata.AnnData, key: str, control: str, targets: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(targets, genes) changes of mean log expression, and false discovery rates of Wilcoxon tests."""
    values, labels = logged(sparse.csr_matrix(cells.X)), cells.obs[key].astype(str).to_numpy()
    reference = values[labels == control]
    changes, rates = [], []
    for target in targets:
        treated = values[labels == target]
        changes.append(treated.mean(axis=0) - reference.mean(axis=0))
        rates.append(mannwhitneyu(treated, reference, axis=0).pvalue)
    index, columns = pd.Index(targets), cells.var_names
    return (
        pd.DataFrame(np.array(changes), index, columns),
        pd.DataFrame(benjamini_hochberg(np.nan_to_num(np.array(rates), nan=1.0)), index, columns),
    )


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    if not labels.any() or labels.all():
        return float("nan")
    ranks = rankdata(scores)
    positive = int(labels.sum())
    return float((ranks[labels].sum() - positive * (positive + 1) / 2) / (positive * (len(labels) - positive)))


def ranking_of_genes(scores: pd.DataFrame, changes: pd.DataFrame, rates: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for target in changes.index:
        genes = scores.columns[scores.loc[target].notna() & (scores.columns != target)]
        change, score = changes.loc[target, genes].abs().to_numpy(), scores.loc[target, genes].to_numpy(float)
        called = (rates.loc[target, genes] < 0.05).to_numpy()
        rows.append((float(spearmanr(score, change).statistic), auroc(score, called), int(called.sum())))
    return pd.DataFrame(rows, changes.index, ["spearman", "auroc", "called"])


def places_of_targets(shifts: pd.DataFrame) -> pd.Series:
    """For each target, the share of the other genes whose deletion shifts cells less towards its knock-out."""
    return pd.Series({target: float((shifts[target].drop(target).dropna() < shifts.loc[target, target]).mean())
                      for target in shifts})  # fmt: skip


def expression_shifts(cells: anndata.AnnData, chosen: np.ndarray, key: str, targets: list[str]) -> pd.DataFrame:
    """Shifts of plain expression when a gene is set to zero: cos(x', s) - cos(x, s)."""
    values, labels = logged(sparse.csr_matrix(cells.X)), cells.obs[key].astype(str).to_numpy()
    own, table = values[chosen], {}
    for target in targets:
        goal = values[labels == target].mean(axis=0)
        dot, norm = own @ goal, np.linalg.norm(own, axis=1)
        without = (dot[:, None] - own * goal) / np.sqrt(np.maximum(norm[:, None] ** 2 - own**2, 1e-12))
        difference = (without - (dot / norm)[:, None]) / np.linalg.norm(goal)
        table[target] = np.where(own > 0, difference, np.nan)
    with np.errstate(invalid="ignore"):
        return pd.DataFrame({name: np.nanmean(part, axis=0) for name, part in table.items()}, cells.var_names)


def in_silico(
    screen: Path, model: object, tokenizer: object, arguments: argparse.Namespace, targets: list[str], layer: int
):
    with tempfile.TemporaryDirectory() as folder:
        result = perturb(
            screen, model, Path(folder, "out.parquet"), tokenizer=tokenizer, random_genes=20, seed=0,
            state_key=arguments.key, start=arguments.control, goal=targets[0], alternatives=targets[1:],
            max_cells=arguments.cells, gene_output=Path(folder, "genes.parquet"), hidden_layer=layer,
        )  # fmt: skip
    genes = result.gene_table[result.gene_table["cells"] >= 10]
    effects = 1 - genes.pivot(index="perturbation", columns="affected_gene", values="cosine")
    table = result.table.set_index("perturbation")
    table = table[table["cells"] >= 10]
    shifts = {kind: pd.DataFrame({t: table[f"{kind}_to_{t}"] for t in targets}) for kind in ("shift", "cell_shift")}
    return effects.reindex(targets), shifts, table, result.checks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("screen", type=Path)
    parser.add_argument("model")
    parser.add_argument("--cells", type=int, default=300)
    parser.add_argument("--key", default="perturbation")
    parser.add_argument("--control", default="non-targeting")
    parser.add_argument("--hidden-layer", type=int, default=-1)
    arguments = parser.parse_args()
    cells = anndata.read_h5ad(arguments.screen)
    labels = cells.obs[arguments.key].astype(str)
    targets = [name for name in labels.value_counts().index if name in set(cells.var_names)]
    changes, rates = measured(cells, arguments.key, arguments.control, targets)
    controls = logged(sparse.csr_matrix(cells[(labels == arguments.control).to_numpy()].X))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.abs(np.corrcoef(controls.T))
    names = list(cells.var_names)
    coexpression = pd.DataFrame(correlation, names, names).loc[targets]
    level = pd.DataFrame([controls.mean(axis=0)] * len(targets), pd.Index(targets), names)

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    trained = AutoModel.from_pretrained(arguments.model)
    torch.manual_seed(0)
    drawn = AutoModel.from_config(AutoConfig.from_pretrained(arguments.model))
    scores, shifts, checks, tables = {}, {}, {}, {}
    for name, model in (("trained", trained), ("random weights", drawn)):
        model.pooler = None
        scores[name], of_shifts, tables[name], checks[name] = in_silico(
            arguments.screen, model, tokenizer, arguments, targets, arguments.hidden_layer
        )
        shifts[f"{name}, shift"], shifts[f"{name}, cell_shift"] = of_shifts["shift"], of_shifts["cell_shift"]
    scores |= {"correlation with the target": coexpression, "expression of the gene": level}
    chosen = np.flatnonzero((labels == arguments.control).to_numpy())
    shifts["plain expression, gene set to zero"] = expression_shifts(cells, chosen, arguments.key, targets)
    common = scores["trained"].notna()
    print("## Which genes change: over the other genes of each target\n")
    print("| score of a gene | " + " | ".join(targets) + " | mean Spearman | p | mean AUROC |")
    print("|---" * (len(targets) + 4) + "|")
    for name, table in scores.items():
        table = table.reindex(columns=common.columns).where(common)
        found = ranking_of_genes(table, changes[common.columns], rates[common.columns])
        p = ttest_1samp(found["spearman"], 0).pvalue
        row = " | ".join(f"{value:+.2f}" for value in found["spearman"])
        print(f"| {name} | {row} | {found['spearman'].mean():+.3f} | {p:.2g} | {found['auroc'].mean():.3f} |")
    print("\ngenes called: " + ", ".join(f"{target} {number}" for target, number in found["called"].items()))
    print("\n## Towards the knock-out: share of the other genes that shift cells less\n")
    print("| shift | " + " | ".join(targets) + " | mean |")
    print("|---" * (len(targets) + 2) + "|")
    kept = shifts["trained, shift"].index
    for name, table in shifts.items():
        found = places_of_targets(table.reindex(kept))
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in found) + f" | {found.mean():.3f} |")
    print("\n## Strength: over the targets\n")
    strength = (rates < 0.05).sum(axis=1)
    for name, table in tables.items():
        own = table.loc[targets]
        for effect in ("gene_cosine", "cell_cosine"):
            found = spearmanr(1 - own[effect], strength).statistic
            print(f"{name}, 1 - {effect}: Spearman with genes called {found:+.2f} over {len(targets)} targets; "
                  f"beyond random genes {own[f'{effect}_beyond_random'].mean():.2f} (chance 0.50)")  # fmt: skip
        print(f"{name}: {checks[name]}")
    print(f"expression of the target: {spearmanr(level.iloc[0][targets], strength).statistic:+.2f}")


if __name__ == "__main__":
    main()
