"""Text by a causal language model that reads cells, drawn by the seed and the cell alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from state_hf.configuration.model_folders import loading_from, refuse_missing_weights
from state_hf.inference.cell_encoder import CellEncoder, Part
from state_hf.inference.loading import is_quantised, load_tokenizer, placement
from state_hf.tokenization.cell_tokenizer import CellTokenizer

# What stands behind the end of a text.
NO_TOKEN = -1


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    Args:
        temperature: What logits are divided by, above 0; 0 takes the most likely token always.
        top_k: Only so many of the most likely tokens are drawn from; 0 for all.
        top_p: Only the most likely tokens that have this probability together are, in (0, 1].

    Raises:
        ValueError: A number is out of its range.
    """

    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 0.95

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                "temperature and top_k must not be below 0, and top_p in (0, 1], but they are "
                f"{self.temperature}, {self.top_k} and {self.top_p}"
            )


GREEDY = Sampling(temperature=0)


class _Choice(LogitsProcessor):
    """Leaves one token of every text, and adds up what the model thinks of these.

    With one uniform number a cell and step, drawn before, a text does not depend on the others in its batch, but for
    the rounding of its logits.
    """

    def __init__(self, sampling: Sampling, uniform: np.ndarray, width: int, end: Sequence[int]) -> None:
        self.sampling, self.uniform, self.width, self.end = sampling, uniform, width, end
        self.log_probability: torch.Tensor | None = None
        self.running: torch.Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        logits = scores.float()
        chosen = self._chosen(logits, input_ids.shape[1] - self.width)
        if self.running is None or self.log_probability is None:
            self.running = torch.ones_like(chosen, dtype=torch.bool)
            self.log_probability = torch.zeros_like(chosen, dtype=torch.float32)
        likely = logits.log_softmax(dim=-1).gather(1, chosen[:, None])[:, 0]
        self.log_probability += torch.where(self.running, likely, 0.0)
        self.running = self.running & ~torch.isin(chosen, torch.tensor(self.end, device=chosen.device))
        left: Any = torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)
        return left

    def _chosen(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        if self.sampling.temperature == 0:
            return logits.argmax(dim=-1)
        most = min(self.sampling.top_k or logits.shape[1], logits.shape[1])
        values, tokens = logits.topk(most, dim=-1)
        probability = (values.double() / self.sampling.temperature).softmax(dim=-1)
        before = probability.cumsum(dim=-1) - probability
        probability = torch.where(before < self.sampling.top_p, probability, 0.0)
        upto = probability.cumsum(dim=-1)
        drawn = torch.from_numpy(self.uniform[:, step]).to(logits.device) * upto[:, -1]
        place = (upto <= drawn[:, None]).sum(dim=-1).clamp(max=most - 1)
        return tokens.gather(1, place[:, None])[:, 0]


def write_text(
    model: Any,
    tokenizer: Any,
    inputs: Mapping[str, torch.Tensor],
    *,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    seed: int = 0,
    cells: Sequence[int] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Let a model go on with prompts.

    Args:
        model: With a language-model head, in evaluation mode.
        tokenizer: Its tokenizer.
        inputs: `input_ids` and `attention_mask` (texts, tokens), padding before the prompts.
        max_new_tokens: Most tokens of a text, the one that ends it included.
        sampling: How tokens are drawn.
        seed: Of the draws.
        cells: (texts,) numbers that make the draws of a text its own; of no meaning where the most likely is taken.

    Returns:
        (texts, max_new_tokens) int64 new tokens, `NO_TOKEN` from the end on, and (texts,) float32 the log-probability
        of all that was written, the end included.
    """
    own = model.generation_config.eos_token_id
    end = sorted({tokenizer.eos_token_id, *(own if isinstance(own, list) else [] if own is None else [own])})
    ids = inputs["input_ids"].to(model.device)
    uniform = np.empty((len(ids), 0))
    if sampling.temperature > 0:
        uniform = np.stack([np.random.default_rng([seed, cell]).random(max_new_tokens) for cell in cells])
    choice = _Choice(sampling, uniform, ids.shape[1], end)
    # What the checkpoint says of sampling is told off: the choice is made.
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        repetition_penalty=1.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=end,
    )
    with torch.inference_mode():
        written = model.generate(
            input_ids=ids,
            attention_mask=inputs["attention_mask"].to(model.device),
            generation_config=settings,
            logits_processor=LogitsProcessorList([choice]),
        )
    new = np.full((len(ids), max_new_tokens), NO_TOKEN, np.int64)
    found = written[:, ids.shape[1] :].cpu().numpy()
    new[:, : found.shape[1]] = found
    ended = np.cumsum(np.isin(new, end), axis=1) > 0
    new[ended] = NO_TOKEN
    assert choice.log_probability is not None  # noqa: S101 - a text has one token at least
    return new, choice.log_probability.cpu().numpy()


def decoded(tokenizer: Any, tokens: np.ndarray) -> list[str]:
    """The texts of (texts, tokens) with `NO_TOKEN` behind their end."""
    kept = [row[row != NO_TOKEN].astype(np.int64).tolist() for row in tokens]
    texts = tokenizer.batch_decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    # Neither a table nor an .h5ad holds every character that a model may write.
    return [
        "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text) for text in texts
    ]


def left_padded(inputs: Mapping[str, torch.Tensor], pad: int) -> dict[str, torch.Tensor]:
    """(texts, tokens) inputs with the padding behind them, as inputs with the padding before them."""
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    if mask is None:
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    shift = ids.shape[1] - mask.sum(dim=1, keepdim=True)
    places = (torch.arange(ids.shape[1], device=ids.device)[None] - shift) % ids.shape[1]
    moved = {"input_ids": ids.gather(1, places), "attention_mask": mask.gather(1, places)}
    moved["input_ids"] = torch.where(moved["attention_mask"] == 1, moved["input_ids"], pad)
    return moved


class CellAsker(CellEncoder):
    """Asks a language model about cells, in the batches of a `CellEncoder`.

    Its part `"answer"` of a cell is (max_new_tokens + 1) numbers: the tokens of the answer, `NO_TOKEN` behind its end,
    and the log-probability of the whole.

    Args:
        model: With a language-model head.
        tokenizer: A processor of cells with a task of that name.
        max_new_tokens: Most tokens of an answer.
        **options: Of `CellEncoder`; `task` is what is asked.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: CellTokenizer, *, max_new_tokens: int, **options: Any
    ) -> None:
        super().__init__(model, tokenizer, **options)
        self.max_new_tokens = max_new_tokens

    @property
    def length(self) -> int:
        """Most tokens of a prompt: an answer is to fit behind it."""
        return super().length - self.max_new_tokens

    def kept(self, inputs: dict[str, torch.Tensor], part: Part) -> torch.Tensor:
        """What is kept of a batch."""
        if part != "answer":
            return super().kept(inputs, part)
        text_tokenizer: Any = getattr(self.tokenizer, "tokenizer", self.tokenizer)
        prompts = left_padded(inputs, text_tokenizer.pad_token_id)
        tokens, likely = write_text(self.model, text_tokenizer, prompts, max_new_tokens=self.max_new_tokens)
        # Numbers of tokens are whole ones that float32 has exactly.
        return torch.from_numpy(np.concatenate([tokens, likely[:, None]], axis=1).astype(np.float32))


def writes_text(model: str | Path) -> bool:
    """Whether a folder or hub id is a causal language model with its head."""
    with loading_from(model):
        config = AutoConfig.from_pretrained(str(model), trust_remote_code=False)
    known: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    classes = known if isinstance(known, tuple) else () if known is None else (known,)
    return any(found.__name__ in (config.architectures or ()) for found in classes)


def load_writer(
    model: str | Path, *, dtype: str | None = None, device: torch.device | None = None
) -> tuple[PreTrainedModel, Any]:
    """Load a language model that reads cells, and its processor.

    Args:
        model: Folder or hub id.
        dtype: "float32", "bfloat16" or "float16". Default: the checkpoint's; on the CPU, float32.
        device: Where it goes. Default: the CPU.

    Raises:
        ValueError: It is no language model, or incomplete, or has no processor of cells.
    """
    name = str(model)
    if not writes_text(name):
        raise ValueError(f"{name} is no causal language model, so it writes no text")
    with loading_from(name):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        on_cpu = device is None or device.type == "cpu"
        found: Any = AutoModelForCausalLM.from_pretrained(
            name,
            config=config,
            dtype=dtype or ("float32" if on_cpu else "auto"),
            output_loading_info=True,
            trust_remote_code=False,
            **placement(config, device),
        )
    loaded, info = found
    refuse_missing_weights(name, info["missing_keys"])
    placed = loaded if is_quantised(config) else loaded.to(device or "cpu")
    processor = load_tokenizer(None, placed)
    if not hasattr(processor, "label_parser"):
        raise ValueError(
            f"the tokenizer of {name} is a {type(processor).__name__}, which reads no text that is written"
        )
    return placed.eval(), processor


__all__ = [
    "GREEDY",
    "NO_TOKEN",
    "CellAsker",
    "Sampling",
    "decoded",
    "left_padded",
    "load_writer",
    "write_text",
    "writes_text",
]
