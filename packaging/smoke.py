"""Run the installed `state-hf` as a user does: every command's help, and small real runs, in an empty folder, offline.

    python packaging/smoke.py        # the state-hf beside this interpreter

`check.py` calls it in an environment that holds the wheel alone.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": "hf", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
COMMAND = Path(sys.executable).with_name("state-hf")

MAKE_FILES = """
import torch
import state_hf

screen = state_hf.generate_screen(
    num_cell_types=2, num_perturbations=6, num_genes=120, cells_per_perturbation=24, controls=60, depth=4000
)
screen.write_h5ad("counts.h5ad")
genes = list(screen.var_names)
config = state_hf.StateEmbeddingConfig(
    num_genes=len(genes), gene_embedding_dim=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=16, output_dim=8, num_datasets=2, max_position_embeddings=32,
)
torch.manual_seed(0)
state_hf.StateEmbeddingForMaskedExpression(config).save_pretrained("se")
state_hf.StateEmbeddingTokenizer(genes, model_max_length=32).save_pretrained("se")
with open("manifest.csv", "w") as file:
    file.write("path\\ncounts.h5ad\\n")
with open("genes.csv", "w") as file:
    file.write("\\n".join(genes) + "\\n")
"""

SMALL = "--hidden-size 16 --num-hidden-layers 1 --num-attention-heads 2 --intermediate-size 16"

RUNS = (
    "embed counts.h5ad --model se --output embedded.h5ad",
    "annotate counts.h5ad --model se --reference counts.h5ad --output labels.csv",
    "finetune counts.h5ad --model se --epochs 1 --device cpu --output classifier",
    "corpus manifest.csv --model se",
    "tokenize manifest.csv --model se --output tokens",
    f"pretrain manifest.csv {SMALL} --sentence-length 32 --expressed 8 --unexpressed 8 --shared 8 --batch-size 16 "
    "--steps 2 --held-out 0.3 --device cpu --output pretrained",
    "preprocess counts.h5ad --output screen.h5ad --num-variable-genes 60 --keep-counts",
    f"train screen.h5ad --feature-key X_hvg --test-cell-types type_2 {SMALL} --set-size 8 --steps 2 --device cpu "
    "--config use_perturbation_offsets=false --output st",
    "predict screen.h5ad --model st --output predicted.h5ad",
    "evaluate counts.h5ad counts.h5ad --baseline mean --output scores --report report.html",
    "evaluate counts.h5ad counts.h5ad --profile vcc2026 --cell-type-key cell_type",
    "inspect st",
    "convert st run --to arc",
    "convert run st-again",
    "convert se se.ckpt --to arc",
    "convert se.ckpt se-again",
    "prep counts.h5ad --genes genes.csv --rules 2026",
)

IMPORTS_ONLY_WHAT_IS_THERE = """
import evaluate, state_hf
for name in state_hf.__all__:
    getattr(state_hf, name)
for name in ("virtual_cell_challenge", "perturbation_discrimination", "differential_expression", "expression_error"):
    evaluate.load(state_hf.metric_path(name))
"""


def run(*arguments: str | Path, status: int = 0) -> str:
    """What a program prints. Ends the test if it fails, or prints a traceback."""
    started = time.monotonic()
    done = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    shown = " ".join(str(argument) for argument in arguments[1:] if "\n" not in str(argument))
    print(f"{time.monotonic() - started:6.1f} s  {Path(arguments[0]).name} {shown}", flush=True)
    if done.returncode != status or "Traceback" in done.stderr:
        sys.exit(f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def commands(usage: str) -> Sequence[str]:
    """Names of the commands that the usage lists."""
    return [line.split()[0] for line in usage.partition("commands:")[2].splitlines() if line.startswith("  ")]


def main() -> None:
    """Run everything."""
    print(run(COMMAND, "--version").strip(), "on Python", sys.version.split()[0])
    names = commands(run(COMMAND, "--help"))
    used = {words.split()[0] for words in RUNS} | {"doctor", "embed-genes", "genes", "push"}
    if set(names) != used:
        sys.exit(f"commands that this test does not run: {sorted(set(names) ^ used)}")
    for name in names:
        if f"usage: state-hf {name}" not in run(COMMAND, name, "--help"):
            sys.exit(f"the help of {name} does not describe it")
    print(run(COMMAND, "doctor"))
    run(sys.executable, "-I", "-c", IMPORTS_ONLY_WHAT_IS_THERE)
    run(sys.executable, "-I", "-c", MAKE_FILES)
    for words in RUNS:
        run(COMMAND, *words.split())
    print("every command runs")


if __name__ == "__main__":
    main()
