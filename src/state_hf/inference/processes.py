"""This process among those that were launched together, or alone."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils.environment import get_cpu_distributed_information

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
    """Find this process' place among those of its launcher (accelerate, torchrun, mpirun), and its device.

    Args:
        device: As the user named it; None for this process' accelerator (CUDA, then MPS), or else the CPU.

    Raises:
        ValueError: accelerate was set up for one process before, in a process that is one of several.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    wanted = torch.device(device or accelerator or "cpu")
    launched = get_cpu_distributed_information().world_size
    if launched == 1 and not torch.distributed.is_initialized():
        # PartialState is left alone: what it finds here would bind a Trainer that the user makes later.
        return Processes(0, 1, wanted)
    state = PartialState(cpu=wanted.type == "cpu", timeout=_PATIENCE)
    if state.num_processes < launched:
        raise ValueError(
            f"This is one of {launched} processes, but accelerate takes it for one of {state.num_processes}: "
            "make no Accelerator or PartialState before, or make it with cpu=True for the CPU."
        )
    # "cuda" is every process' own GPU; "cuda:1" is what it says.
    own = state.device if wanted.index is None and wanted.type == state.device.type else wanted
    return Processes(state.process_index, state.num_processes, own)
