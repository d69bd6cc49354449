"""Killed at any moment, the same command gives what one undisturbed run gives."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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


class Kill(NamedTuple):
    """A SIGKILL so many seconds behind a job's start, or behind the first part that it commits."""

    after_s: float
    behind_a_commit: bool = False


def run_and_kill(shards: Path, output: Path, kill: Kill) -> bool:
    """Starts the job and kills it; says whether it was still running."""
    process = subprocess.Popen(
        command(shards, output), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    before, deadline = len(committed(output)), time.monotonic() + 120
    while (
        kill.behind_a_commit
        and len(committed(output)) == before
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    try:
        process.wait(timeout=kill.after_s)
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


def check_kills(kills: Sequence[Kill], shards: Path, output: Path, undisturbed: Path) -> int:
    """Kills the job again and again, until it was faster; returns how many kills fell between two commits."""
    between = 0
    for kill in kills:
        before = committed(output)
        was_running = run_and_kill(shards, output, kill)
        after = committed(output)
        assert before.items() <= after.items(), "a finished unit was lost or done again"
        for path in (output / "annotations").glob("*.parquet"):
            pq.read_table(path)
        between += len(before) < len(after) < 24
        if not was_running:
            break
    done = subprocess.run(command(shards, output), cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert contents(output) == contents(undisturbed)
    assert not list(output.rglob(".tmp-*"))
    return between


def committed(output: Path) -> dict[str, int]:
    parts = (output / "annotations").glob("*.parquet") if (output / "annotations").is_dir() else []
    return {path.name: path.stat().st_mtime_ns for path in parts}


def test_a_kill_behind_a_commit_and_one_at_a_start_lose_and_double_nothing(
    tmp_path: Path, shards: Path, undisturbed: Path
) -> None:
    kills = [Kill(0.0, behind_a_commit=True), Kill(3.0)]
    assert check_kills(kills, shards, tmp_path / "out", undisturbed) == 1


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_kills_at_random_moments_lose_and_double_nothing(
    tmp_path: Path, shards: Path, undisturbed: Path
) -> None:
    rng = random.Random(os.environ.get("PYTEST_SEED", "20"))
    kills = [Kill(rng.uniform(0.5, 10.0)) for _ in range(4)]
    kills += [Kill(rng.uniform(0.0, 0.1), behind_a_commit=True) for _ in range(6)]
    assert check_kills(kills, shards, tmp_path / "out", undisturbed) >= 2


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
