"""This process among those that `accelerate launch` started, or alone."""

import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from accelerate import PartialState

Item = TypeVar("Item")

# Processes wait for the slowest one's share, which may take hours longer than torch's default of minutes allows.
_PATIENCE = datetime.timedelta(days=30)


@dataclass(frozen=True)
class Processes:
    """The processes of one run.

    Args:
        index: This process, from 0.
        count: How many there are.
        device: Where this process computes.
    """

    index: int
    count: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that logs and writes the outputs."""
        return self.index == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process' part of some items: a contiguous one, all parts being of about equal size."""
        return items[len(items) * self.index // self.count : len(items) * (self.index + 1) // self.count]

    def wait(self) -> None:
        """Wait until every process has come this far."""
        if self.count > 1:
            PartialState().wait_for_everyone()


def join_processes(device: str | torch.device | None) -> Processes:
    """Find this process' place, and its device.

    Args:
        device: As the user named it; None for this process' accelerator (CUDA, then MPS), or else the CPU.
    """
    if "LOCAL_RANK" in os.environ or torch.distributed.is_initialized():
        state = PartialState(cpu=device is not None and torch.device(device).type == "cpu", timeout=_PATIENCE)
        chosen = state.device if device is None or str(device) == state.device.type else torch.device(device)
        return Processes(state.process_index, state.num_processes, chosen)
    # PartialState is left alone: what it finds here would bind a Trainer that the user makes later.
    if device is None:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        device = accelerator or "cpu"
    return Processes(0, 1, torch.device(device))
