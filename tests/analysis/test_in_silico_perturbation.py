"""What perturbing genes in silico does to cells is what the formulas say, worked out one cell and gene at a time."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel

from state_hf import convert
from state_hf.analysis.gene_perturbations import GenePerturbation
from state_hf.analysis.in_silico_perturbation import (
    InSilicoPerturber,
    StateCentroid,
    mean_gene_states,
    unperturbed_states,
)
from state_hf.inference.cell_encoder import CellEncoder
from tests import cell2sentence_models
from tests.geneformer_models import CELLS, COUNTS, FOLDER, IDS, expected
from tests.tiny_models import GENES, save_state_embedding

# Of single precision, on other processors than that of the golden files.
CLOSE = {"rtol": 0, "atol": 1e-6}


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("perturbed")
    for release in ("v1", "v2"):
        convert(FOLDER / release / "model", folder / release)
    save_state_embedding(folder / "se", hidden_size=16, max_position_embeddings=24)
    return folder


def encoded(encoder, counts=COUNTS, names=IDS):
    return dict(encoder.tokenizer.encode_cells(counts, names, max_length=encoder.length))


def single(encoder, rows):
    return [GenePerturbation(encoder.tokenizer.genes[row], (int(row),)) for row in rows]


def states_of(encoder, number: int) -> dict[str, StateCentroid]:
    """The golden files' states: the mean over the passing cells of each."""
    kept = CELLS["filter_pass"] == 1
    encoding = encoded(encoder)
    with encoder.evaluating():
        states = unperturbed_states(encoder, encoding)
        genes = mean_gene_states(encoder, encoding, states)
    chosen = {name: torch.from_numpy(kept & (CELLS["disease"] == name)) for name in ("start", "goal", "alt")}
    return {name: StateCentroid(genes[cells].mean(dim=0), states.cell[cells].mean(dim=0))
            for name, cells in chosen.items()}  # fmt: skip


# Against the golden files


@pytest.mark.parametrize(("layer", "name"), [(-1, "layer0"), (-2, "layer-1")])
@pytest.mark.parametrize("change", ["delete", "overexpress"])
def test_effects_are_those_of_the_original(converted, layer, name, change):
    stored = expected("perturbation")
    encoder = CellEncoder.from_pretrained(converted / "v1", hidden_layer=layer, batch_size=5)
    centroids = states_of(encoder, layer)
    for state, centroid in centroids.items():
        assert_close(centroid.genes, stored[f"{name}.state_centroid.{state}"], **CLOSE)
    encoding = encoded(encoder)
    everything = single(encoder, range(len(encoder.tokenizer.genes)))
    perturber = InSilicoPerturber(
        encoder, everything, change, centroids=centroids, add_genes=False, affected=np.arange(len(everything))
    )
    with encoder.evaluating():
        effects = perturber.effects(encoding, np.arange(len(COUNTS)))
        alone = [perturber.effects({key: value[cell : cell + 1] for key, value in encoding.items()}, np.array([cell]))
                 for cell in range(3)]  # fmt: skip
    first = encoder.tokenizer.first_gene_id
    shifts = [perturber.effect_names.index(f"shift_to_{state}") for state in ("start", "goal", "alt")]
    for cell in range(3):
        rows = stored[f"{name}.cell{cell}.{change}.tokens"] - first
        found = torch.from_numpy(effects.values[cell, rows])
        assert_close(found[:, 0], stored[f"{name}.cell{cell}.{change}.cell_cos"], **CLOSE)
        assert_close(found[:, shifts], stored[f"{name}.cell{cell}.{change}.state_shift"], **CLOSE)
        # A gene that the cell does not express has no number.
        absent = np.setdiff1d(np.arange(len(everything)), stored[f"cell{cell}.tokens"].numpy() - first)
        assert np.isnan(effects.values[cell, absent]).all()
        original = stored[f"cell{cell}.tokens"] - first
        for at, row in enumerate(rows.tolist()):
            others = original[original != row]
            cosines = torch.from_numpy(alone[cell].gene_cosines[row, others])
            assert_close(cosines.float(), stored[f"{name}.cell{cell}.{change}.gene_cos"][at], **CLOSE)
            assert alone[cell].gene_cells[row].sum() == len(others)


