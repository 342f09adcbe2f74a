import signal
import time

import numpy as np
import pytest
import torch

import state_hf
from state_hf.cli import main
from state_hf.gene_embeddings.protein_embedder import ProteinEmbedder
from tests.gene_embeddings.conftest import esm_folder, fair_esm
from tests.pipelines.test_embed_command import start

__all__ = ["esm_folder", "fair_esm"]


@pytest.fixture(scope="module")
def fasta(tmp_path_factory):
    generator = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("proteins") / "proteins.fa"
    with path.open("w") as file:
        for number in range(200):
            sequence = "".join(generator.choice(list("ACDEFGHIKLMNPQRSTVWY"), generator.integers(2, 60)))
            file.write(f">P{number} gene_symbol:GENE{number % 150:03d}\n{sequence}\n")
    return path


@pytest.fixture(scope="module")
def table(fasta, esm_folder, tmp_path_factory):
    return state_hf.embed_genes(fasta, esm_folder, output=tmp_path_factory.mktemp("table") / "genes", batch_tokens=500)


def test_the_table(table, esm_folder):
    assert table.genes == tuple(f"GENE{number:03d}" for number in range(150))
    assert table.embeddings.shape == (150, 32)
    record = table.record
    assert (record["model"], record["window"], record["dtype"], record["genes"]) == (
        esm_folder.name,
        1022,
        "float32",
        150,
    )
    assert record["proteins"] == "200 proteins of 150 genes (50 with several)"


def test_chosen_genes_keep_their_order(table, fasta, esm_folder, tmp_path, caplog):
    chosen = state_hf.embed_genes(fasta, esm_folder, output=tmp_path / "genes", genes=["GENE007", "LINC1", "GENE003"])
    assert chosen.genes == ("GENE007", "GENE003")
    torch.testing.assert_close(chosen.embeddings, table.embeddings[[7, 3]], atol=1e-5, rtol=0)
    assert chosen.record["genes_without_protein"] == ["LINC1"]
    with pytest.raises(ValueError, match=r"None of the 1 genes asked for \(ENSG1"):
        state_hf.embed_genes(fasta, esm_folder, output=tmp_path / "none", genes=["ENSG1"])


def test_an_interrupted_run_goes_on(table, fasta, esm_folder, tmp_path, monkeypatch):
    output = tmp_path / "genes"
    embed, blocks = ProteinEmbedder.embed, []

    def interrupted(self, isoforms, progress):
        if len(blocks) == 2:
            raise KeyboardInterrupt
        blocks.append(len(isoforms))
        return embed(self, isoforms, progress)

    options = {"output": output, "batch_tokens": 500}
    monkeypatch.setattr(ProteinEmbedder, "embed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        state_hf.embed_genes(fasta, esm_folder, **options)
    monkeypatch.undo()
    assert not output.exists()
    with pytest.raises(FileExistsError, match="unfinished run"):
        state_hf.embed_genes(fasta, esm_folder, **options)
    with pytest.raises(ValueError, match="window was 1022 and is 30"):
        state_hf.embed_genes(fasta, esm_folder, **options, window=30, resume=True)
    resumed = state_hf.embed_genes(fasta, esm_folder, **options, resume=True)
    assert torch.equal(resumed.embeddings, table.embeddings)
    assert list(tmp_path.iterdir()) == [output]


def test_a_complete_table_is_kept_or_replaced(fasta, esm_folder, tmp_path):
    options = {"output": tmp_path / "genes", "genes": ["GENE001"]}
    first = state_hf.embed_genes(fasta, esm_folder, **options)
    with pytest.raises(FileExistsError, match="exists already"):
        state_hf.embed_genes(fasta, esm_folder, **options)
    written = (tmp_path / "genes" / "genes.txt").stat().st_mtime_ns
    assert torch.equal(state_hf.embed_genes(fasta, esm_folder, **options, resume=True).embeddings, first.embeddings)
    assert (tmp_path / "genes" / "genes.txt").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match=r"other settings: model_sha256 was .*; dtype was 'float32' and is 'bfloat16'"):
        state_hf.embed_genes(fasta, esm_folder, **options, dtype="bfloat16", resume=True)
    half = state_hf.embed_genes(fasta, esm_folder, **options, dtype="bfloat16", overwrite=True)
    assert not torch.equal(half.embeddings, first.embeddings)
    torch.testing.assert_close(half.embeddings, first.embeddings, atol=0.1, rtol=0.1)


def test_killed_command_resumes_to_the_same_table(table, fasta, esm_folder, tmp_path):
    slow = (
        "import sys, time\n"
        "from state_hf.cli import main\n"
        "from state_hf.gene_embeddings.protein_embedder import ProteinEmbedder\n"
        "embed, done = ProteinEmbedder.embed, []\n"
        "def embed_one_block(*arguments):\n"
        "    time.sleep(600 if done else 0)\n"
        "    done.append(None)\n"
        "    return embed(*arguments)\n"
        "ProteinEmbedder.embed = embed_one_block\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["embed-genes", str(fasta), "--model", str(esm_folder), "--output", str(tmp_path / "genes")]
    arguments += ["--batch-tokens", "500", "--device", "cpu"]
    process = start("-c", slow, *arguments)
    first_block = tmp_path / "genes.partial" / "block_00000000.npy"
    deadline = time.monotonic() + 120
    while not first_block.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    messages = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, messages
    assert not (tmp_path / "genes").exists()
    assert main([*arguments, "--resume"]) == 0
    assert torch.equal(state_hf.load_gene_table(tmp_path / "genes").embeddings, table.embeddings)


def test_two_processes_make_the_same_table(table, fasta, esm_folder, tmp_path):
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--main_process_port", 0]
    command = ["-m", "state_hf", "embed-genes", fasta, "--model", esm_folder, "--output", tmp_path / "genes"]
    process = start(*launch, *command, "--batch-tokens", 500, "--device", "cpu")
    messages = process.communicate(timeout=300)[0]
    assert process.returncode == 0, messages
    assert torch.equal(state_hf.load_gene_table(tmp_path / "genes").embeddings, table.embeddings)


def test_the_command_explains_what_is_wrong(fasta, tmp_path, capsys):
    assert main(["embed-genes", str(fasta), "--model", str(tmp_path / "none"), "--output", str(tmp_path / "x")]) == 2
    assert "none" in capsys.readouterr().err
