import pytest
import torch

from state_hf import (
    GeneTable,
    StateEmbeddingForMaskedExpression,
    StateEmbeddingTokenizer,
    extend_gene_table,
)
from state_hf.cli import main
from tests.tiny_models import state_embedding_config

GENES = [f"GENE{number}" for number in range(12)]


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = state_embedding_config(len(GENES), gene_embedding_dim=6)
    return StateEmbeddingForMaskedExpression(config).eval()


@pytest.fixture
def tokenizer(tmp_path):
    aliases = tmp_path / "gene_aliases.tsv"
    aliases.write_text("alias\tsymbol\nOLD\tGENE3\nNEWER\tMOUSE1\n")
    return StateEmbeddingTokenizer(GENES, str(aliases), model_max_length=8)


@pytest.fixture
def table():
    return GeneTable(["MOUSE1", "GENE3", "MOUSE2"], torch.randn(3, 6, generator=torch.Generator().manual_seed(1)))


def test_new_genes_are_added_and_nothing_else_changes(model, tokenizer, table):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sentence = {"input_ids": torch.tensor([[12, 3, 5, 1]]), "expression": torch.rand(1, 4)}
    with torch.no_grad():
        embedded = model.state_embedding(**sentence).embedding
    extended = extend_gene_table(model, tokenizer, table)
    assert extended.genes == [*GENES, "MOUSE1", "MOUSE2"]
    assert model.config.num_genes == 14
    after = model.state_dict()
    rows = after.pop("state_embedding.gene_table.weight")
    assert torch.equal(rows[:12], before.pop("state_embedding.gene_table.weight"))
    assert torch.equal(rows[12:], table.embeddings[[0, 2]])
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    sentence["input_ids"][0, 0] = extended.cls_token_id
    with torch.no_grad():
        assert torch.equal(model.state_embedding(**sentence).embedding, embedded)


def test_aliases_still_count(model, tokenizer, table):
    extended = extend_gene_table(model, tokenizer, table)
    assert extended.convert_tokens_to_ids(["OLD", "NEWER", "[CLS]", "[PAD]"]) == [3, 12, 14, 15]
    assert (extended.cls_expression, extended.fill) == (tokenizer.cls_expression, tokenizer.fill)
    assert extended.model_max_length == 8


def test_another_species_takes_the_place_of_the_first(model, tokenizer, table):
    extended = extend_gene_table(model, tokenizer, table, replace=True)
    assert extended.genes == ["MOUSE1", "GENE3", "MOUSE2"]
    assert torch.equal(model.state_embedding.gene_table.weight, table.embeddings)
    assert not model.state_embedding.gene_table.weight.requires_grad


def test_tables_that_do_not_fit_are_refused(model, tokenizer, table):
    with pytest.raises(ValueError, match="width 5, but the model reads 6"):
        extend_gene_table(model, tokenizer, GeneTable(["X"], torch.zeros(1, 5)))
    with pytest.raises(ValueError, match="knows all of the table's 1 genes"):
        extend_gene_table(model, tokenizer, table.select(["GENE3"]))
    with pytest.raises(ValueError, match="tokenizer knows 2 genes, but the model 12"):
        extend_gene_table(model, StateEmbeddingTokenizer(["A", "B"]), table)


@pytest.mark.parametrize("with_heads", [True, False])
def test_command(with_heads, model, tokenizer, table, tmp_path, capsys):
    saved = model if with_heads else model.state_embedding
    saved.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    table.save_pretrained(tmp_path / "genes")
    arguments = ["genes", "extend", str(tmp_path / "model"), str(tmp_path / "genes"), "--output", str(tmp_path / "new")]
    assert main(arguments) == 0
    assert "14 genes; the model had 12" in capsys.readouterr().out
    loaded, info = type(saved).from_pretrained(tmp_path / "new", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert loaded.config.num_genes == 14
    assert StateEmbeddingTokenizer.from_pretrained(tmp_path / "new").vocab_size == 14
    assert main(arguments) == 2
