"""Medians over one's own files make a tokenizer, whose vocabulary and former medians are kept as one says."""

import re

import anndata as ad
import numpy as np
import pytest
from transformers import AutoTokenizer

from state_hf import GeneformerTokenizer, fit_medians
from state_hf.cli import main
from state_hf.data.corpus.nonzero_medians import NonzeroMedians
from state_hf.pipelines import medians as pipeline
from tests.corpus_files import GENES, write_corpus
from tests.geneformer_models import dictionaries
from tests.tiny_models import save_state_embedding


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def at_once(folder) -> dict[str, float]:
    """Medians from all of the files' values, in memory."""
    values: dict[str, list[np.ndarray]] = {}
    for name in ("one", "two", "three"):
        cells = ad.read_h5ad(folder / f"{name}.h5ad")
        matrix = cells.X.toarray().astype(np.float64)
        matrix = np.expm1(matrix) if name == "three" else matrix
        shares = (matrix / matrix.sum(axis=1, keepdims=True) * 10_000).astype(np.float32)
        for column, gene in enumerate(cells.var_names):
            values.setdefault(gene, []).append(shares[:, column][shares[:, column] > 0])
    return {gene: float(np.median(np.concatenate(parts).astype(np.float64))) for gene, parts in values.items()}


def test_a_new_tokenizer_has_the_genes_and_medians_of_the_files(manifest, tmp_path):
    fitted = fit_medians(manifest, tmp_path / "out", family="geneformer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert isinstance(tokenizer, GeneformerTokenizer)
    assert tokenizer.genes == sorted([*GENES, "unheard-of"])
    assert dict(zip(tokenizer.genes, tokenizer.medians, strict=True)) == at_once(manifest.parent)
    assert tokenizer.special_ids == {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3}
    assert (fitted.cells, fitted.relative_error) == (216, 0.0)
    assert "216 cells; 41 of 41 genes have a median" in str(fitted)
    encoding = tokenizer.encode_cells(ad.read_h5ad(manifest.parent / "one.h5ad"))
    assert encoding["input_ids"].shape[0] == 70


def given(folder, **medians) -> GeneformerTokenizer:
    genes = [*GENES[::-1], "elsewhere"]
    tokenizer = GeneformerTokenizer(genes, {**dict.fromkeys(genes, 2.0), **medians}, model_max_length=30)
    tokenizer.save_pretrained(folder)
    return tokenizer


def test_a_given_tokenizer_keeps_its_vocabulary_and_former_medians_on_request_alone(manifest, tmp_path):
    former = given(tmp_path / "former", elsewhere=7.5)
    fitted = fit_medians(manifest, tmp_path / "out", tokenizer=tmp_path / "former")
    assert fitted.tokenizer.genes == former.genes
    assert fitted.tokenizer.get_vocab() == former.get_vocab()
    assert np.isnan(fitted.tokenizer.medians[-1])
    merged = fit_medians(manifest, tmp_path / "merged", tokenizer=tmp_path / "former", keep_former=True)
    assert merged.tokenizer.medians[-1] == 7.5
    assert merged.kept == 1
    np.testing.assert_array_equal(merged.tokenizer.medians[:-1], fitted.tokenizer.medians[:-1])
    again = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert (again.model_max_length, again.cell_pooling) == (30, "mean")
    assert "1 former ones were kept" in str(merged)


def test_columns_of_one_gene_are_added_as_the_tokenizer_does(tmp_path):
    tokens, medians = dictionaries("v1")
    genes = [token for token in tokens if not token.startswith("<")]
    counts = np.zeros((3, 4), np.float32)
    counts[:] = [[1, 2, 0, 7], [2, 2, 0, 6], [0, 1, 1, 8]]
    data = ad.AnnData(counts)
    data.var_names = [f"{genes[0]}.1", f"{genes[0]}.2", genes[1], genes[2]]
    data.write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "corpus.csv").write_text("path\ncells.h5ad\n")
    for summed, expected in ((True, 3000.0), (False, 1500.0)):
        tokenizer = GeneformerTokenizer(genes, medians, sum_columns=summed)
        fitted = fit_medians(tmp_path / "corpus.csv", tmp_path / str(summed), tokenizer=tokenizer, min_overlap=0.0)
        assert fitted.tokenizer.medians[0] == expected


