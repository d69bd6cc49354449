"""The command, from films to tracks: on Ray, killed and started again, continued, refused."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from jobs.record import OF_ANNOTATE
from pipeline.cut import input_id
from tests.films import FAST, PLAIN, encode, overwritten, remuxed
from tests.pipeline.tracking.annotated import Noise, annotate

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
FILMS = "--films 4 --frames 20 --seed 3 --size 64".split()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory, handocc: Callable[..., Any]) -> Path:
    folder = tmp_path_factory.mktemp("films")
    done = handocc("synthesize", "--output", folder, *FILMS)
    assert done.returncode == 0, done.stderr
    assert "4 films of 20 frames" in done.stdout
    return folder


def parts(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((output / "tracks").glob("*.parquet"))}


def test_films_are_annotated_tracked_and_measured(
    films: Path, tmp_path: Path, handocc_on_one_ray: Callable[..., Any]
) -> None:
    output = tmp_path / "out"
    boxes = [
        "--boxes",
        films / "boxes.parquet",
        "--model",
        "tiny",
        "--weights",
        "random:0",
        "--unit-rows",
        "9",
    ]
    done = handocc_on_one_ray("annotate", films / "films", "--output", output, *boxes)
    assert done.returncode == 0, done.stderr
    done = handocc_on_one_ray("track", output, "--truth", films / "truth")
    assert done.returncode == 0, done.stderr
    assert "4 films (4 in this run): 6 tracks in 80 frames" in done.stdout
    assert "acceleration_mm_per_frame2" in done.stdout
    summary = json.loads((output / "tracks.json").read_text())
    assert summary["total"]["hands"] == summary["total"]["tracked"] == 120
    assert (summary["truth"]["hands"], summary["truth"]["mistaken"]) == (6, 0)
    table = pq.read_table(output / "tracks")
    assert table.num_rows == 120
    assert set(table["instance_id"].to_pylist()) == set(
        pq.read_table(output / "annotations")["instance_id"].to_pylist()
    )


def test_killed_and_started_again_it_leaves_the_same_bytes(
    films: Path, tmp_path: Path, handocc: Callable[..., Any]
) -> None:
    outputs = []
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        outputs.append(annotate(films, tmp_path / name, Noise(turns=0.05, lost=0.1), rows=9))
    whole, killed = outputs
    assert handocc("track", whole).returncode == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "track", str(killed)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not parts(killed) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = parts(killed)
    assert before, "it was killed before anything was there"
    again = handocc("track", killed)
    assert again.returncode == 0, again.stderr
    # What a worker was at when its driver was killed may have come after the count.
    made_now = re.search(r"4 films \((\d) in this run\)", again.stdout)
    assert made_now is not None
    assert int(made_now[1]) <= 4 - len(before)
    assert parts(killed) == parts(whole)
    assert "4 films (0 in this run)" in handocc("track", killed).stdout
    refused = handocc("track", killed, "--smoothing", "0.1")
    assert refused.returncode == 2
    assert "smoothing_s was 0.05 and is 0.1" in refused.stderr
    assert "4 films (4 in this run)" in handocc("track", killed, "--smoothing", "0.1", "--overwrite").stdout
    assert parts(killed).keys() == parts(whole).keys()
    assert parts(killed) != parts(whole)


def test_what_is_annotated_anew_loses_its_tracks_and_no_other_film_does(
    tmp_path: Path, handocc_on_one_ray: Callable[..., Any]
) -> None:
    whole = encode(tmp_path, PLAIN, frames=16)
    front = remuxed(whole, tmp_path / "front.mp4", FAST)
    films, output = tmp_path / "films", tmp_path / "out"
    films.mkdir()
    (films / "whole.mp4").write_bytes(whole.read_bytes())
    # Some of its frames are rejected, none is given up.
    (films / "overwritten.mp4").write_bytes(overwritten(front, 0.5, len(front) // 300))
    how = ["annotate", films, "--output", output, "--model", "tiny", "--weights", "random:0"]
    how += ["--boxes", "whole", "--side", "right", "--batch-size", "8"]
    assert handocc_on_one_ray(*how).returncode == 1
    assert handocc_on_one_ray("track", output).returncode == 0
    both = parts(output)
    assert handocc_on_one_ray(*how).returncode == 1
    assert parts(output) == both, "nothing was done anew"
    assert handocc_on_one_ray(*how, "--retry-rejected").returncode == 1
    (kept,) = parts(output).items()
    assert kept in both.items()
    assert kept[0].startswith(input_id(f"file://{films}/whole.mp4"))
    assert len(both) == 2
    assert handocc_on_one_ray(*how, "--precision", "bf16", "--overwrite").returncode == 1
    assert not parts(output)


def test_a_truth_by_index_is_none_for_hands_that_were_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job: dict[str, Any] = {name: kind() for name, kind in OF_ANNOTATE.items()}
    job |= {"command": "annotate", "fingerprint": "f" * 64, "content": {"boxes": "detect max_hands=8"}}
    (tmp_path / "job.json").write_text(json.dumps(job))
    assert main(["track", str(tmp_path), "--truth", str(tmp_path / "truth")]) == 2
    assert "was annotated with --boxes detect" in capsys.readouterr().err
