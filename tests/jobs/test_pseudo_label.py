"""`handocc pseudo-label` as a person runs it: what it writes is read by training, killed or not it is the same."""

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from jobs.training.shards import hand_model_named
from model.augmentation import AugmentationRanges
from model.mano.synthetic import synthetic_hand
from pipeline.training.order import Order
from pipeline.training.windows import WindowReader
from tests.conftest import REPOSITORY, Handocc
from tests.pipeline.evaluation.annotated import annotate
from tests.training_shards import segments

NETWORK = ("--model", "tiny", "--weights", "random:0")


def digests(folder: Path) -> dict[str, str]:
    paths = [*folder.glob("*.tar"), folder / "manifest.parquet", *(folder / "accounts").glob("*.parquet")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}


def require_sums(output: Path) -> dict[str, Any]:
    """Holds the manifest against itself and against what is there."""
    manifest: dict[str, Any] = json.loads((output / "manifest.json").read_text())
    hands = manifest["hands"]
    assert hands["annotated"] == hands["kept"] + sum(hands["dropped"].values())
    for groups in (manifest["by_side"], manifest["by_source"]):
        assert sum(sum(row.values()) for row in groups.values()) == hands["annotated"]
    rows = pq.read_table(output / "manifest.parquet")
    assert rows.num_rows == hands["kept"]
    assert (
        len({*zip(rows["shard"].to_pylist(), rows["member"].to_pylist(), strict=True)})
        == manifest["pictures"]
    )
    assert {*rows["shard"].to_pylist()} == {path.name for path in output.glob("pseudo-*.tar")}
    return manifest


