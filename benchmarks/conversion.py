"""Converting a checkpoint with its optimizer's state, against loading it whole and saving its weights

    python benchmarks/conversion.py [--quick] [--folder FOLDER]

A checkpoint of the size of SE-600M, 8 GB, of zeros; the folder takes about 14 GB. The other side is the plain way:
`torch.load`, then `save_file` of the weights.
"""

from pathlib import Path

from turns import Contest, main


def write_checkpoint(path: Path, num_layers: int, num_genes: int) -> int:
    """A Lightning checkpoint of zeros: weights, gene embeddings and Adam's two moments. Returns its largest tensor."""
    import torch

    from state_hf import StateEmbeddingConfig
    from state_hf.conversion.weight_accounting import original_shapes
    from state_hf.modeling.state_embedding_pretraining import StateEmbeddingForMaskedExpression

    config = StateEmbeddingConfig(num_hidden_layers=num_layers, num_genes=num_genes)
    shapes = original_shapes(StateEmbeddingForMaskedExpression, config)
    table = shapes.pop("pe_embedding.weight")
    largest = max(torch.Size(shape).numel() for shape in (*shapes.values(), table))
    hollow = path.with_suffix(".zeros")
    with hollow.open("wb") as file:
        file.truncate(4 * largest)

    def zeros(*shape: int) -> torch.Tensor:
        """Zeros with a storage of their own, which take no memory: they are mapped from a file without content."""
        return torch.from_file(str(hollow), size=torch.Size(shape).numel()).view(shape)

    state = {name: zeros(*shape) for name, shape in shapes.items()}
    moments = {
        number: {"step": torch.tensor(1.0), "exp_avg": zeros(*shape), "exp_avg_sq": zeros(*shape)}
        for number, shape in enumerate(shapes.values())
    }
    arguments = {"nhead": config.num_attention_heads, "d_model": config.hidden_size}
    content = {
        "state_dict": {**state, "pe_embedding.weight": zeros(*table)},
        "hyper_parameters": arguments,
        "protein_embeds_dict": {f"GENE{row}": torch.zeros(table[1]) for row in range(table[0])},
        "optimizer_states": [{"state": moments}],
    }
    torch.save(content, path)
    hollow.unlink()
    return 4 * largest


def state_hf(checkpoint: str):
    from state_hf import convert

    def call() -> None:
        convert(checkpoint, str(Path(checkpoint).with_name("model")), overwrite=True)

    return call


def load_and_save(checkpoint: str):
    import torch
    from safetensors.torch import save_file

    def call() -> None:
        weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]  # noqa: TID251
        save_file(weights, Path(checkpoint).with_name("plain.safetensors"))

    return call


def claim(contest: Contest) -> None:
    layers, genes = (2, 2000) if contest.quick else (16, 19_790)
    with contest.folder() as folder:
        checkpoint = folder / "se.ckpt"
        largest = write_checkpoint(checkpoint, layers, genes)
        contest.compare(
            f"Convert a checkpoint of {checkpoint.stat().st_size / 1e9:.1f} GB",
            (state_hf, load_and_save),
            {"checkpoint": str(checkpoint)},
            repeats=1,
            fresh=True,
            note=f"the largest tensor takes {largest / 1e6:,.0f} MB, and the imports a few hundred.",
        )
        checkpoint.unlink()


if __name__ == "__main__":
    main(claim)
