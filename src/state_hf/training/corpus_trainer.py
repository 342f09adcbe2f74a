"""A Trainer over a corpus of cells: steps by the corpus' order, averaged weights, whole checkpoints, rates."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from accelerate.utils import broadcast_object_list
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PreTrainedModel, PreTrainedTokenizer, Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from state_hf.data.corpus.cell_corpus import CellCorpus
from state_hf.training.checkpoints import (
    has_gathered_optimizer,
    last_complete_checkpoint,
    load_gathered_optimizer,
    load_weights,
)
from state_hf.training.corpus_arguments import CorpusTrainingArguments
from state_hf.training.throughput import matmul_rate
from state_hf.training.weight_average import WeightAverage, whole_weights

EmbeddingMetrics = Callable[[Any], dict[str, float]]
_AVERAGE_STEPS = "weight_average.json"


class CorpusTrainer(Trainer):
    """Pretrains a model on a `CellCorpus`.

    It is a `Trainer`, except for this: step k takes the k-th cells of the corpus' endless order, whatever the number of
    processes and workers, so that no cell is repeated or left out in a pass and a resumed training goes on with the
    next cell; the weights' average is kept, saved and evaluated; and the parts of the loss, cells and tokens a second
    and the share of the machine's matrix rate are logged.

    A `Trainer` epoch is a pass without what does not fill a step; these cells come first in the next.

    Args:
        model: The model.
        args: The arguments.
        tokenizer: With the model's vocabulary.
        train_dataset: The cells to train on.
        eval_dataset: The cells to evaluate on.
        compute_embedding_metrics: Called at an evaluation with the encoder, such as a nearest-neighbour probe. What it
            returns is logged with the prefix "eval_".
        **kwargs: See `Trainer`; `data_collator` makes a batch of `CorpusCells`.

    Attributes:
        loss_parts: Outputs of the model that are logged beside the loss.

    Raises:
        ValueError: The corpus has less cells than a step.
    """

    args: CorpusTrainingArguments
    loss_parts: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        model: PreTrainedModel,
        args: CorpusTrainingArguments,
        *,
        tokenizer: PreTrainedTokenizer,
        train_dataset: CellCorpus | None = None,
        eval_dataset: CellCorpus | None = None,
        compute_embedding_metrics: EmbeddingMetrics | None = None,
        **kwargs: Any,
    ) -> None:
        self.config: Any = model.config
        self.model_class = type(model)
        step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self.cells_per_step = step
        super().__init__(
            model, args, train_dataset=train_dataset, eval_dataset=eval_dataset, processing_class=tokenizer, **kwargs
        )
        self.label_names = ["labels"]
        # The model takes any keyword, but not the one that would make its loss a share of the accumulated one.
        self.model_accepts_loss_kwargs = False
        self.compute_embedding_metrics = compute_embedding_metrics
        self.average: WeightAverage | None = None
        self._meter = _Meter(self)
        self._position_sampler: PositionSampler | None = None
        if train_dataset is not None:
            self._position_sampler = PositionSampler(len(train_dataset), cells_per_step=step)
            self.add_callback(_BeforeAndAfterSteps(self))

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int] | None:
        return self._position_sampler

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - Trainer's signature
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        self._meter.add(inputs, outputs)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs.update(self._meter.pop("", rates=True))
        super().log(logs, start_time)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:  # noqa: FBT001
        """Train. See `Trainer.train`; but `resume_from_checkpoint=True` passes over checkpoints without an end."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(str(self.args.output_dir))
            if resume_from_checkpoint is None:
                raise ValueError(f"There is no complete checkpoint in {self.args.output_dir} to resume from.")
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def averaged(self) -> Any:
        """A context in which the model has its averaged weights, or its own where there is no average."""
        return (
            nullcontext() if self.average is None else self.average.in_place(self.accelerator.unwrap_model(self.model))
        )

    def evaluation_loop(self, dataloader: DataLoader, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        # Losses of the training steps since the last log are not part of this evaluation.
        training, self._meter, began = self._meter, _Meter(self), time.perf_counter()
        prefix = kwargs.get("metric_key_prefix", "eval")
        with self.averaged():
            output = super().evaluation_loop(dataloader, *args, **kwargs)
            metrics: dict[str, float] = output.metrics or {}
            metrics.update(self._meter.pop(f"{prefix}_", rates=False))
            computed = [self._embedding_metrics(dataloader.dataset)]
        # Every process has to stop early, or choose a best checkpoint, by the same numbers.
        scores = broadcast_object_list(computed)[0] or {}
        metrics.update({f"{prefix}_{name}": value for name, value in scores.items()})
        self._meter = training
        training.began += time.perf_counter() - began
        return output

    def _embedding_metrics(self, dataset: Any) -> dict[str, float]:
        model = cast(PreTrainedModel, self.accelerator.unwrap_model(self.model))
        # Sharded weights are put together by all processes; others need one.
        if not (self.is_world_process_zero() or self.is_fsdp_enabled):
            return {}
        model.eval()
        metrics: dict[str, float] = {}
        with self.compute_loss_context_manager(), self.accelerator.autocast():
            metrics |= self.decoding_metrics(model, dataset)
        if self.compute_embedding_metrics is not None:
            metrics |= self.compute_embedding_metrics(model.base_model)
        return metrics

    def decoding_metrics(self, model: Any, dataset: CellCorpus) -> Mapping[str, float]:
        """What else an evaluation says of the model and some cells, by name; nothing unless a family has something."""
        return {}

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.average is not None:
            self.average.save(output_dir, is_main=self.args.should_save)
            if self.args.should_save:
                Path(output_dir, _AVERAGE_STEPS).write_text(json.dumps({"steps": self.average.steps}))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:  # noqa: FBT001, FBT002
        """Save the model as a whole. See `Trainer.save_model`, which saves sharded weights as shards or not at all."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        sharded, tokenizer = cast(torch.nn.Module, self.model), cast(PreTrainedTokenizer, self.processing_class)
        whole = whole_weights(sharded)
        if self.args.should_save:
            folder = output_dir or str(self.args.output_dir)
            # A sharded model calls for the other processes when it is saved, and its class has another name.
            with torch.device("meta"):
                model = self.model_class(self.config)
            model.load_state_dict(whole, assign=True)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and not self.is_fsdp_enabled and has_gathered_optimizer(checkpoint):
            model, optimizer = self.accelerator.unwrap_model(self.model), cast(Any, self.optimizer).optimizer
            load_gathered_optimizer(model, optimizer, self.lr_scheduler, checkpoint)
        else:
            super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.args.average_decay is not None:
            self.average = WeightAverage(self.accelerator.unwrap_model(self.model), self.args.average_decay)
            steps = Path(checkpoint, _AVERAGE_STEPS)
            self.average.load(checkpoint, steps=json.loads(steps.read_text())["steps"] if steps.exists() else 0)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        loaded_into = self.accelerator.unwrap_model(self.model if model is None else model)
        if isinstance(loaded_into, PreTrainedModel) and not self.is_fsdp_enabled:
            load_weights(loaded_into, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        model = self.accelerator.unwrap_model(self.model)
        best = self.state.best_model_checkpoint
        if best is None or self.is_fsdp_enabled:
            super()._load_best_model()
            return
        load_weights(model, best)
        if self.average is not None:
            self.average.load(best, steps=self.average.steps)


class PositionSampler(Sampler[int]):
    """The positions of the corpus' endless order that an epoch of whole steps takes.

    Args:
        num_cells: Cells of a pass.
        cells_per_step: Cells of an optimisation step, over all processes.

    Raises:
        ValueError: A step has more cells than a pass.
    """

    def __init__(self, num_cells: int, *, cells_per_step: int) -> None:
        if cells_per_step > num_cells:
            raise ValueError(
                f"A step takes {cells_per_step:,} cells, but the corpus has {num_cells:,}: lower the batch."
            )
        self.steps, self.cells_per_step, self.epoch = num_cells // cells_per_step, cells_per_step, 0

    def set_epoch(self, epoch: int) -> None:
        """Give the positions of another epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.cells_per_step

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.epoch * len(self), (self.epoch + 1) * len(self)))


