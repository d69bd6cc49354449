"""Planning many inputs as a job of its own: on Ray, with progress, stored as it goes, and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import exits, planning
from jobs.cli import main
from pipeline.cut import unit_id
from pipeline.units import load_plan
from tests.jobs.test_restart import ROOT
from tests.pipeline.evaluation.annotated import annotate

TINY = ("--model", "tiny", "--weights", "random:0")


def many(folder: Path, shards: Path, count: int) -> Path:
    """A folder of one shard under many names."""
    folder.mkdir()
    one = folder / "0000.tar"
    one.write_bytes(min(shards.glob("*.tar")).read_bytes())
    for number in range(1, count):
        os.link(one, folder / f"{number:04d}.tar")
    return folder


@pytest.mark.ray
@pytest.mark.slow
def test_many_inputs_are_probed_on_ray_once_and_an_interrupted_planning_goes_on(
    tmp_path: Path, shards: Path, handocc: Callable[..., Any]
) -> None:
    folder, out = many(tmp_path / "in", shards, 3000), tmp_path / "out"
    command = ("annotate", str(folder), "--output", str(out), *TINY, "--limit", "12")
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *command], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and not list(out.glob("plan/*.parquet")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == exits.INTERRUPTED, said
    assert "planning: 3000 inputs are looked at" in said
    kept = len(load_plan(str(out)))
    assert 0 < kept < 3000
    status = handocc("status", out)
    assert status.returncode == exits.INTERRUPTED
    assert f"{kept} units are planned so far" in status.stdout
    done = handocc(*command)
    assert done.returncode == 0, done.stderr
    assert "it goes on where it was" in done.stderr
    assert f"planning: {3000 - kept} inputs are looked at" in done.stderr
    names = [unit.unit_id for unit in load_plan(str(out))]
    assert names == [unit_id(str(folder / f"{number:04d}.tar"), 0, 12) for number in range(3000)]
    again = handocc(*command)
    assert "planning" not in again.stderr
    assert "nothing was left to do" in again.stdout


@pytest.mark.ray
@pytest.mark.slow
def test_a_dry_run_of_many_inputs_shows_the_plan_and_writes_nothing(
    tmp_path: Path, shards: Path, handocc: Callable[..., Any]
) -> None:
    folder = many(tmp_path / "in", shards, 200)
    done = handocc("annotate", folder, "--output", tmp_path / "out", *TINY, "--unit-rows", "6", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "planning: 200 of 200 inputs" in done.stderr
    assert "400 units, 2400 samples, 0 units done" in done.stdout
    assert not (tmp_path / "out").exists()


def test_the_plan_of_a_job_with_other_settings_is_never_taken_for_ones_own(tmp_path: Path) -> None:
    output = str(tmp_path)
    part = tmp_path / "plan" / "000000.parquet"
    others = tmp_path / "plan" / "house" / "000000.dwg"
    others.parent.mkdir(parents=True)
    others.touch()

    def planned(fingerprint: str) -> bool:
        """Begins a planning; says whether what was planned before is still there."""
        planning.begin(output, fingerprint)
        kept = part.exists()
        part.write_bytes(b"")
        return kept

    assert not planned("a")
    assert planned("a"), "an interrupted planning goes on"
    (tmp_path / "job.json").write_text(json.dumps({"fingerprint": "a"}))
    planning.end(output)
    assert planning.planned_by(output) == "a"
    assert planned("a"), "so does a plan that is whole"
    assert not planned("b"), "--overwrite"
    assert planned("b"), "and killed before job.json was there"
    assert not planned("a"), "back to the first job, whose job.json still stands"
    assert planning.is_unfinished(output)
    assert others.exists()


@pytest.mark.parametrize(
    "command",
    [
        ("track", "OUTPUT"),
        ("pseudo-label", "--predictions", "OUTPUT", "--min-confidence", "0", "--output", "ANOTHER"),
        (
            "evaluate",
            "--predictions",
            "OUTPUT",
            "--data",
            "a.tar",
            "--dataset",
            "shards",
            "--output",
            "ANOTHER",
        ),
        ("calibrate", "--predictions", "OUTPUT", "--data", "a.tar", "--output", "ANOTHER"),
    ],
    ids=lambda command: command[0],
)
def test_nobody_reads_an_output_whose_plan_is_not_whole(
    tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    output = annotate(shards, tmp_path / "annotated")
    planning.begin(str(output), "of another job")
    places = {"OUTPUT": str(output), "ANOTHER": str(tmp_path / "another"), "a.tar": f"{shards}/*.tar"}
    assert main([places.get(word, word) for word in command]) == exits.USAGE
    assert "it is being planned, or that was interrupted" in capsys.readouterr().err


def test_a_refused_request_leaves_an_output_that_takes_the_mended_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "in.parquet")
    common = ["annotate", str(tmp_path / "in.parquet"), "--output", str(tmp_path / "out"), *TINY]
    assert main(common) == exits.USAGE
    assert "carries no boxes" in capsys.readouterr().err.splitlines()[-1]
    mended = [*common, "--boxes", "whole", "--side", "right", "--dry-run"]
    assert main(mended) == exits.DONE
    assert "1 units, 1 samples, 0 units done" in capsys.readouterr().out
