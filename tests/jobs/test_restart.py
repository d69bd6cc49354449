"""Killed at any moment, the same command gives what one undisturbed run gives."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[2]


def command(shards: Path, output: Path) -> list[str]:
    options = ["--model", "tiny", "--weights", "random:0", "--unit-rows", "1", "--meshes", "tar"]
    return [
        sys.executable,
        "-m",
        "jobs.cli",
        "annotate",
        f"{shards}/*.tar",
        "--output",
        str(output),
        *options,
    ]


def run_and_kill(shards: Path, output: Path, after_s: float) -> bool:
    """Starts the job and kills it with SIGKILL after so many seconds; says whether it was still running."""
    process = subprocess.Popen(
        command(shards, output), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process.wait(timeout=after_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    assert process.returncode == 0
    return False


def contents(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for folder in ("annotations", "ledger", "meshes"):
        for path in (output / folder).iterdir():
            found[f"{folder}/{path.name}"] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    assert subprocess.run(command(shards, output), cwd=ROOT, check=False).returncode == 0
    return output


def check_kills(moments: list[float], shards: Path, output: Path, undisturbed: Path) -> int:
    """Kills the job at each moment; returns how often it was hit while it ran."""
    hits = 0
    for moment in moments:
        before = committed(output)
        hits += run_and_kill(shards, output, moment)
        after = committed(output)
        assert before.items() <= after.items(), "a finished unit was lost or done again"
        for path in (output / "annotations").glob("*.parquet"):
            pq.read_table(path)
    done = subprocess.run(command(shards, output), cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert contents(output) == contents(undisturbed)
    assert not list(output.rglob(".tmp-*"))
    return hits


def committed(output: Path) -> dict[str, int]:
    parts = (output / "annotations").glob("*.parquet") if (output / "annotations").is_dir() else []
    return {path.name: path.stat().st_mtime_ns for path in parts}


def test_two_kills_lose_and_double_nothing(tmp_path: Path, shards: Path, undisturbed: Path) -> None:
    started = time.monotonic()
    watched = subprocess.Popen(
        command(shards, tmp_path / "out"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    # The first kill falls right behind the first commit, wherever on this machine that is.
    while (
        len(committed(tmp_path / "out")) < 3 and watched.poll() is None and time.monotonic() - started < 120
    ):
        time.sleep(0.01)
    watched.kill()
    watched.wait()
    assert 3 <= len(committed(tmp_path / "out")) < 24
    check_kills([3.0], shards, tmp_path / "out", undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_twenty_kills_at_random_moments_lose_and_double_nothing(
    tmp_path: Path, shards: Path, undisturbed: Path
) -> None:
    rng = random.Random(os.environ.get("PYTEST_SEED", "20"))
    moments = [rng.uniform(0.5, 20.0) for _ in range(20)]
    assert check_kills(moments, shards, tmp_path / "out", undisturbed) >= 3


@pytest.mark.slow
def test_an_interrupt_ends_with_status_3_and_the_same_command_continues(
    tmp_path: Path, shards: Path, handocc: Callable[..., Any]
) -> None:
    output = tmp_path / "out"
    process = subprocess.Popen(command(shards, output), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not committed(output) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3, said
    assert "the same command continues" in said
    assert "Traceback" not in said
    assert handocc("status", output).returncode == 3
    assert handocc(*command(shards, output)[3:]).returncode == 0
