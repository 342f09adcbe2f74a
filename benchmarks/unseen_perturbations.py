"""Predicts perturbations that never trained, by tables of features, on real screens and on one whose truth is known.

WORK=folder PUBLIC_DATA=../shared/data python ../shared/science/prepare.py     # the splits of science.md, once
python benchmarks/unseen_perturbations.py A C generated pairs --work folder --data ../shared/data --seeds 0 1 2

A fifth of the perturbations is held out of all contexts at a time, all in turn, in an order of the seed's. Their mean
cells are predicted from the controls of each context; what is printed are means over (context, perturbation) pairs and
seeds, and how much smaller the mean absolute error is than that of the mean effect of all perturbations, with its
standard error over perturbations, which the seeds share.

"pairs" holds out pairs of perturbations of which both trained alone (K562 of Norman 2019), each in turn.

Tables of features:

- coexpression: of the gene that is perturbed, 20 principal components of its correlations with other genes in other
  cells: PBMC (ECCITE-seq of 2019) for A and C, the screen's own controls for the generated one, where it has nothing to
  do with effects;
- pathways: a table written by hand, from textbooks, for A and C;
- moves, noisy: what the generator made effects of, and that with as much noise as it varies;
- random: 20 random numbers a perturbation, others for every seed.

"none" has no features: "control_copy" is no effect, "perturbation_profile" the mean effect of all perturbations.
"""

import argparse
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import torch
from scipy import sparse

from state_hf import PerturbationBaseline, PerturbationSplit, PerturbationVocabulary, generate_screen, open_screens
from state_hf.data.screens.perturbation_features import feature_table
from state_hf.data.screens.split_definition import SplitDefinition
from state_hf.training.baseline_fitting import fit_baselines
from state_hf.training.profile_scores import score_profiles
from state_hf.training.screen_means import ContextId, ScreenMeans, screen_means

BLIND = ("control_copy", "perturbation_profile", "bilinear", "kernel_ridge", "mixed_effects")
METHODS = ("nearest_perturbation", "bilinear", "kernel_ridge", "mixed_effects")
COMPONENTS, FOLDS = 20, 5
PATHWAYS = {
    "A": {
        "interferon gamma": "IFNGR1 IFNGR2 JAK2 STAT1 IRF1",
        "interferon": "STAT1 STAT2 IRF1 IRF7 UBE2L6 JAK2",
        "STAT": "STAT1 STAT2 STAT3 STAT5A JAK2",
        "TGF beta": "SMAD4",
        "NF-kappa B": "NFKBIA TNFRSF14",
        "transcription factor": "ATF2 ETV7 MYC POU2F2 SPI1 IRF1 IRF7 STAT1 STAT2 STAT3 STAT5A SMAD4",
        "ubiquitin": "CUL3 UBE2L6 MARCH8",
        "chromatin and growth": "BRD4 MYC",
        "surface": "CD86 CMTM6 PDCD1LG2 TNFRSF14 CAV1 IFNGR1 IFNGR2 MARCH8",
    },
    "C": {
        "T-cell receptor": "LCK ZAP70 LAT DOK2 PTPN6 PTPN11",
        "phosphatase": "PTPN6 PTPN11",
        "AP-1": "FOS JUN JUND",
        "EGR": "EGR1 EGR2 EGR3 EGR4",
        "NFAT": "NFATC1 NFAT5",
        "NF-kappa B": "NFKB1 NFKB2 RELA",
        "transcription factor": "EGR1 EGR2 EGR3 EGR4 FOS JUN JUND NFATC1 NFAT5 NFKB1 NFKB2 RELA NR4A1 RUNX2",
        "immediate early": "EGR1 EGR2 EGR3 EGR4 FOS JUN NR4A1",
    },
}


