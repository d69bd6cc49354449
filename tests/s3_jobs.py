"""Whole commands on S3 that goes wrong: at which rate it does, how a driver is killed, and what is there then."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline import storage

ROOT = Path(__file__).resolve().parents[1]
# Of all requests: 16 % go wrong.
RATES = {
    "internal_error": 0.03,
    "slow_down": 0.03,
    "reset": 0.03,
    "lost_answer": 0.02,
    "truncated": 0.02,
    "short": 0.02,
    "stall": 0.01,
}


def committed(output: str, folder: str = "annotations") -> int:
    """Returns how many units of an output are done."""
    return sum(1 for _ in storage.list_files(storage.join(output, folder)))


def parts(output: str, folders: Sequence[str] = ("annotations", "ledger", "meshes")) -> dict[str, bytes]:
    """Returns what an output says of its inputs, byte for byte."""
    return {
        storage.key_below(output, file.uri): storage.read(file.uri)
        for folder in folders
        for file in storage.list_files(storage.join(output, folder))
    }


def kill_at(
    command: Sequence[str],
    output: str,
    count: int,
    *,
    folder: str = "annotations",
    watch: Callable[[str, str], int] = committed,
    wait_s: float = 300,
) -> int:
    """Starts a command and kills its driver as soon as so many units are done; returns how many are, then.

    watch: says how many are, of an output's folder.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *command], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + wait_s
    try:
        while time.monotonic() < deadline and process.poll() is None and watch(output, folder) < count:
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return watch(output, folder)
