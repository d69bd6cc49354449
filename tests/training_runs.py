"""Runs of training as processes: how they are started, watched and held against each other."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import storage

ROOT = Path(__file__).resolve().parents[1]
STEPS, EVERY = 9, 2
# 24 pictures: three steps an epoch.
MODEL = f"--model tiny --batch-size 8 --micro-batch 4 --steps {STEPS} --threads 1 --checkpoint-steps {EVERY}".split()
WAIT_S = 600.0


def start(shards: str, output: str, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "jobs.cli", "train", shards, "--output", output, *MODEL, *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Waits for a command; returns its status and what it said."""
    said, _ = process.communicate(timeout=WAIT_S)
    return process.returncode, said


def rows(output: str) -> list[dict[str, Any]]:
    text = storage.read(storage.join(output, "metrics.jsonl")).decode()
    return [json.loads(line) for line in text.splitlines()]


def curve(output: str, steps_a_row: int = 1) -> NDArray[np.float64]:
    """The losses of all steps, which must be there once, in order."""
    found = [row for row in rows(output) if "loss/total" in row]
    wanted = sorted({*range(steps_a_row, STEPS + 1, steps_a_row), STEPS})
    assert [row["step"] for row in found] == wanted
    return np.array([row["loss/total"] for row in found])


def wait_for(what: Callable[[], Any], process: "subprocess.Popen[str]") -> Any:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and process.poll() is None:
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError(f"it never came: {process.poll()}")


def checkpointed(output: str) -> bool:
    return storage.stat(storage.join(output, "metrics.jsonl")) is not None


def descendants(pid: int) -> Iterator[int]:
    """Yields the processes that a process has started, and theirs; one that ends meanwhile has none."""
    children = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                children += (task / "children").read_text().split()
    for child in children:
        yield int(child)
        yield from descendants(int(child))


def training_workers(pid: int) -> list[int]:
    """Returns the processes in which the network of a command's run lies."""
    found = []
    for child in descendants(pid):
        try:
            title = Path(f"/proc/{child}/cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if title.startswith("ray::RayTrainWorker"):
            found.append(child)
    return found


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def go_within(pids: Sequence[int], seconds: float) -> bool:
    """Waits for processes that Ray ends in its own time; says whether all of them went."""
    deadline = time.monotonic() + seconds
    while not all(map(is_gone, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def parent(pid: int) -> int:
    """Returns the process that has started a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