def test_what_another_command_wrote_is_not_overwritten(
    tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotated = annotate(shards, tmp_path / "annotated")
    before = (annotated / "job.json").read_bytes()
    command = ["pseudo-label", "--predictions", str(annotated), "--output", str(annotated), "--overwrite"]
    assert main([*command, "--min-confidence", "0"]) == 2
    assert "is an output of `handocc annotate`; use another --output" in capsys.readouterr().err
    assert (annotated / "job.json").read_bytes() == before


def test_inputs_in_the_output_are_refused(
    tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(shards, tmp_path / "in")
    command = ["pseudo-label", f"{tmp_path}/in/*.tar", "--output", f"{tmp_path}/in", "--min-confidence", "0"]
    assert main([*command, *NETWORK]) == 2
    assert "lies in it; use another" in capsys.readouterr().err


def test_other_settings_are_refused_before_anything_is_annotated(
    tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    job = {"command": "pseudo-label", "fingerprint": "f" * 64, "content": {"min_confidence": 0.6}}
    (output / "job.json").write_text(json.dumps(job))
    command = ["pseudo-label", f"{shards}/*.tar", "--output", str(output), "--min-confidence", "0.7"]
    assert main([*command, *NETWORK]) == 2
    assert "min_confidence was 0.6 and is 0.7" in capsys.readouterr().err
    assert [path.name for path in output.iterdir()] == ["job.json"]


@pytest.mark.ray
def test_what_it_writes_is_what_training_reads(
    tmp_path: Path, shards: Path, handocc_on_one_ray: Handocc
) -> None:
    output = tmp_path / "out"
    command = ("pseudo-label", f"{shards}/*.tar", "--output", output, *NETWORK)
    command = (*command, "--min-confidence", "0", "--per-shard", "10", "--licence", "CC0-1.0")
    done = handocc_on_one_ray(*command)
    assert done.returncode == 0, done.stderr
    manifest = require_sums(output)
    assert manifest["licence"] == "CC0-1.0"
    assert not manifest["weights"]["trained"]
    page = (output / "datasheet.html").read_text()
    assert "UNTRAINED" in page
    assert "data:image/jpeg;base64," in page
    assert "http" not in page.split("<table>")[0], "it needs nothing from elsewhere"

    assert hand_model_named([str(output)]) == synthetic_hand().name, "the folder as it is"
    runs = segments(output)
    order = Order([unit.last - unit.first for unit in runs], lanes=1, micro_batch=8, seed=0)
    reader = WindowReader(runs, 64, 0, AugmentationRanges(), synthetic_hand().name)
    (window, *_) = order.windows(0, 0)
    read = reader(window)
    assert not read.skipped
    assert read.samples.has_mano.all()
    assert 0 < read.samples.weight.min() <= read.samples.weight.max() < 1

    # Nothing is left, so that no cluster is started; other settings are refused and chosen anew.
    before = digests(output)
    assert main([str(word) for word in command]) == 0
    assert digests(output) == before
    assert main([str(word) for word in (*command, "--per-source", 5)]) == 2
    shutil.copy(next(shards.glob("*.tar")), tmp_path / "more.tar")
    planned = (output / "predictions" / "job.json").read_bytes()
    more = handocc_on_one_ray(*command[:2], tmp_path / "more.tar", *command[2:])
    assert more.returncode == 2
    assert "more.tar: not among what" in more.stderr
    assert (output / "predictions" / "job.json").read_bytes() == planned, "it was refused before annotating"
    assert handocc_on_one_ray(*command, "--examples", "1").returncode == 0
    assert len((output / "datasheet.html").read_text()) < len(page) / 2, "of one hand, and not of eight"
    assert digests(output) == before
    stored = ("pseudo-label", "--predictions", output / "predictions", "--output", tmp_path / "stored")
    limited = (*stored, "--min-confidence", "0", "--max-expected-error", "8")
    assert main([str(word) for word in limited]) == 2, "an untrained network knows no expected error"
    again = handocc_on_one_ray(*stored, "--min-confidence", "0", "--per-source", "5", "--still-mm", "0")
    assert again.returncode == 0, again.stderr
    assert require_sums(tmp_path / "stored")["hands"]["kept"] == 10


@pytest.mark.ray
@pytest.mark.slow
def test_killed_again_and_again_it_writes_the_same_bytes(
    tmp_path: Path, shards: Path, handocc: Handocc
) -> None:
    def command(output: Path) -> Sequence[str]:
        options = ["--min-confidence", "0", "--per-shard", "4", "--per-cluster", "3", "--pose-clusters", "5"]
        return ["pseudo-label", f"{shards}/*.tar", "--output", str(output), *NETWORK, *options]

    assert handocc(*command(tmp_path / "undisturbed")).returncode == 0
    output = tmp_path / "out"
    # What annotate does when it is killed is held by its own tests.
    for moment in ("survey/*.parquet", "pseudo-*.tar"):
        watched = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", *command(output)],
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 300
        while not list(output.glob(moment)) and watched.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        watched.kill()
        watched.wait()
        assert list(output.glob(moment)), moment
    assert not (output / "manifest.json").exists()
    done = handocc(*command(output))
    assert done.returncode == 0, done.stderr
    assert digests(output) == digests(tmp_path / "undisturbed")
    require_sums(output)
    assert not list(output.rglob(".tmp-*"))


@pytest.mark.ray
@pytest.mark.slow
def test_pictures_that_were_away_are_tried_again_and_the_files_of_others_stay(
    tmp_path: Path, shards: Path, handocc_on_one_ray: Handocc
) -> None:
    inputs, output = tmp_path / "in", tmp_path / "out"
    shutil.copytree(shards, inputs)
    predictions = tmp_path / "annotated"
    assert (
        handocc_on_one_ray("annotate", f"{inputs}/*.tar", "--output", predictions, *NETWORK).returncode == 0
    )
    first, _ = sorted(inputs.glob("*.tar"))
    first.rename(tmp_path / "away")
    command = ("pseudo-label", "--predictions", predictions, "--output", output, "--min-confidence", "0")
    command = (*command, "--per-shard", "10", "--still-mm", "0")
    done = handocc_on_one_ray(*command)
    assert done.returncode == 1, done.stderr
    assert "--retry-rejected tries again" in done.stderr
    assert require_sums(output)["hands"]["dropped"].keys() == {"unreadable picture"}
    (tmp_path / "away").rename(first)
    (output / "pseudo-notes.md").write_text("mine")
    again = handocc_on_one_ray(*command, "--retry-rejected")
    assert again.returncode == 0, again.stderr
    assert not require_sums(output)["hands"]["dropped"]
    assert (output / "pseudo-notes.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "needs --min-confidence"),
        (["--min-confidence", "0.5"], "needs INPUTS, to annotate them, or --predictions"),
        (["in", "--min-confidence", "2"], "--min-confidence 2: must be between 0 and 1"),
        (["in", "--min-confidence", "0", "--min-confidence-of", "left"], "must be [SIDE:]GLOB=X"),
        (["in", "--min-confidence", "0", "--per-cluster", "0"], "--per-cluster 0: must be at least 1"),
        (["in", "--min-confidence", "0", "--equal-bits", "4"], "must be between -1 and 3"),
        (["in", "--min-confidence", "0", "--weight-power", "-1"], "must not be negative"),
        (["--predictions", "p", "--min-confidence", "0", "--boxes", "whole"], "leave out --boxes"),
        (["--predictions", "nowhere", "--min-confidence", "0"], "no output of `handocc annotate`"),
        ([".", "--min-confidence", "0"], "--output out: lies inside the input"),
        (
            ["in", "--min-confidence", "0", "--max-expected-error", "8", *NETWORK],
            "--max-expected-error: the weights are not calibrated",
        ),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["pseudo-label", *arguments, "--output", "out"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("handocc pseudo-label: ")
    assert said in last
