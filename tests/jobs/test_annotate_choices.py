"""Options that change what a run does, and inputs as people have them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import duckdb
import numpy as np
import pytest

from jobs.cli import main

pytestmark = pytest.mark.ray

TINY = ("--model", "tiny", "--weights", "random:0")
WHOLE = ("--boxes", "whole", "--side", "right")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 130 files, every third of which is no image."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(130):
        path = folder / f"{number:03d}.png"
        cv2.imwrite(str(path), np.full((40, 60, 3), number, np.uint8))
        if number % 3 == 2:
            path.write_bytes(path.read_bytes()[:60])
    return folder


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    tmp_path: Path, photos: Path, handocc_here: Callable[..., Any]
) -> None:
    done = handocc_here(
        "annotate", photos, "--output", tmp_path / "out", *TINY, *WHOLE, "--unit-rows", 50, "--dry-run"
    )
    assert done.returncode == 0, done.stderr
    assert "3 units, 130 samples, 0 units done" in done.stdout
    assert "infer" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_dry_run_that_would_overwrite_shows_the_plan_that_would_be_made(
    tmp_path: Path, photos: Path, handocc_on_one_ray: Callable[..., Any]
) -> None:
    common = ("annotate", photos, "--output", tmp_path / "out", *TINY, *WHOLE)
    first = handocc_on_one_ray(*common, "--unit-rows", 130, "--limit", 1)
    assert first.returncode == 1, first.stderr
    before = sorted(tmp_path.rglob("*"))
    assert (
        "1 units, 130 samples, 1 units done"
        in handocc_on_one_ray(*common, "--unit-rows", 130, "--dry-run").stdout
    )
    refused = handocc_on_one_ray(*common, "--unit-rows", 50, "--dry-run")
    assert refused.returncode == 2
    anew = handocc_on_one_ray(*common, "--unit-rows", 50, "--dry-run", "--overwrite")
    assert anew.returncode == 0, anew.stderr
    assert "3 units, 130 samples, 0 units done" in anew.stdout
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--boxes", "detect", "--side", "left"), "the detector says whose hand it is"),
        ((*WHOLE, "--max-hands", "3"), "--max-hands 3: changes nothing without --boxes detect"),
        ((*WHOLE, "--tiles", "3"), "--tiles 3: changes nothing"),
        ((*WHOLE, "--detector", "hands.task"), "--detector hands.task: changes nothing"),
        ((*WHOLE, "--gpus-per-actor", "nan"), "--gpus-per-actor nan: must be 0 or more"),
        ((*WHOLE, "--gpus-per-actor", "inf"), "--gpus-per-actor inf: must be 0 or more"),
        ((*WHOLE, "--gpus-per-actor", "1.5"), "--gpus-per-actor 1.5: must be a whole number"),
        (("--boxes", "b.csv"), "names the film 'a.mp4' without saying which frame"),
    ],
)
def test_options_that_would_change_nothing_or_find_nothing_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: Any,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.mp4").write_bytes(b"")
    Path("b.csv").write_text("key,x,y,w,h,side\na.mp4,1,2,3,4,left\n")
    assert main(["annotate", "a.mp4", "--output", "out", *TINY, *options]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if not line.startswith("note:"))
    assert says in line
    assert not Path("out").exists()


@pytest.mark.slow
def test_a_limited_run_is_a_prefix_of_the_whole_one_and_rejects_can_be_retried(
    tmp_path: Path, photos: Path, handocc_on_one_ray: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    common = ("annotate", photos, "--output", out, *TINY, *WHOLE, "--unit-rows", 30)
    limited = handocc_on_one_ray(*common, "--limit", 31)
    assert limited.returncode == 1, limited.stderr
    assert "(3 units of the plan are left)" in limited.stdout
    assert not (out / "summary.json").exists()
    left = handocc_on_one_ray("status", out)
    assert (left.returncode, "ended at its --limit: give it none" in left.stdout) == (3, True)
    whole = handocc_on_one_ray(*common)
    assert "this run: 3 units" in whole.stdout
    counts = json.loads((out / "summary.json").read_text())["counts"]
    assert (counts["samples"], counts["hands_annotated"], counts["hands_rejected"]) == (130, 87, 43)
    assert counts["rejects"] == {"unreadable image": 43}
    retried = handocc_on_one_ray(*common, "--retry-rejected")
    assert "this run: 5 units" in retried.stdout
    assert json.loads((out / "summary.json").read_text())["counts"] == counts


@pytest.mark.slow
def test_too_many_rejects_stop_the_job_with_status_4(
    tmp_path: Path, photos: Path, handocc: Callable[..., Any]
) -> None:
    options = (*TINY, *WHOLE, "--unit-rows", 26, "--max-reject-rate", 0.2)
    done = handocc("annotate", photos, "--output", tmp_path / "out", *options)
    assert done.returncode == 4, done.stderr
    assert "stopped by --max-reject-rate" in done.stderr


def test_real_photographs_are_annotated_and_the_broken_ones_accounted_for(
    tmp_path: Path, shared: Path, handocc: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    images = shared / "real" / "images"
    done = handocc("annotate", images, "--output", out, *TINY, *WHOLE, "--vertices", "--meshes", "ply")
    assert done.returncode == 1, done.stderr
    ledger = duckdb.sql(f"select key, status, reason from '{out}/ledger/*.parquet'").fetchall()
    assert {key for key, _, _ in ledger} == {path.name for path in images.iterdir()}
    assert {key: reason for key, status, reason in ledger if status == "rejected"} == {
        "broken_stream.png": "unreadable image: unrecognized data stream contents when reading image file",
        "truncated.png": "unreadable image: image file is truncated",
    }
    sizes = duckdb.sql(f"select key, image_width, image_height from '{out}/annotations/*.parquet'").fetchall()
    assert ("exif_orientation6_no_hand.jpg", 1200, 1800) in sizes
    assert len(list(out.glob("meshes/*/*.ply"))) == 13


@pytest.mark.slow
def test_a_checkpoint_in_the_published_layout_runs_with_the_mano_arrays_inside_it(
    tmp_path: Path, shared: Path, shards: Path, handocc_on_one_ray: Callable[..., Any]
) -> None:
    checkpoint = tmp_path / "snapshot_demo.pth.tar"
    rule = shared / "reference" / "parity" / "make_weights.py"
    subprocess.run([sys.executable, rule, "--pt", checkpoint], check=True, capture_output=True)
    out = tmp_path / "out"
    inputs = sorted(shards.glob("*.tar"))[0]
    options = ("--model", "release", "--weights", checkpoint, "--meshes", "tar", "--vertices")
    done = handocc_on_one_ray("annotate", inputs, "--output", out, *options)
    assert done.returncode == 0, done.stderr
    job = json.loads((out / "job.json").read_text())
    assert job["weights"]["source"] == "published"
    assert len(job["hand_model"]) == 64
    assert duckdb.sql(f"select count(*) from '{out}/annotations/*.parquet'").fetchall()[0][0] >= 12
    refused = handocc_on_one_ray(
        "annotate", inputs, "--output", tmp_path / "b", *options, "--mano", "synthetic"
    )
    assert refused.returncode == 2
    assert "trained on hand model" in refused.stderr


def test_weights_of_another_model_are_refused_with_the_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["annotate", "a.mp4", "--output", "out", "--weights", "shipped:tiny", "--model", "paper"]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--weights shipped:tiny: weights: the file's model 'tiny' is not the 'paper' asked for: " in line
    assert line.endswith("; leave --model out, and the file decides")
