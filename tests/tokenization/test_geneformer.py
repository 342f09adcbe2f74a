"""The tokens of both releases are those of the original, and so are those of perturbed cells."""

import numpy as np
import pandas as pd
import pytest
import torch
from tests.geneformer_models import CELLS, COUNTS, FORMER_ID, IDS, dictionaries, expected, lists, ragged

from state_hf import GeneformerTokenizer, resolve_genes
from state_hf.tokenization.gene_aliases import AliasTable
from state_hf.tokenization.geneformer import V2_SPECIAL_IDS


@pytest.fixture(params=["v1", "v2"])
def release(request):
    return request.param


def make(release: str) -> GeneformerTokenizer:
    tokens, medians = dictionaries(release)
    genes = [token for token in tokens if not token.startswith("<")]
    if release == "v1":
        return GeneformerTokenizer(genes, medians, model_max_length=48)
    table = AliasTable(f"alias\tsymbol\tkind\n{FORMER_ID}\tENSG00001170178\tensembl_id\n")
    return GeneformerTokenizer(genes, medians, table, special_ids=V2_SPECIAL_IDS, model_max_length=30)


def test_tokens(release):
    assert lists(make(release).encode_cells(COUNTS, IDS)) == ragged(release)


def test_tokens_cut_at_a_length(release):
    length = int(expected("tokens")["truncate_to"])
    assert lists(make(release).encode_cells(COUNTS, IDS, max_length=length)) == ragged(f"{release}_truncated")


def test_tokens_of_cells_that_pass_a_filter():
    assert lists(make("v1").encode_cells(COUNTS[CELLS["filter_pass"] == 1], IDS)) == ragged("v1_filter_pass")


def test_log1p_of_normalised_counts_has_the_same_tokens(release):
    logs = np.log1p(COUNTS / CELLS["n_counts"][:, None] * 1e4)
    assert lists(make(release).encode_cells(logs, IDS, input_type="log1p")) == ragged(release)


def test_ties_are_in_the_stable_order():
    stored = expected("tokens")
    values = stored["tie_values"].numpy()
    genes = [f"ENSG{row:011}" for row in range(len(values))]
    tokenizer = GeneformerTokenizer(genes, dict.fromkeys(genes, 1.0))
    ids = lists(tokenizer.encode_cells(values[None], genes))[0]
    assert [token - 2 for token in ids] == stored["tie_stable_order"].tolist()


def test_releases_differ_in_frame_pooling_and_columns_of_one_gene():
    one, two = make("v1"), make("v2")
    assert (one.cell_pooling, two.cell_pooling) == ("mean", "first")
    var = pd.DataFrame(index=IDS)
    assert FORMER_ID in resolve_genes(var, one).missing
    assert resolve_genes(var, two).summed == {FORMER_ID: "ENSG00001170178"}


@pytest.mark.parametrize("change", ["delete", "overexpress"])
def test_every_gene_perturbed_alone(change):
    stored, tokenizer = expected("perturbation"), make("v1")
    encoding = tokenizer.encode_cells(COUNTS, IDS)
    for cell in range(3):
        tokens = stored[f"layer0.cell{cell}.{change}.tokens"]
        repeated = {name: value[cell].expand(len(tokens), -1) for name, value in encoding.items()}
        changed = lists(tokenizer.set_genes(repeated, tokens[:, None] - tokenizer.first_gene_id, change))
        original = stored[f"cell{cell}.tokens"].tolist()
        for token, ids in zip(tokens.tolist(), changed, strict=True):
            others = [other for other in original if other != token]
            assert ids == (others if change == "delete" else [token, *others])


def test_an_absent_gene_makes_an_overexpressed_cell_one_longer():
    stored, tokenizer = expected("perturbation"), make("v1")
    token = int(stored["listed_partly_absent.token"])
    encoding = tokenizer.encode_cells(COUNTS[:3], IDS)
    changed = tokenizer.set_genes(encoding, [token - tokenizer.first_gene_id], "overexpress")
    before, after = lists(encoding), lists(changed)
    assert [len(new) - len(old) for old, new in zip(before, after, strict=True)] == [
        int(token not in c) for c in before
    ]
    assert any(token not in cell for cell in before)
    assert all(cell[0] == token for cell in after)


def test_rows_of_tokens(release):
    tokenizer = make(release)
    encoding = tokenizer.encode_cells(COUNTS, IDS)
    rows = tokenizer.gene_rows(encoding)
    assert torch.equal(rows >= 0, encoding["input_ids"] >= tokenizer.first_gene_id)
    assert [tokenizer.genes[row] for row in rows[0].tolist() if row >= 0] == tokenizer.decode_cells(
        encoding["input_ids"]
    )[0]


def test_only_known_poolings():
    with pytest.raises(ValueError, match="cell_pooling is 'last'; it has to be 'mean' or 'first'"):
        GeneformerTokenizer(["ENSG00000000001"], {"ENSG00000000001": 1.0}, cell_pooling="last")