def test_genes_of_few_cells_are_left_out(manifest, tmp_path):
    data = ad.read_h5ad(manifest.parent / "one.h5ad")
    counts = data.X.toarray()
    counts[3:, 0] = 0
    data.X = counts
    data.write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "corpus.csv").write_text("path\ncells.h5ad\n")
    fitted = fit_medians(tmp_path / "corpus.csv", tmp_path / "out", family="geneformer", min_cells=5)
    assert data.var_names[0] not in fitted.tokenizer.genes
    assert len(fitted.tokenizer.genes) == 29


def test_a_killed_search_goes_on_to_the_same_medians(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "_BLOCK_CELLS", 16)
    monkeypatch.setattr(pipeline, "_KEPT_CELLS", 40)
    whole = fit_medians(manifest, tmp_path / "whole", family="geneformer")
    add, blocks = NonzeroMedians.add, []

    def stop(self, *arguments, **options):
        blocks.append(self.finished_passes)
        if len(blocks) == 23:
            raise KeyboardInterrupt
        add(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(NonzeroMedians, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            fit_medians(manifest, tmp_path / "out", family="geneformer")
    assert blocks[-1] == 1
    with pytest.raises(FileExistsError, match="an unfinished run lies in"):
        fit_medians(manifest, tmp_path / "out", family="geneformer")
    with pytest.raises(ValueError, match="passes was 3 and is 2"):
        fit_medians(manifest, tmp_path / "out", family="geneformer", passes=2, resume=True)
    with monkeypatch.context() as patch:
        patch.setattr(
            NonzeroMedians, "add", lambda self, *a, **o: (blocks.append(self.finished_passes), add(self, *a, **o))
        )
        again = fit_medians(manifest, tmp_path / "out", family="geneformer", resume=True)
    # Of 3 passes of 16 blocks, those before the last state are not read again.
    assert len(blocks) - 23 < 3 * 16 - 18
    np.testing.assert_array_equal(again.tokenizer.medians, whole.tokenizer.medians)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_the_command(manifest, tmp_path, capsys):
    assert (
        main(["medians", str(manifest), "--family", "geneformer", "--passes", "1", "--output", str(tmp_path / "out")])
        == 0
    )
    printed = capsys.readouterr().out
    assert "relative error: at most 0.0078" in printed
    assert printed.endswith(f"Wrote {tmp_path / 'out'}: a GeneformerTokenizer with 41 genes\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"give the first \(--tokenizer\), or name the family of the second \(--family\)"),
        (["--family", "geneformer", "--passes", "4"], "passes is from 1 to 3"),
        (["--family", "geneformer", "--keep-former"], r"no former medians to keep; give one that has \(--tokenizer\)"),
        (["--family", "state_embedding"], "those whose tokenizers divide by medians are geneformer"),
        (["--family", "geneformer", "--min-cells", "1000"], "no gene is expressed in 1,000 of the 216 cells"),
    ],
)
def test_what_does_not_fit_is_refused(manifest, tmp_path, capsys, words, message):
    assert main(["medians", str(manifest), "--output", str(tmp_path / "out"), *words]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_without_medians_is_refused(manifest, tmp_path):
    save_state_embedding(tmp_path / "se", GENES)
    with pytest.raises(ValueError, match="is a StateEmbeddingTokenizer, which divides by no medians"):
        fit_medians(manifest, tmp_path / "out", tokenizer=tmp_path / "se")


def test_a_copy_without_all_genes_has_no_totals(manifest, tmp_path, capsys):
    save_state_embedding(tmp_path / "se", GENES)
    assert main(["tokenize", str(manifest), "--model", str(tmp_path / "se"), "--output", str(tmp_path / "copy")]) == 0
    words = [
        "medians",
        str(tmp_path / "copy" / "corpus.csv"),
        "--family",
        "geneformer",
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(words) == 2
    assert "the totals of its cells are not known" in capsys.readouterr().err