def of_genes(cells: anndata.AnnData, genes: pd.Index) -> pd.DataFrame:
    """Principal components of the correlations between genes of cells with counts, in rows."""
    counts = cells.X.toarray()
    scaled = np.log1p(counts * 1e4 / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    kept = scaled.std(axis=0) > 0
    standardised = (scaled[:, kept] - scaled[:, kept].mean(axis=0)) / scaled[:, kept].std(axis=0)
    _, size, axes = np.linalg.svd(standardised, full_matrices=False)
    return pd.DataFrame((axes[:COMPONENTS].T * size[:COMPONENTS]) / np.sqrt(len(counts)), index=genes[kept])


def generated_screen() -> tuple[anndata.AnnData, dict[str, pd.DataFrame]]:
    """A screen whose truth is known, and tables of features by perturbation."""
    screen = generate_screen(num_perturbations=60, num_genes=400, controls=300, seed=11)
    screen.obs["context"] = screen.obs["cell_type"]
    moves = screen.uns["programme_moves"]
    noise = np.random.default_rng(0).normal(0, moves.to_numpy().std(), moves.shape)
    controls = screen[(screen.obs["perturbation"] == "non-targeting").to_numpy()]
    coexpression = of_genes(controls, screen.var_names).loc[moves.index]
    counts = screen.X.toarray()
    screen.X = sparse.csr_matrix(np.log1p(counts * 1e4 / counts.sum(axis=1, keepdims=True)).astype(np.float32))
    return screen, {"moves": moves, "noisy": moves + noise, "coexpression": coexpression}


def real_screen(name: str, control: str, folder: Path, data: Path) -> tuple[anndata.AnnData, dict[str, pd.DataFrame]]:
    """A screen of science.md, and tables of features by perturbation."""
    screen = anndata.read_h5ad(folder / f"{name}.h5ad")
    screen.X = sparse.csr_matrix(screen.obsm["X_hvg"])
    labels = sorted(set(screen.obs["perturbation"].astype(str)) - {control})
    cells = anndata.read_h5ad(data / "cite_mimitou2019_eccite_pbmc_500.h5ad")
    coexpression = of_genes(cells, pd.Index(cells.var["gene_name"].astype(str)))
    coexpression = coexpression[~coexpression.index.duplicated()]
    if missing := sorted(set(labels) - set(coexpression.index)):
        print(f"{name}: of {missing} nothing is known in the other cells; they have the mean of the others' features")
    coexpression = coexpression.reindex(labels)
    members = {pathway: genes.split() for pathway, genes in PATHWAYS[name].items()}
    rows = [[float(label in genes) for genes in members.values()] for label in labels]
    pathways = pd.DataFrame(rows, index=labels, columns=list(members))
    return screen, {"pathways": pathways, "coexpression": coexpression.fillna(coexpression.mean())}


def folds(
    screen: anndata.AnnData, control: str, seed: int
) -> Iterator[tuple[ScreenMeans, ScreenMeans, PerturbationVocabulary]]:
    """The means that train, those that are held out, and the names."""
    screens = open_screens({"screen": screen}, control=control, cell_type_key="context")
    names = PerturbationVocabulary(screens.perturbations, control, (), screens.cell_types, screen.var_names)
    labels = [label for label in screens.perturbations if label != control]
    present = screen.obs.groupby("context", observed=True)["perturbation"].agg(set)
    for held_out in np.array_split(np.random.default_rng(seed).permutation(labels), FOLDS):
        fewshot = {
            ("screen", str(context)): {"test": sorted(found & set(held_out))} for context, found in present.items()
        }
        split = PerturbationSplit(screens, SplitDefinition(training=("screen",), fewshot=fewshot))
        train, test = (screen_means(screens, split, slot="X", part=part) for part in ("train", "test"))
        yield train, test, names


def fits(
    train: ScreenMeans, names: PerturbationVocabulary, tables: dict[str, pd.DataFrame]
) -> dict[tuple[str, str], PerturbationBaseline]:
    """Models by table of features and method."""
    models = {("none", method): model for method, model in fit_baselines(train, names, methods=BLIND).items()}
    for table, frame in tables.items():
        vectors = dict(zip(frame.index.astype(str), frame.to_numpy(np.float32), strict=True))
        features = feature_table(vectors, names.perturbations, control=names.control_perturbation)
        fitted = fit_baselines(train, names, methods=METHODS, perturbation_features=features)
        models |= {(table, method): model for method, model in fitted.items()}
    return models


def predicted(
    model: PerturbationBaseline, means: ScreenMeans, members: dict[int, list[int]] | None = None
) -> dict[tuple[ContextId, int], np.ndarray]:
    """Mean cells of groups that were held out; of combinations by their members, where these are given."""
    found = {}
    for context, perturbation in means.perturbed:
        control = torch.from_numpy(means.controls[context]).float()[None]
        ids = [perturbation] if members is None else members[perturbation]
        output = model(
            control=control[None], perturbation_ids=torch.tensor([ids]), control_mean=control,
            cell_type_ids=torch.tensor([context[1]]), control_cells=torch.tensor([means.control_cells[context]]),
        )  # fmt: skip
        found[context, perturbation] = output.predicted_cells[0, 0].double().numpy()
    return found


def scores(profiles: dict, means: ScreenMeans, blind: dict) -> tuple[pd.Series, pd.Series]:
    """Scores of one seed, and by how much, by perturbation, errors are smaller than those of other profiles."""
    table = score_profiles("one", profiles, means).loc["one"]
    gains: dict[int, list[float]] = {}
    for group, profile in profiles.items():
        error, other = (np.abs(one - means.perturbed[group]).mean() for one in (profile, blind[group]))
        gains.setdefault(group[1], []).append(other - error)
    return table, pd.Series({perturbation: np.mean(values) for perturbation, values in gains.items()})


def pairs(data: Path) -> pd.DataFrame:
    """Scores of pairs of K562 cells of which both members trained, each pair held out in turn."""
    screen = anndata.read_h5ad(data / "perturb_norman19_mcfaline23_4lines.h5ad")
    screen = screen[(screen.obs["cell_line"] == "K562").to_numpy()].copy()
    counts = np.asarray(screen.layers["counts"].toarray())
    screen.X = sparse.csr_matrix(np.log1p(counts * 1e4 / counts.sum(axis=1, keepdims=True)).astype(np.float32))
    screens = open_screens(
        {"screen": screen}, perturbation_key="condition", control="control", cell_type_key="cell_line"
    )
    names = PerturbationVocabulary(screens.perturbations, "control", (), screens.cell_types, screen.var_names)
    found = [name for name in screens.perturbations if set(name.split("+")) <= {*screens.perturbations} and "+" in name]
    members = {names.perturbation_id(name): names.perturbation_ids(name.split("+")) for name in found}
    profiles: dict[str, dict] = {}
    seen = ScreenMeans({}, {}, {}, {}, {})
    for name, (pair, own) in zip(found, members.items(), strict=True):
        split = PerturbationSplit(
            screens, SplitDefinition(training=("screen",), fewshot={("screen", "K562"): {"test": [name]}})
        )
        train, test = (screen_means(screens, split, slot="X", part=part) for part in ("train", "test"))
        (context,) = train.controls
        control, shifts = train.controls[context], {number: shift for (_, number), shift in train.shifts().items()}
        others = [(other, both) for other, both in members.items() if other != pair]
        sums = np.concatenate([shifts[one] + shifts[two] for _, (one, two) in others])
        slope = sums @ np.concatenate([shifts[other] for other, _ in others]) / (sums @ sums)
        by_name = {
            "no effect": control,
            "mean effect of all": control + np.mean(list(shifts.values()), axis=0),
            "mean effect of pairs": control + np.mean([shifts[other] for other, _ in others], axis=0),
            "sum, times what other pairs show of theirs": control + slope * (shifts[own[0]] + shifts[own[1]]),
        }
        seen.controls.update(test.controls)
        seen.perturbed.update(test.perturbed)
        for row, profile in by_name.items():
            # A little apart, so that no effect has a direction.
            profiles.setdefault(row, {})[context, pair] = np.maximum(profile, 0) + 1e-9 * np.arange(len(profile))
        for method, model in fit_baselines(train, names, methods=BLIND[1:]).items():
            profiles.setdefault(f"{method}, sum", {}).update(predicted(model, test, members))
    rows = {}
    for row, cells in profiles.items():
        table, gains = scores(cells, seen, profiles["mean effect of all"])
        rows[row] = with_gains(table, gains)
    return pd.DataFrame(rows).T


def with_gains(table: pd.Series, gains: pd.Series) -> dict[str, float]:
    """A row of the printed tables."""
    told = table[["mae", "pearson_delta", "discrimination"]]
    return {**told, "gain in mae": gains.mean(), "± over perturbations": gains.std() / np.sqrt(len(gains))}


def main() -> None:
    """Hold perturbations out, predict them, and print a table for every screen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("screens", nargs="+", help="A, C, generated or pairs")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("state_hf").setLevel(logging.ERROR)
    for name in arguments.screens:
        if name == "pairs":
            print(f"\npairs\n{pairs(arguments.data).round(4).to_string()}", flush=True)
            continue
        control = "non-targeting"
        if name == "generated":
            screen, tables = generated_screen()
        else:
            control = json.loads((arguments.work / "splits.json").read_text(encoding="utf-8"))[name]["control"]
            screen, tables = real_screen(name, control, arguments.work, arguments.data)
        found: dict[tuple[str, str], list] = {}
        for seed in arguments.seeds:
            index = next(iter(tables.values())).index
            drawn = np.random.default_rng(seed).normal(size=(len(index), COMPONENTS))
            profiles: dict[tuple[str, str], dict] = {}
            seen = ScreenMeans({}, {}, {}, {}, {})
            for train, test, names in folds(screen, control, seed):
                seen.controls.update(test.controls)
                seen.perturbed.update(test.perturbed)
                models = fits(train, names, {**tables, "random": pd.DataFrame(drawn, index=index)})
                for key, model in models.items():
                    profiles.setdefault(key, {}).update(predicted(model, test))
            for key, cells in profiles.items():
                found.setdefault(key, []).append(scores(cells, seen, profiles["none", "perturbation_profile"]))
        rows = {}
        for key, values in found.items():
            gains = pd.concat([gain for _, gain in values], axis=1).mean(axis=1)
            means = pd.concat([table for table, _ in values], axis=1).mean(axis=1)
            rows[key] = with_gains(means, gains)
        print(f"\n{name}\n{pd.DataFrame(rows).T.round(4).to_string()}", flush=True)


if __name__ == "__main__":
    main()
