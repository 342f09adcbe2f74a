"""Cells tokenized to disk are the cells that the tokenizer gives, in any order and batch."""

import numpy as np
import pytest
import torch
from tests.corpus_files import GENES, cells, tokenizer

from state_hf.data.cells.open_cells import open_cells
from state_hf.tokenization.gene_names import resolve_genes
from state_hf.training.encoded_cells import EncodedCells, encode_to_disk


@pytest.mark.parametrize("fill", ["none", "seeded"])
def test_batches_are_what_the_tokenizer_gives(tmp_path, fill):
    data, words = cells(0, 50, GENES), tokenizer()
    with open_cells(data).expression() as opened:
        genes = resolve_genes(opened.var, words)
        encode_to_disk(tmp_path / "cells", opened, words, genes, input_type="counts", max_length=20, fill=fill)
    part = EncodedCells(tmp_path / "cells", [9, 3, 40], np.array([1, 0, 1]))
    batch = part.__getitems__([2, 0])
    expected = words.encode_cells(data[[40, 9]], fill=fill)
    assert torch.equal(batch.pop("labels"), torch.tensor([1, 1]))
    assert set(batch) == set(expected)
    for name in batch:
        assert torch.equal(batch[name], expected[name]), name
    assert part.lengths.tolist() == words.encode_cells(data[[9, 3, 40]], fill=fill)["attention_mask"].sum(1).tolist()
    assert EncodedCells.is_complete(tmp_path / "cells")
    assert torch.equal(part[1]["labels"], torch.tensor(0))


def test_some_cells_with_classes_of_their_tokens(tmp_path):
    data, words = cells(0, 1100, GENES), tokenizer()
    rows = np.array([3, 510, 511, 512, 1099])
    with open_cells(data).expression() as opened:
        genes = resolve_genes(opened.var, words)
        options = {"input_type": "counts", "max_length": 20, "fill": "seeded"}
        encode_to_disk(tmp_path / "some", opened, words, genes, rows=rows, **options)
        encode_to_disk(tmp_path / "all", opened, words, genes, **options)
    some, whole = EncodedCells(tmp_path / "some", np.arange(5)), EncodedCells(tmp_path / "all", rows)
    # What is drawn for a cell depends on its place in the file, whichever cells are kept.
    for name, values in some.__getitems__(range(5)).items():
        assert torch.equal(values, whole.__getitems__(range(5))[name]), name
    ids = some.__getitems__(range(5))["input_ids"]
    number = int(ids.max()) + 3
    counts = some.cells_of_tokens(number)
    assert counts.tolist() == [int((ids == token).any(dim=1).sum()) for token in range(number)]
    token = int(ids[0, 5])
    assert some.holding(np.array([token])).tolist() == (ids == token).any(dim=1).tolist()
    labels = np.full(number, -100)
    labels[token] = 1
    batch = EncodedCells(tmp_path / "some", [0, 4], token_labels=labels).__getitems__([0, 1])
    assert torch.equal(batch["labels"] == 1, batch["input_ids"] == token)
    assert set(batch["labels"].unique().tolist()) <= {-100, 1}


def test_what_an_interrupted_call_left_is_made_anew_and_what_is_complete_stays(tmp_path):
    data, words = cells(0, 30, GENES), tokenizer()
    with open_cells(data).expression() as opened:
        genes = resolve_genes(opened.var, words)
        options = {"input_type": "counts", "max_length": 20, "fill": "none"}
        encode_to_disk(tmp_path / "whole", opened, words, genes, **options)
        (tmp_path / "cut").mkdir()
        (tmp_path / "cut" / "input_ids.bin").write_bytes(b"half of a cell")
        encode_to_disk(tmp_path / "cut", opened, words, genes, **options)
        for name in ("input_ids.bin", "encoded.json", "starts.npy"):
            assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
        before = (tmp_path / "whole" / "input_ids.bin").stat().st_mtime_ns
        encode_to_disk(tmp_path / "whole", opened, words, genes, **options)
        assert (tmp_path / "whole" / "input_ids.bin").stat().st_mtime_ns == before
