"""A corpus of files: every cell once a pass, in an order of its own, whoever reads it."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from state_hf import CellCorpus
from state_hf.data.corpus.corpus_manifest import read_manifest
from state_hf.data.corpus.corpus_order import CorpusOrder
from tests.corpus_files import GENES, SIZES, cells, tokenizer, write_corpus

ORDER = {"block_cells": 8, "window_cells": 24, "lanes": 4, "lane_run": 4}
TOTAL = sum(SIZES.values())


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def corpus(manifest):
    return CellCorpus(manifest, tokenizer(), **ORDER, seed=3)


def names(parts) -> list[tuple[str, int]]:
    """(dataset, cell) by position."""
    found = [
        (position, part.source.file.dataset, cell)
        for part in parts
        for position, cell in zip(part.positions.tolist(), part.cells.tolist(), strict=True)
    ]
    return [(dataset, cell) for _, dataset, cell in sorted(found)]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    window=st.integers(1, 5),
    lanes=st.integers(1, 7),
    run=st.integers(1, 4),
    epoch=st.integers(0, 2),
)
def test_every_cell_has_one_position_in_a_pass(sizes, window, lanes, run, epoch):
    sizes = np.array(sizes)
    order = CorpusOrder(np.cumsum(sizes) - sizes, sizes, window_cells=window * run, lanes=lanes, lane_run=run, seed=1)
    seen = []
    for position in range(epoch * order.num_cells, (epoch + 1) * order.num_cells):
        found, lane, place = order.locate(position)
        assert found == epoch
        assert order.position(epoch, lane, place) == position
        number, inside = divmod(place, order.window_cells)
        cells_of_window = np.concatenate(
            [np.arange(first, first + size) for first, size in order.window(epoch, lane, number)]
        )
        shuffled = order.shuffle(epoch, lane, number, cells_of_window % 3, len(cells_of_window))
        seen.append(cells_of_window[shuffled[inside]])
    assert sorted(seen) == list(range(order.num_cells))


def test_a_pass_gives_every_cell_once_and_the_next_another_order(corpus):
    first = names(corpus.__getitems__(range(TOTAL)))
    second = names(corpus.__getitems__(range(TOTAL, 2 * TOTAL)))
    assert (
        sorted(first) == sorted(second) == sorted((name, cell) for name, size in SIZES.items() for cell in range(size))
    )
    assert first != second
    # Shuffled: cells that are neighbours in a file are seldom neighbours here.
    assert sum(one[0] == other[0] and other[1] - one[1] == 1 for one, other in itertools.pairwise(first)) < 20


def test_a_position_does_not_depend_on_the_reader(manifest, corpus):
    alone = CellCorpus(manifest, tokenizer(), **ORDER, seed=3)
    batches = [names(alone.__getitems__(range(start, min(start + 7, TOTAL)))) for start in reversed(range(0, TOTAL, 7))]
    assert [name for batch in reversed(batches) for name in batch] == names(corpus.__getitems__(range(TOTAL)))


def test_workers_read_the_same_cells(corpus):
    loader = DataLoader(corpus, batch_size=9, num_workers=2, collate_fn=names, sampler=range(TOTAL))
    assert [name for batch in loader for name in batch] == names(corpus.__getitems__(range(TOTAL)))


def test_the_values_and_genes_are_the_files(manifest, corpus):
    import anndata as ad

    for part in corpus.__getitems__(range(0, 40)):
        data = ad.read_h5ad(part.source.file.path)
        np.testing.assert_array_equal(part.counts.toarray(), data.X[part.cells].toarray())
        known = part.source.genes.columns >= 0
        assert [GENES[row] for row in part.source.genes.columns[known]] == data.var_names[known].tolist()


def test_a_split_shares_no_cell(corpus):
    rest, held = corpus.split(0.25, seed=1)
    both = names(rest.__getitems__(range(len(rest)))), names(held.__getitems__(range(len(held))))
    assert len(rest) + len(held) == TOTAL
    assert not set(both[0]) & set(both[1])
    assert 0 < len(corpus.split(1e-6)[1]) <= max(corpus.order.block_sizes)
    for share in (0.0, 0.9999):
        with pytest.raises(ValueError, match=f"A share of {share} cannot be held out of {TOTAL} cells"):
            corpus.split(share)


def test_runs_of_similar_length(manifest):
    grouped = CellCorpus(manifest, tokenizer(), **ORDER, group_by_length=True)
    plain = CellCorpus(manifest, tokenizer(), **ORDER)

    def spread(corpus):
        runs = [np.concatenate([np.diff(part.counts.indptr) for part in corpus.__getitems__(range(start, start + 4))])
                for start in range(0, TOTAL - 8, 4)]  # fmt: skip
        return np.mean([run.max() - run.min() for run in runs])

    assert spread(grouped) < 0.6 * spread(plain)
    assert sorted(names(grouped.__getitems__(range(TOTAL)))) == sorted(names(plain.__getitems__(range(TOTAL))))


def test_the_cache_stands_in_for_the_files_until_they_change(manifest, tmp_path, monkeypatch):
    kept = CellCorpus(manifest, tokenizer(), cache=tmp_path)
    monkeypatch.setattr(
        "state_hf.data.corpus.corpus_files.resolve_genes", lambda *a, **k: pytest.fail("looked up again")
    )
    again = CellCorpus(manifest, tokenizer(), cache=tmp_path)
    for one, other in zip(kept.files, again.files, strict=True):
        np.testing.assert_array_equal(one.genes.columns, other.genes.columns)
        assert one.genes.names == other.genes.names


def test_a_view_for_datasets(corpus):
    rows = list(corpus.to_iterable_dataset())
    assert sorted((row["dataset"], row["cell"]) for row in rows) == sorted(names(corpus.__getitems__(range(TOTAL))))
    assert all(np.all(np.diff(row["values"]) <= 0) for row in rows)
    by_position = {row["position"]: (row["dataset"], row["cell"]) for row in rows}
    assert [by_position[position] for position in range(TOTAL)] == names(corpus.__getitems__(range(TOTAL)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file\na.h5ad\n", "unknown column 'file'"),
        ("path,scale\na.h5ad,raw\n", "line 2: the scale is 'raw'"),
        ("path\na.h5ad\na.h5ad\n", "names .*a.h5ad twice"),
        ("path\n", "names no files"),
    ],
)
def test_wrong_manifests(tmp_path, text, message):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path / "m.csv")


def test_files_that_cannot_be_used_are_named(tmp_path):
    cells(0, 10, [f"X{n}" for n in range(40)]).write_h5ad(tmp_path / "foreign.h5ad")
    cells(0, 10, GENES).write_h5ad(tmp_path / "scaled.h5ad")
    for name, scale, message in (
        ("foreign", "counts", "foreign.h5ad: Only 0 of"),
        ("scaled", "log1p", "scaled.h5ad: The values are said to be log1p"),
    ):
        (tmp_path / "m.csv").write_text(f"path,scale\n{name}.h5ad,{scale}\n")
        with pytest.raises(ValueError, match=message):
            CellCorpus(tmp_path / "m.csv", tokenizer())
