"""Cell2Sentence as its original has it: a tiny language model, cells, and what was written and computed."""

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from safetensors.torch import load_file
from transformers import AutoTokenizer

from state_hf import Cell2SentenceProcessor

FOLDER = Path(__file__).parent / "fixtures" / "cell2sentence"
MODEL = FOLDER / "model"
CELLS = np.load(FOLDER / "counts.npz")
COUNTS, NAMES, TYPES = CELLS["counts"], CELLS["gene_names"].tolist(), CELLS["cell_type"].tolist()
TEXT = json.loads((FOLDER / "expected" / "text.json").read_text(encoding="utf-8"))
# How many genes its prompts have at most.
TOP = 7
# As the original writes prompts and responses.
AS_THE_ORIGINAL = {"response_separator": "", "states_requested": True}


def expected(name: str) -> dict:
    return load_file(FOLDER / "expected" / f"{name}.safetensors")


def ragged(task: str, name: str) -> list[list[int]]:
    stored = expected("tokenized")
    lengths = stored[f"{task}.{name.split('.')[0]}.lengths"].tolist()
    return [part.tolist() for part in stored[f"{task}.{name}.flat"].split(lengths)]


def processor(**options) -> Cell2SentenceProcessor:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    return Cell2SentenceProcessor(tokenizer, NAMES, **{"num_genes": TOP, **options})


def adata() -> anndata.AnnData:
    obs = pd.DataFrame({"cell_type": TYPES}, index=[f"c{number}" for number in range(len(TYPES))])
    return anndata.AnnData(COUNTS.astype(np.float32), obs=obs, var=pd.DataFrame(index=NAMES))