class _BeforeAndAfterSteps(TrainerCallback):
    """Tells the sampler the epoch, past all wrappers between it and Trainer; keeps the average."""

    def __init__(self, trainer: CorpusTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self.trainer
        if args.average_decay is not None and trainer.average is None:
            trainer.average = WeightAverage(trainer.accelerator.unwrap_model(trainer.model), args.average_decay)
        trainer._meter.start()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        sampler = self.trainer._position_sampler
        if sampler is not None:
            sampler.set_epoch(state.global_step // sampler.steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.average is not None:
            self.trainer.average.update(self.trainer.accelerator.unwrap_model(self.trainer.model))


class _Meter:
    """Sums what is logged between two logs: parts of the loss, cells, tokens, operations, time."""

    def __init__(self, trainer: CorpusTrainer) -> None:
        self.trainer = trainer
        self.matrix_rate = 0.0
        self._reset()

    def _reset(self) -> None:
        self.losses: dict[str, torch.Tensor] = {}
        self.batches = self.cells = 0
        self.tokens: torch.Tensor | int = 0
        self.operations = 0.0
        self.began = time.perf_counter()

    def start(self) -> None:
        """Measure the device's matrix rate."""
        args = self.trainer.args
        dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
        self.matrix_rate = matmul_rate(args.device, dtype)
        self._reset()

    def add(self, inputs: dict[str, Any], outputs: Any) -> None:
        """Take a batch in."""
        for name in self.trainer.loss_parts:
            value = outputs.get(name)
            if value is not None:
                self.losses[name] = self.losses.get(name, 0.0) + value.detach().float()
        self.batches += 1
        self.cells += len(inputs["input_ids"])
        self.tokens = self.tokens + inputs["attention_mask"].sum()
        self.operations += self.trainer.floating_point_ops(inputs)

    def pop(self, prefix: str, *, rates: bool) -> dict[str, float]:
        """Means and rates since the last call, over all processes."""
        if self.batches == 0:
            return {}
        logs: dict[str, float] = {}
        names = sorted(self.losses)
        if names:
            means = torch.stack([self.losses[name] / self.batches for name in names])
            reduced = self.trainer.accelerator.reduce(means, reduction="mean")
            logs = dict(zip(names, reduced.tolist(), strict=True))
        if rates:
            seconds = max(time.perf_counter() - self.began, 1e-9)
            everywhere = self.trainer.args.world_size
            logs["cells_per_second"] = self.cells * everywhere / seconds
            logs["tokens_per_second"] = float(self.tokens) * everywhere / seconds
            if self.matrix_rate:
                logs["flops_utilisation"] = self.operations / seconds / self.matrix_rate
        self._reset()
        return {f"{prefix}{name}": value for name, value in logs.items()}


__all__ = ["CorpusTrainer", "EmbeddingMetrics", "PositionSampler"]
