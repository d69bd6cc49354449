"""Checkpoints: all that a run needs to go on as if nothing had happened, kept by Ray Train in the output."""

import contextlib
import json
import math
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint
from torch import nn

from pipeline import storage

SCORE = "pa_mpjpe_mm"  # what the best weights are best by
WORST = 1e9
RUN = "run"  # Ray Train's own folder in the output
STATE = "state.pt"
_SNAPSHOT = "checkpoint_manager_snapshot.json"  # Ray Train's list of its checkpoints
_FOLDER = "checkpoint_"  # what the names of its checkpoints begin with, followed by the time


@dataclass(frozen=True)
class Position:
    """Where a run is: the steps done since its start, from which the order of the data follows.

    journal: what the journal held then, None at the start.
    """

    done: int
    journal: Mapping[str, Any] | None = None


def restore(network: nn.Module, optimizer: torch.optim.Optimizer) -> Position:
    """Fills network and optimiser from the last checkpoint, if there is one."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return Position(0)
    with checkpoint.as_directory() as folder:
        # The optimiser itself moves its state to where it needs it.
        state = torch.load(Path(folder) / STATE, map_location="cpu", weights_only=True)
    network.load_state_dict(state["network"])
    refill(optimizer, state["optimizer"])
    torch.set_rng_state(state["rng"])
    return Position(state["done"], json.loads(state["journal"]))


def refill(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Fills an optimiser; how it computes its steps stays this machine's, not that of the one that wrote the state."""
    groups = zip(state["param_groups"], optimizer.param_groups, strict=True)
    own = [{**saved, "fused": group["fused"]} for saved, group in groups]
    optimizer.load_state_dict({**state, "param_groups": own})


def score(metrics: Mapping[str, float]) -> float:
    """Returns what a checkpoint is kept for, the lower the better.

    Always a number: Ray Train takes a missing score for the best of all, and what is not finite is null in its list,
    which then cannot be read again.
    """
    found = metrics.get(SCORE, WORST)
    return found if math.isfinite(found) else WORST


@contextlib.contextmanager
def snapshot(
    network: nn.Module, optimizer: torch.optim.Optimizer, done: int, journal: Mapping[str, Any]
) -> Iterator[Checkpoint]:
    """Writes a checkpoint on this machine, for as long as it is entered."""
    state = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "done": done,
        "rng": torch.get_rng_state(),
        "journal": json.dumps(journal),
    }
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder) / STATE)
        yield Checkpoint.from_directory(folder)


def mend(output: str) -> None:
    """Takes up what a killed run left: removes checkpoints that were never finished, and renews a broken list.

    Ray Train writes its list in place, so that a kill at that moment leaves half of one, and it never removes a
    checkpoint that is not on the list. Only the holder of the output's lease may call it.
    """
    listed = _listed(output)
    found = _found(output)
    if listed is None or not listed <= found.keys():
        whole = [name for name in sorted(found) if _is_whole(storage.join(output, RUN, name, STATE))]
        listed = set(whole[-1:])
        storage.put(storage.join(output, RUN, _SNAPSHOT), _list_of(whole[-1:]))
    for name in found.keys() - listed:
        for uri in found[name]:
            storage.delete(uri)


def are_there(output: str) -> bool:
    """Says whether an output holds checkpoints, or parts of such."""
    return bool(_found(output))


def remove(output: str) -> None:
    """Removes all checkpoints; the list goes first, so that a kill leaves none that names missing ones."""
    storage.delete(storage.join(output, RUN, _SNAPSHOT))
    for uris in _found(output).values():
        for uri in uris:
            storage.delete(uri)


def _found(output: str) -> dict[str, list[str]]:
    """Returns the files of every checkpoint that is there, by its name."""
    found: dict[str, list[str]] = {}
    folder = storage.join(output, RUN)
    for file in storage.list_files(folder):
        name, _, below = storage.key_below(folder, file.uri).partition("/")
        if name.startswith(_FOLDER) and below:
            found.setdefault(name, []).append(file.uri)
    return found


def _listed(output: str) -> set[str] | None:
    """Returns the names of the checkpoints on Ray Train's list; None where it is broken."""
    try:
        content = json.loads(storage.read(storage.join(output, RUN, _SNAPSHOT)))
        return {result["checkpoint_dir_name"] for result in content["checkpoint_results"]}
    except FileNotFoundError:
        return set()
    except (ValueError, KeyError, TypeError):
        return None


def _is_whole(uri: str) -> bool:
    """Says whether a checkpoint was written to its end, where an archive has its directory."""
    if storage.stat(uri) is None:
        return False
    with storage.open_input(uri) as stream:
        return zipfile.is_zipfile(stream)


def _list_of(names: list[str]) -> bytes:
    """Returns a list as Ray Train 2.60 writes it, of one checkpoint or none."""
    results = [{"version": 0, "checkpoint_dir_name": name, "metrics": {SCORE: WORST}} for name in names]
    content = {
        "ray_version": ray.__version__,
        "checkpoint_results": results,
        "checkpoint_report_indices": list(range(len(names))),
        "latest_checkpoint_result": results[-1] if results else None,
        "pending_training_results": [],
        "pending_validation_specs": [],
        "current_report_index": len(names),
        "validated_checkpoint_dir_names": [],
        "timed_out_validation_checkpoint_dir_names": [],
        "failed_validation_checkpoint_dir_names": [],
    }
    return json.dumps(content).encode()
