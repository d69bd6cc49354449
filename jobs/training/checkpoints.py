"""Checkpoints: all that a run needs to go on as if nothing had happened, kept by Ray Train in the output."""

import contextlib
import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import ray.train
import torch
from ray.train import Checkpoint
from torch import nn

if TYPE_CHECKING:
    from jobs.training.journal import Journal

STATE = "state.pt"


@dataclass(frozen=True)
class Position:
    """Where a run is. The order of the data follows from the steps done."""

    done: int  # steps since the start of the run

    def after_step(self) -> "Position":
        return Position(self.done + 1)


def restore(
    network: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> tuple[Position, str]:
    """Fills network and optimiser from the last checkpoint, if there is one; returns the journal kept in it too."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return Position(0), ""
    with checkpoint.as_directory() as folder:
        state = torch.load(Path(folder) / STATE, map_location=device, weights_only=True)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"].cpu())
    return Position(state["done"]), state["journal"]


@contextlib.contextmanager
def snapshot(
    network: nn.Module, optimizer: torch.optim.Optimizer, position: Position, journal: "Journal | None"
) -> Iterator[Checkpoint | None]:
    """Writes a checkpoint on the worker that keeps the journal, for as long as it is entered; None on the others."""
    if journal is None:
        yield None
        return
    state = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "done": position.done,
        "rng": torch.get_rng_state(),
        "journal": journal.text(),
    }
    with tempfile.TemporaryDirectory() as folder:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        (Path(folder) / STATE).write_bytes(buffer.getvalue())
        yield Checkpoint.from_directory(folder)
