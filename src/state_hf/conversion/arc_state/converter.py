"""Checkpoints of arc-state, as the table of families knows them."""

from pathlib import Path
from typing import Any

from state_hf.conversion.arc_state.attention_mode import Attention, Positions
from state_hf.conversion.arc_state.checkpoint import ArcCheckpoint, open_arc_checkpoint
from state_hf.conversion.arc_state.state_embedding import GENE_TABLE, convert_state_embedding
from state_hf.conversion.arc_state.state_transition import convert_state_transition
from state_hf.conversion.errors import CheckpointError, UnsafeCheckpointError
from state_hf.conversion.inspection import Inspection, describe, weights_text
from state_hf.conversion.model_folder import ConvertedModel
from state_hf.model_cards.state_paper import LICENCE_NOTE


class _ArcState:
    """The format of arc-state: Lightning checkpoints and run folders of State Embedding and State Transition."""

    name = "arc-state"

    def recognises(self, source: Path) -> bool:
        """Whether this is a checkpoint of arc-state."""
        try:
            open_arc_checkpoint(source)
        except (CheckpointError, OSError):
            return False
        return True

    def plan(
        self,
        source: Path,
        *,
        checkpoint: str | None = None,
        genes: str | Path | None = None,
        gene_embeddings: str | Path | None = None,
        perturbations: str | Path | None = None,
        state_embedding: str | Path | None = None,
        unnamed_genes: bool = False,
        attention: Attention | None = None,
        positions: Positions | None = None,
        compare_tables: bool = True,
    ) -> ConvertedModel:
        """The model that a checkpoint of arc-state becomes.

        Args:
            source: A `.ckpt` or `.safetensors` file, or the folder of a run or model.
            checkpoint: Which of a folder's checkpoints, by its file name.
            genes: Names of genes in order (one a line, or an `.h5ad`), where the source has none.
            gene_embeddings: Gene table of a State Embedding model, {gene: vector}, where the source has none.
            perturbations: Names of perturbations in order, one a line, where the source has none.
            state_embedding: State Embedding model (checkpoint, folder, or repository on the Hub) whose decoder a State
                Transition model reuses, for one that does (`finetune_vci_decoder`).
            unnamed_genes: Whether to go without names of genes.
            attention: Attention of a State Transition model; by default that in which arc-state 0.11.1 loads it.
            positions: Positions of a State Transition model; by default likewise.
            compare_tables: Whether two gene tables of one source are compared, for which they are read.

        Raises:
            CheckpointError: If the source is broken or incomplete, or its weights do not fit its configuration.
            UnsafeCheckpointError: If the source names code.
            ValueError: If an option is for the other family.
        """
        opened = open_arc_checkpoint(source, checkpoint=checkpoint)
        if opened.kind == "state_embedding":
            _refuse(
                opened,
                attention=attention,
                positions=positions,
                perturbations=perturbations,
                state_embedding=state_embedding,
            )
            model = convert_state_embedding(
                opened,
                genes=_path(genes),
                gene_embeddings=_path(gene_embeddings),
                unnamed_genes=unnamed_genes,
                compare_tables=compare_tables,
            )
        else:
            _refuse(opened, gene_embeddings=gene_embeddings)
            model = convert_state_transition(
                opened,
                genes=_path(genes),
                perturbations=_path(perturbations),
                state_embedding=state_embedding,
                unnamed_genes=unnamed_genes,
                attention=attention,
                positions=positions,
            )
        model.origin = {
            "file": opened.path.name,
            "framework_version": opened.version,
            "global_step": opened.global_step,
            "has_gene_table": GENE_TABLE in opened.weights,
            "hyper_parameters": opened.hyper_parameters,
            "config": opened.config,
        }
        model.source_folders = [opened.folder]
        model.licence_note = LICENCE_NOTE
        return model

    def inspect(self, source: Path, *, checkpoint: str | None = None) -> Inspection:
        """What a checkpoint of arc-state is."""
        opened = open_arc_checkpoint(source, checkpoint=checkpoint)
        found = Inspection()
        kind = opened.kind.replace("_", " ").title()
        trained = "" if opened.global_step is None else f", after {opened.global_step:,} steps"
        found.facts["kind"] = f"{kind} checkpoint of arc-state ({opened.path.name}{trained})"
        found.facts["weights"] = weights_text(opened.weights)
        try:
            model = self.plan(source, checkpoint=checkpoint, unnamed_genes=True, compare_tables=False)
        except UnsafeCheckpointError:
            raise
        except CheckpointError as error:
            found.missing.append(str(error))
            return found
        genes = None if model.tokenizer is None else list(model.tokenizer.genes)
        describe(found, model.config, genes=genes, vocabulary=model.vocabulary)
        for note in model.notes:
            if note.startswith("attention: "):
                found.facts["attention"] = note.removeprefix("attention: ")
        return found


def _path(name: str | Path | None) -> Path | None:
    return None if name is None else Path(name)


def _refuse(opened: ArcCheckpoint, **options: Any) -> None:
    for name, value in options.items():
        if value is not None:
            kind = opened.kind.replace("_", " ")
            raise ValueError(f"{opened.path} is a {kind} model, for which {name}=... has no meaning.")


ARC_STATE = _ArcState()

__all__ = ["ARC_STATE"]
