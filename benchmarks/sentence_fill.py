"""What filling a cell sentence with unexpressed genes costs, and how far leaving it out moves the embedding.

    python benchmarks/sentence_fill.py --model MODEL --data cells.h5ad [--input-type counts] [--cells 64]
    python benchmarks/sentence_fill.py --random --data cells.h5ad

`--random` builds a model of arc-state's default size with random weights over the file's own genes. Prints, for
`fill="none"` and for two seeds of `fill="original"`, the time relative to `fill="seeded"` and the cosine of each cell's
embedding with the seeded one.
"""

import argparse
import statistics
import time

import anndata
import torch

from state_hf import StateEmbeddingConfig, StateEmbeddingModel, StateEmbeddingTokenizer


def load(arguments, cells):
    if not arguments.random:
        tokenizer = StateEmbeddingTokenizer.from_pretrained(arguments.model)
        return StateEmbeddingModel.from_pretrained(arguments.model).eval(), tokenizer
    torch.manual_seed(0)
    tokenizer = StateEmbeddingTokenizer(list(cells.var_names))
    config = StateEmbeddingConfig(
        num_genes=cells.n_vars, emsize=512, nhead=16, d_hid=1024, nlayers=8, output_dim=512, gene_embedding_dim=1280
    )
    return StateEmbeddingModel(config).eval(), tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a model")
    parser.add_argument("--random", action="store_true", help="a model with random weights instead")
    parser.add_argument("--data", required=True)
    parser.add_argument("--input-type", default="counts")
    parser.add_argument("--cells", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    cells = anndata.read_h5ad(arguments.data)[: arguments.cells].copy()
    model, tokenizer = load(arguments, cells)
    variants = {"seeded": {}, "none": {"fill": "none"}, "original": {"fill": "original"}}
    variants["original, seed 1"] = {"fill": "original", "seed": 1}

    def embed(options):
        start = time.perf_counter()
        sentences = tokenizer.encode_cells(
            cells, input_type=arguments.input_type, max_length=arguments.max_length, **options
        )
        rows = range(0, len(cells), arguments.batch_size)
        with torch.inference_mode():
            parts = [
                model(**{k: v[i : i + arguments.batch_size] for k, v in sentences.items()}, output_genes=False)
                for i in rows
            ]
        return torch.cat([part.embedding for part in parts]), time.perf_counter() - start

    seconds = {name: [] for name in variants}
    embeddings = {name: embed(options)[0] for name, options in variants.items()}
    for _ in range(arguments.repeats):
        for name, options in variants.items():
            seconds[name].append(embed(options)[1])
    expressed = tokenizer.encode_cells(cells, input_type=arguments.input_type, fill="none")["attention_mask"].sum(1) - 1
    print(f"{len(cells)} cells, {expressed.float().median():.0f} genes expressed (median)")
    for name in list(variants)[1:]:
        ratios = [s / t for s, t in zip(seconds["seeded"], seconds[name], strict=True)]
        cosine = torch.cosine_similarity(embeddings["seeded"], embeddings[name])
        print(
            f"  {name:17} {statistics.median(ratios):5.2f} times as fast; "
            f"cosine median {cosine.median():.4f}, min {cosine.min():.4f}"
        )


if __name__ == "__main__":
    main()
