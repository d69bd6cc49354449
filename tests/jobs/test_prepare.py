"""`handocc prepare` as a person runs it: what is done is kept, what was missing is made up for, all is accounted."""

import hashlib
import json
from pathlib import Path

import pytest

from jobs.cli import main
from pipeline.records import Counts
from tests.conftest import Handocc
from tests.datasets import ho3d
from tests.datasets.truth import write_mano
from tests.pipeline.datasets.prepared import read_back


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.tar"))}


@pytest.mark.ray
@pytest.mark.slow
def test_a_half_downloaded_benchmark_is_prepared_and_completed_later(
    tmp_path: Path, handocc_on_one_ray: Handocc
) -> None:
    root, mano, out = ho3d.build(tmp_path / "root"), write_mano(tmp_path / "mano"), tmp_path / "out"
    picture = root / "train/MC1/rgb/0007.png"
    kept = picture.read_bytes()
    picture.unlink()
    command = ("prepare", "ho3d-v2", root, "--output", out, "--mano", mano, "--per-shard", 2)

    first = handocc_on_one_ray(*command)
    assert first.returncode == 1, first.stderr
    assert "4 frames: 2 with a hand, 1 without, 1 rejected" in first.stdout
    assert "missing image" in first.stdout
    assert "MANO's joints lie 0.00 mm from the labelled ones of right hands" in first.stdout
    (row,) = [row for row in read_back(out, Counts()).ledger if row["status"] == "rejected"]
    assert row["reason"] == "missing image: train/MC1/rgb/0007.png"
    done = digests(out)
    assert sorted(done) == ["ho3d-v2-train-00000000-00000002.tar", "ho3d-v2-train-00000002-00000004.tar"]

    picture.write_bytes(kept)
    (out / "ho3d-v2-train-00000000-00000002.tar").unlink()
    again = handocc_on_one_ray(*command, "--retry-rejected")
    assert again.returncode == 0, again.stderr
    assert "4 frames: 3 with a hand, 1 without, 0 rejected" in again.stdout
    assert digests(out)["ho3d-v2-train-00000000-00000002.tar"] == done["ho3d-v2-train-00000000-00000002.tar"]
    assert list(read_back(out, Counts()).labels) == list(ho3d.TRAIN)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["counts"]["samples_with_hands"] == 3
    assert summary["agreement"]["right"]["joints_in_box"] == 1.0

    # Nothing is left: no cluster is started.
    assert main([str(word) for word in command]) == 0
    assert main([*map(str, command), "--split", "evaluation"]) == 2
    whole = digests(out)
    assert main([*map(str, command), "--overwrite"]) == 0, "another job's shards, not its own"
    assert digests(out) == whole
    (out / "ho3d-v2-train-notes.tar").write_bytes(b"of somebody else")
    anew = handocc_on_one_ray(*command, "--per-shard", 4, "--overwrite")
    assert anew.returncode == 0, anew.stderr
    assert sorted(digests(out)) == ["ho3d-v2-train-00000000-00000004.tar", "ho3d-v2-train-notes.tar"]
    assert [path.name for path in (out / "ledger").iterdir()] == ["ho3d-v2-train-00000000-00000004.parquet"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ho3d-v4", "."], "there are ho3d-v2, ho3d-v3, fpha, dexycb, freihand, coco"),
        (["ho3d-v2", ".", "--split", "test"], "--split test: HO-3D version 2 has train, evaluation"),
        (["ho3d-v2", "nowhere"], "nowhere: no such folder; ROOT must be the folder of HO-3D version 2"),
        (
            ["dexycb", "."],
            "its poses are coefficients of MANO's components; give a folder with MANO_RIGHT.pkl",
        ),
        (["freihand", "."], "its poses count from MANO's mean pose"),
        (["ho3d-v2", ".", "--mano", "nowhere"], "--mano nowhere: no such file or folder"),
        (["ho3d-v2", ".", "--per-shard", "0"], "--per-shard 0: must be at least 1"),
        (["ho3d-v2", "."], "there is no train.txt"),
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
    assert main(["prepare", *arguments, "--output", "out"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("handocc prepare: ")
    assert said in last
    assert not (tmp_path / "out").exists()