@pytest.mark.parametrize("change", ["delete", "overexpress"])
@pytest.mark.parametrize("which", ["listed_present", "listed_partly_absent"])
def test_a_listed_gene_is_perturbed_in_all_cells(converted, change, which):
    stored = expected("perturbation")
    for layer, name in ((-1, "layer0"), (-2, "layer-1")):
        encoder = CellEncoder.from_pretrained(converted / "v1", hidden_layer=layer)
        row = int(stored[f"{which}.token"]) - encoder.tokenizer.first_gene_id
        perturber = InSilicoPerturber(encoder, single(encoder, [row]), change)
        with encoder.evaluating():
            effects = perturber.effects(encoded(encoder), np.arange(len(COUNTS)))
        checked = 0
        for cell in range(3):
            key = f"{name}.cell{cell}.{which}.{change}.cell_cos"
            if key in stored:
                assert abs(effects.values[cell, 0, 0] - float(stored[key])) < 1e-6
                checked += 1
        assert checked
        lacking = [row + 2 not in stored[f"cell{cell}.tokens"].tolist() for cell in range(3)]
        assert np.isnan(effects.values[:3, 0, 0]).tolist() == [one and change == "delete" for one in lacking]


# By brute force, for every family and change


def brute_force(encoder, encoding, cell, rows, change, level, centroids):
    """The formulas, for one cell: its own forward passes, genes matched by their names."""
    one = {key: value[cell : cell + 1, : int(encoding["attention_mask"][cell].sum())]
           for key, value in encoding.items()}  # fmt: skip
    options = {} if level is None else {"level": level}
    after = dict(encoder.tokenizer.set_genes(one, list(rows), change, max_length=encoder.length, **options))
    sides = []
    for side in (one, after):
        with torch.no_grad():
            states = encoder.states(side, output_genes=True)
        known = encoder.tokenizer.expressed_tokens(side)[0] | torch.isin(states.gene_rows[0], torch.tensor(rows))
        tokens: dict[int, list] = {}
        for at, row in enumerate(states.gene_rows[0].tolist()):
            if known[at] and row not in rows:
                tokens.setdefault(row, []).append(states.genes[0, at].double())
        genes = {row: torch.stack(found) for row, found in tokens.items()}
        sides.append((genes, states.cell[0].double()))
    (old, old_cell), (new, new_cell) = sides
    shared = [row for row in old if row in new]
    cosine = torch.nn.functional.cosine_similarity
    # A gene of several tokens counts once, by the mean of its tokens.
    cosines = {row: float(cosine(old[row], new[row], dim=1).mean()) for row in shared}
    means = [torch.stack([side[row].mean(dim=0) for row in shared]).mean(dim=0) for side in (old, new)]
    numbers = [np.mean(list(cosines.values())), float(cosine(old_cell, new_cell, dim=0)),
               float((new_cell - old_cell).norm())]  # fmt: skip
    for centroid in centroids.values():
        for (before, behind), goal in ((means, centroid.genes), ((old_cell, new_cell), centroid.cell)):
            numbers.append(float(cosine(behind, goal.double(), dim=0) - cosine(before, goal.double(), dim=0)))
    return numbers, cosines, (new_cell - old_cell).numpy()


def any_family(converted, family):
    if family == "c2s":
        model = AutoModel.from_pretrained(cell2sentence_models.MODEL)
        encoder = CellEncoder(model, cell2sentence_models.processor(), batch_size=4)
        return encoder, encoded(encoder, cell2sentence_models.COUNTS[:6], cell2sentence_models.NAMES)
    encoder = CellEncoder.from_pretrained(converted / family, batch_size=4)
    if family == "se":
        counts = np.random.default_rng(0).poisson(0.6, (6, len(GENES)))
        return encoder, encoded(encoder, counts, GENES)
    return encoder, encoded(encoder)


