"""A command leaves the group of processes that it joined, and no other."""

import types

import pytest
import torch.distributed as dist

from state_hf import cli


def join():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


@pytest.fixture
def command(monkeypatch):
    """A command that does what it is told."""

    def make(run):
        module = types.SimpleNamespace(__doc__="", configure=lambda parser: None, run=run)
        monkeypatch.setattr(cli.importlib, "import_module", lambda name: module)
        monkeypatch.setitem(cli._COMMANDS, "trial", "")

    yield make
    if dist.is_initialized():
        dist.destroy_process_group()


def fail():
    join()
    raise ValueError("in the middle")


@pytest.mark.parametrize(("run", "status"), [(join, 0), (fail, 2)])
def test_its_own_group_is_left(command, run, status, capsys):
    command(lambda arguments: run())
    assert cli.main(["trial"]) == status
    assert not dist.is_initialized()


def test_the_group_of_a_program_around_it_stays(command):
    join()
    command(lambda arguments: 0)
    assert cli.main(["trial"]) == 0
    assert dist.is_initialized()


@pytest.mark.parametrize(("rank", "printed"), [(None, "done\n"), ("0", "done\n"), ("1", "")])
def test_one_process_says_what_all_have(command, rank, printed, monkeypatch, capsys):
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    command(lambda arguments: print("done"))
    assert cli.main(["trial"]) == 0
    assert capsys.readouterr().out == printed
