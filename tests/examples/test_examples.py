"""The examples, run on tiny data as a user runs them."""

import re
import runpy
import sys
from pathlib import Path

import anndata
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForPreTraining, AutoProcessor, AutoTokenizer

import state_hf
from state_hf import StateTransitionForPerturbation, generate_screen, load_gene_table
from tests import cell2sentence_models
from tests.conversion.conftest import STATE_TRANSITION
from tests.corpus_files import GENES, write_corpus
from tests.geneformer_models import COUNTS, FOLDER, IDS, ragged
from tests.tiny_models import state_transition_model

EXAMPLES = Path(__file__).parents[2] / "examples"
TRAINING = {"max_steps": 2, "use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}


def run(monkeypatch, name, **options):
    words = []
    for option, value in options.items():
        words += [f"--{option}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    script = str(EXAMPLES / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [script, *words])
    runpy.run_path(script, run_name="__main__")


def test_embed_cells(monkeypatch, tmp_path, embedding_folder, cells, capsys):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    output = tmp_path / "embedded.h5ad"
    run(monkeypatch, "embed_cells", cells=tmp_path / "cells.h5ad", model_name_or_path=embedding_folder, output=output)
    assert "60 cells x 18 in obsm['X_state']" in capsys.readouterr().out
    assert anndata.read_h5ad(output).obsm["X_state"].shape == (60, 18)


def test_pretrain_geneformer(monkeypatch, tmp_path, capsys):
    manifest = write_corpus(tmp_path)
    (tmp_path / "genes.csv").write_text(
        "gene,label\n" + "".join(f"{gene},{gene[-1] in '02468'}\n" for gene in GENES[:20])
    )
    run(
        monkeypatch,
        "pretrain_geneformer",
        manifest=manifest,
        cells=tmp_path / "one.h5ad",
        folder=tmp_path / "out",
        gene_labels=tmp_path / "genes.csv",
        steps=2,
        hidden_size=16,
        layers=2,
        tokens=24,
        use_cpu=True,
    )
    printed = capsys.readouterr().out
    assert "216 cells; 41 of 41 genes have a median" in printed
    assert float(re.search(r"held-out cells: (\d+\.\d+)", printed)[1]) > 0
    assert "genes: False 10, True 10; 2 folds, 70 cells" in printed
    assert anndata.read_h5ad(tmp_path / "out" / "embedded.h5ad").obsm["X_geneformer"].shape == (70, 16)


def test_perturb_geneformer(monkeypatch, tmp_path, capsys):
    cells = anndata.AnnData(COUNTS.astype("float32"), var=pd.DataFrame(index=IDS))
    cells.write_h5ad(tmp_path / "cells.h5ad")
    run(
        monkeypatch,
        "perturb_geneformer",
        checkpoint=FOLDER / "v1" / "model",
        dictionaries=FOLDER / "v1",
        cells=tmp_path / "cells.h5ad",
        model=tmp_path / "model",
        output=tmp_path / "embedded.h5ad",
        genes=3,
    )
    assert anndata.read_h5ad(tmp_path / "embedded.h5ad").obsm["X_geneformer"].shape == (6, 24)
    printed = re.findall(r"without (ENSG\d+): cosine (0\.\d+)", capsys.readouterr().out)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert [gene for gene, _ in printed] == tokenizer.decode_cells([ragged("v1")[0]])[0][:3]
    assert len({cosine for _, cosine in printed}) == 3


@pytest.mark.parametrize("rank", [0, 2])
def test_finetune_cell2sentence(monkeypatch, tmp_path, capsys, rank):
    if rank:
        pytest.importorskip("peft")
    cell2sentence_models.adata().write_h5ad(tmp_path / "cells.h5ad")
    run(
        monkeypatch,
        "finetune_cell2sentence",
        cells=tmp_path / "cells.h5ad",
        model_name_or_path=cell2sentence_models.MODEL,
        output_dir=tmp_path / "c2s",
        num_genes=10,
        lora_rank=rank,
        **TRAINING,
    )
    assert re.search(r"% of 6 held-out cells are called by their name", capsys.readouterr().out)
    processor = AutoProcessor.from_pretrained(tmp_path / "c2s" / "model")
    assert processor.labels == ["B cell", "T cell", "monocyte"]
    assert (tmp_path / "c2s" / "adapter").exists() == bool(rank)
    before, after = (
        AutoModelForCausalLM.from_pretrained(folder).state_dict()
        for folder in (cell2sentence_models.MODEL, tmp_path / "c2s" / "model")
    )
    assert any(not torch.equal(before[name], after[name]) for name in before)
    embedded = state_hf.embed(cell2sentence_models.adata(), tmp_path / "c2s" / "model")
    assert embedded.obsm["X_cell2sentence"].shape == (30, 24)


def test_annotate_cells(monkeypatch, tmp_path, embedding_folder, cells, capsys):
    pytest.importorskip("sklearn")
    cells[::2].copy().write_h5ad(tmp_path / "reference.h5ad")
    cells[1::2].copy().write_h5ad(tmp_path / "query.h5ad")
    run(
        monkeypatch,
        "annotate_cells",
        reference=tmp_path / "reference.h5ad",
        query=tmp_path / "query.h5ad",
        model_name_or_path=embedding_folder,
        neighbours=5,
        output=tmp_path / "annotated.h5ad",
    )
    annotated = anndata.read_h5ad(tmp_path / "annotated.h5ad")
    # The two types share hardly a gene: even a random model tells most of them apart.
    assert (annotated.obs["model_label"] == annotated.obs["cell_type"]).mean() > 0.8
    assert annotated.obs["model_label_share"].between(0.5, 1).all()
    assert "accuracy on the 30 labelled cells" in capsys.readouterr().out


def test_compute_gene_embeddings(monkeypatch, tmp_path, esm_folder):
    (tmp_path / "proteins.fa").write_text(">TP53\nMKTAYIAKQR\n>LYZ\nMKGG\n>LYZ\nMKGGA\n")
    run(
        monkeypatch,
        "compute_gene_embeddings",
        proteins=tmp_path / "proteins.fa",
        protein_model=esm_folder,
        output_dir=tmp_path / "out",
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    table = load_gene_table(tmp_path / "out" / "genes")
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "out" / "model")
    assert AutoTokenizer.from_pretrained(tmp_path / "out" / "model").genes == ["LYZ", "TP53"]
    assert torch.equal(model.state_embedding.gene_table.weight, table.embeddings)


def test_convert_checkpoint(monkeypatch, tmp_path, hub, capsys):
    output = tmp_path / "st"
    source = STATE_TRANSITION / "llama_causal_rotary"
    (tmp_path / "genes.txt").write_text("".join(f"GENE{number}\n" for number in range(8)))
    options = {"genes": tmp_path / "genes.txt", "repo_id": "someone/st", "private": True}
    run(monkeypatch, "convert_checkpoint", source=source, output_dir=output, **options)
    said = capsys.readouterr().out
    assert "attention: causal" in said
    assert "4 perturbations (KLF1, non-targeting, TP53, GATA1" in said
    assert "pushed: " in said
    loaded = StateTransitionForPerturbation.from_pretrained("someone/st")
    assert loaded.config.is_causal
    assert loaded.vocabulary.genes[0] == "GENE0"


def test_score_submission(monkeypatch, tmp_path, capsys):
    screen = generate_screen(
        num_cell_types=1, num_perturbations=6, num_genes=60, cells_per_perturbation=40, controls=80, seed=0
    )
    for first, name in enumerate(("predicted", "measured")):
        screen[first::2].copy().write_h5ad(tmp_path / f"{name}.h5ad")
    run(
        monkeypatch,
        "score_submission",
        predicted=tmp_path / "predicted.h5ad",
        measured=tmp_path / "measured.h5ad",
        profile="vcc2025",
        perturbation_key="perturbation",
        output_dir=tmp_path / "scores",
    )
    assert "overall" in capsys.readouterr().out
    assert (tmp_path / "scores" / "report.html").is_file()


def test_finetune_and_push(monkeypatch, tmp_path, screen_path, vocabulary, hub, capsys):
    state_transition_model(vocabulary).save_pretrained(tmp_path / "trained")
    run(
        monkeypatch,
        "finetune_and_push",
        screen=screen_path,
        test_cell_types=["type_3"],
        model_name_or_path=tmp_path / "trained",
        output_dir=tmp_path / "tuned",
        repo_id="someone/tuned",
        private=True,
        **TRAINING,
    )
    assert "pushed: " in capsys.readouterr().out
    repository = hub.repositories["models", "someone/tuned"]
    files = repository.commits[repository.branches["main"]]
    assert repository.private
    assert {"model.safetensors", "vocabulary.json", "split.json", "scores.csv"} <= files.keys()
    card = files["README.md"].decode()
    assert "# someone/tuned" in card
    assert "| state_transition |" in card
    scores = pd.read_csv(tmp_path / "tuned" / "scores.csv")
    assert f"value: {scores.set_index('model').loc['state_transition', 'mae']}"[:14] in card
    loaded = StateTransitionForPerturbation.from_pretrained("someone/tuned")
    assert loaded.vocabulary.perturbations == vocabulary.perturbations


def test_lora_state_transition(monkeypatch, tmp_path, screen_path, vocabulary):
    pytest.importorskip("peft")
    model = state_transition_model(vocabulary)
    model.save_pretrained(tmp_path / "trained")
    run(
        monkeypatch,
        "lora_state_transition",
        screen=screen_path,
        model_name_or_path=tmp_path / "trained",
        output_dir=tmp_path / "lora",
        rank=2,
        learning_rate=0.01,
        **TRAINING,
    )
    assert (tmp_path / "lora" / "adapter" / "adapter_model.safetensors").is_file()
    merged = StateTransitionForPerturbation.from_pretrained(tmp_path / "lora" / "model")
    before, after = model.state_dict(), merged.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("self_attn" in name for name in changed)
    assert all("self_attn" in name or "perturbation_encoder" in name for name in changed)


def test_every_example_is_run_here_or_beside():
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parents[1].rglob("test_*.py"))
    missing = [
        path.stem for path in EXAMPLES.glob("*.py") if not path.stem.startswith("demo") and path.stem not in tests
    ]
    assert not missing