@pytest.mark.parametrize("family", ["v1", "v2", "se", "c2s"])
@pytest.mark.parametrize(
    ("change", "level"),
    [("delete", None), ("overexpress", None), ("inhibit", None), ("activate", None), ("level", 0.4), ("level", 0.0)],
)
def test_every_change_of_every_family_against_brute_force(converted, family, change, level):
    encoder, encoding = any_family(converted, family)
    if change not in encoder.tokenizer.gene_changes:
        with pytest.raises(ValueError, match=f"has no change {change!r}"):
            InSilicoPerturber(encoder, single(encoder, [0]), change, level=level)
        return
    with encoder.evaluating():
        states = unperturbed_states(encoder, encoding)
        centroids = {"goal": StateCentroid(states.genes[0, 1], states.cell[0])}
        genes = encoder.tokenizer.genes
        groups = [(3,), (7,), (11, 5), (20, 8, 14), (len(genes) - 1,)]
        perturbations = [GenePerturbation("+".join(genes[row] for row in rows), rows) for rows in groups]
        perturber = InSilicoPerturber(
            encoder, perturbations, change, level=level, centroids=centroids, affected=np.arange(len(genes))
        )
        effects = perturber.effects(encoding, np.arange(6))
    expressed = encoder.tokenizer.expressed_tokens(encoding)
    displacement = np.zeros((2, len(groups), states.cell.shape[1]))
    cosines, number = np.zeros((2, len(groups), len(genes)))
    for cell in range(6):
        in_cell = set(perturber.tokenizer.gene_rows(encoding)[cell][expressed[cell]].tolist())
        for at, rows in enumerate(groups):
            if change in ("delete", "inhibit") and not in_cell & set(rows):
                assert np.isnan(effects.values[cell, at]).all()
                continue
            numbers, own, moved = brute_force(encoder, encoding, cell, rows, change, level, centroids)
            np.testing.assert_allclose(effects.values[cell, at], numbers, rtol=0, atol=2e-6)
            displacement[cell % 2, at] += moved
            for row, value in own.items():
                cosines[at, row] += value
                number[at, row] += 1
    np.testing.assert_allclose(effects.displacement, displacement, rtol=0, atol=1e-5)
    np.testing.assert_allclose(effects.gene_cosines, cosines, rtol=0, atol=1e-5)
    np.testing.assert_allclose(effects.gene_cells, number, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["v1", "se"])
def test_what_goes_through_the_model_together_changes_nothing(converted, family):
    encoder, encoding = any_family(converted, family)
    results = []
    for size in (1, 3, 64):
        other = CellEncoder(encoder.model, encoder.tokenizer, batch_size=size)
        perturber = InSilicoPerturber(other, single(other, range(20)), "delete")
        with other.evaluating():
            results.append(perturber.effects(encoding, np.arange(6)).values)
    np.testing.assert_allclose(results[0], results[1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(results[0], results[2], rtol=0, atol=1e-6)


def test_a_batch_that_does_not_fit_is_counted_once(converted, monkeypatch):
    encoder, encoding = any_family(converted, "v1")
    perturber = InSilicoPerturber(encoder, single(encoder, range(20)), "delete", affected=np.arange(47))
    with encoder.evaluating():
        whole = perturber.effects(encoding, np.arange(6))
        forward, failed = encoder.states, []

        def states(inputs, **options):
            if len(inputs["input_ids"]) > 2:
                failed.append(1)
                raise RuntimeError("CUDA out of memory.")
            return forward(inputs, **options)

        monkeypatch.setattr(encoder, "states", states)
        halved = perturber.effects(encoding, np.arange(6))
    assert failed
    np.testing.assert_allclose(whole.values, halved.values, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(whole.gene_cells, halved.gene_cells)
    np.testing.assert_array_equal(whole.displaced, halved.displaced)


def test_copies_that_stay_as_they_were_do_not_go_through_the_model(converted, monkeypatch):
    encoder, encoding = any_family(converted, "v1")
    first = [int(row) for row in encoder.tokenizer.gene_rows(encoding)[:, 0]]
    perturber = InSilicoPerturber(encoder, single(encoder, first[:1]), "overexpress")
    calls, forward = [], encoder.states
    monkeypatch.setattr(encoder, "states", lambda inputs, **options: calls.append(len(inputs["input_ids"]))
                        or forward(inputs, **options))  # fmt: skip
    with encoder.evaluating():
        effects = perturber.effects({key: value[:1] for key, value in encoding.items()}, np.arange(1))
    assert sum(calls) == 1
    assert effects.values[0, 0].tolist() == [1, 1, 0]


def test_families_say_what_they_cannot_do(converted):
    encoder, _ = any_family(converted, "v1")
    with pytest.raises(ValueError, match="GeneformerTokenizer has no change 'double': it has delete, overexpress"):
        InSilicoPerturber(encoder, single(encoder, [0]), "double")
