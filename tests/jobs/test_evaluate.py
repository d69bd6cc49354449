"""`handocc evaluate` through the command, on predictions that are right, or wrong in a known way."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from jobs.cli import main
from jobs.cluster import connect
from jobs.evaluate import Options
from model.mano.synthetic import synthetic_hand
from pipeline.records import UnitRecord
from pipeline.synthesis.sample import SceneSpec
from pipeline.synthesis.shards import MakeShard, plan_shards
from tests.pipeline.evaluation.annotated import Hand, annotate
from tests.pipeline.evaluation.measured import copy
from tests.training_shards import changed, label

DATASETS = get_type_hints(Options)["dataset"].__args__
# The worst hands are drawn, which takes longer than to measure all.
NO_PICTURES = ("--worst", "0")
TURN = Rotation.from_rotvec([0.3, -0.2, 0.5]).as_matrix()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One cluster for all commands of this module that run in this process."""
    with connect(None):
        yield


def evaluate(shards: Path, output: Path, dataset: str = "shards", *more: str | Path) -> dict[str, Any]:
    arguments = ["evaluate", "--data", f"{shards}/*.tar", "--dataset", dataset, "--output", output, *more]
    status = main([str(word) for word in arguments])
    assert status in (0, 1), status
    metrics: dict[str, Any] = json.loads((output / "metrics.json").read_text())
    assert status == (1 if metrics["hands"]["missing"] or metrics["hands"]["rejected"] else 0)
    return metrics


def means(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: row["mean"] for name, row in metrics["metrics"].items() if row["mean"] is not None}


@pytest.fixture(scope="module")
def perfect(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    return annotate(shards, tmp_path_factory.mktemp("perfect"))


@pytest.mark.ray
@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.usefixtures("cluster")
def test_the_truth_itself_has_no_error_in_any_protocol(
    shards: Path, perfect: Path, tmp_path: Path, dataset: str
) -> None:
    metrics = evaluate(shards, tmp_path / "out", dataset, "--predictions", perfect, *NO_PICTURES)
    found = means(metrics)
    assert metrics["hands"]["measured"] > 24
    assert {"mpjpe_mm", "pa_mpjpe_mm", "mpvpe_mm", "pa_mpvpe_mm"} <= found.keys()
    assert all(value < 1e-3 for name, value in found.items() if name.endswith("_mm"))
    assert all(value == 1 for name, value in found.items() if name.rpartition("_")[2] in ("f5", "f15"))
    assert all(value > 0.99 for name, value in found.items() if name.endswith("auc"))
    assert not found["failed"]


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_turned_hand_is_wrong_before_alignment_and_right_after_it(shards: Path, tmp_path: Path) -> None:
    def turned(_key: str, hand: Hand) -> Hand:
        return hand.moved(lambda points: 1.1 * points @ TURN.T)

    predictions = annotate(shards, tmp_path / "predictions", turned)
    metrics = evaluate(
        shards, tmp_path / "out", "shards", "--predictions", predictions, "--baseline", "mean-pose"
    )
    found = means(metrics)
    assert found["pa_mpjpe_mm"] < 1e-3
    assert found["pa_mpvpe_mm"] < 1e-3
    assert found["pa_f5"] == 1
    assert found["f5"] < 0.9

    labels = labelled_hands(shards)
    expected = np.mean([np.linalg.norm(1.1 * hand @ TURN.T - hand, axis=1).mean() for hand in labels])
    assert found["mpjpe_mm"] == pytest.approx(1000 * expected, rel=1e-5)
    row = metrics["metrics"]["mpjpe_mm"]
    assert row["low"] < row["mean"] < row["high"]
    sides = metrics["by"]["side"]
    assert sum(side["mpjpe_mm"]["samples"] for side in sides.values()) == metrics["hands"]["measured"]
    assert found["baseline_pa_mpjpe_mm"] > 1
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| the hand at rest" in text
    assert (tmp_path / "out" / "worst.jpg").stat().st_size > 1000


def labelled_hands(shards: Path) -> list[NDArray[np.float64]]:
    """The joints of every labelled hand, wrist at the origin."""
    from pipeline.inputs import find_inputs
    from pipeline.records import Unit
    from pipeline.sources import webdataset

    hands = []
    for source in find_inputs([f"{shards}/*.tar"])[0]:
        unit = Unit("u", "webdataset", source.uri, 0, 12, 0, source.version, 0, source.files[0].size)
        for sample in webdataset.read_as_named(unit):
            joints = [np.array(hand["joints_3d"]) for hand in sample.label["hands"]]
            hands += [points - points[0] for points in joints]
    return hands


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_shards_of_one_name_are_not_measured_against_each_others_annotations(
    shards: Path, perfect: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, seed in (("others", 4), ("copies", 3)):
        (tmp_path / name).mkdir()
        make = MakeShard(str(tmp_path / name), seed, SceneSpec(size=160, vertices=True), synthetic_hand())
        for unit in plan_shards(str(tmp_path / name), count=24, seed=3, per_shard=12):
            make(UnitRecord(unit))

    def refused(*data: str) -> str:
        command = ["evaluate", "--dataset", "shards", "--predictions", str(perfect), "--data", *data]
        assert main([*command, "--output", str(tmp_path / "out")]) == 2
        return capsys.readouterr().err

    others, copies = f"{tmp_path}/others/*.tar", f"{tmp_path}/copies/*.tar"
    assert "it holds other pictures; annotate it" in refused(others)
    assert "holds no annotations of it; annotate it first" in refused(f"{shards}/*.tar", copies)
    assert "leave out the other one" in refused(others, copies)
    metrics = evaluate(tmp_path / "copies", tmp_path / "of-copies", "shards", "--predictions", perfect)
    assert metrics["metrics"]["mpjpe_mm"]["mean"] < 1e-3

    # Nor against those of what lay in the same place before.
    own = str(annotate(tmp_path / "copies", tmp_path / "annotated"))
    copy(tmp_path / "others", tmp_path / "copies")
    command = ["evaluate", "--dataset", "shards", "--predictions", own, "--data", copies]
    assert main([*command, "--output", str(tmp_path / "out")]) == 2
    assert "as it was annotated, but its hands lie elsewhere" in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_mirrored_hand_passes_where_the_benchmark_allows_reflections(shards: Path, tmp_path: Path) -> None:
    def mirrored(_key: str, hand: Hand) -> Hand:
        return hand.moved(lambda points: points * (-1, 1, 1))

    predictions = annotate(shards, tmp_path / "predictions", mirrored)
    by_toolkit = means(
        evaluate(shards, tmp_path / "toolkit", "dexycb", "--predictions", predictions, *NO_PICTURES)
    )
    by_paper = means(evaluate(shards, tmp_path / "own", "shards", "--predictions", predictions, *NO_PICTURES))
    assert by_toolkit["pa_mpjpe_mm"] < 1e-3
    assert by_toolkit["paper_pa_mpjpe_mm"] > 1
    assert by_paper["pa_mpjpe_mm"] == pytest.approx(by_toolkit["paper_pa_mpjpe_mm"])


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_hand_without_a_prediction_fails_and_is_named(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def all_but_one(key: str, hand: Hand) -> Hand | None:
        return None if key == "00000003" else hand

    predictions = annotate(shards, tmp_path / "predictions", all_but_one)
    metrics = evaluate(shards, tmp_path / "out", "ho3d-v2", "--predictions", predictions, *NO_PICTURES)
    hands, found = metrics["hands"], means(metrics)
    assert hands["missing"] >= 1
    assert metrics["reasons"] == {"box outside": hands["missing"]}
    count = hands["measured"] + hands["missing"]
    assert found["failed"] == pytest.approx(hands["missing"] / count)
    assert found["f15"] == pytest.approx(hands["measured"] / count)
    assert metrics["metrics"]["mpjpe_mm"]["samples"] == hands["measured"]
    said = capsys.readouterr()
    assert f"{hands['missing']} hands have no prediction" in said.err
    assert "not comparable with the paper" in said.err
    assert "HandOccNet" in said.out
    assert "24.9" in said.out
    rows = [
        row
        for path in (tmp_path / "out" / "errors").iterdir()
        for row in pq.read_table(path).to_pylist()
        if row["status"] == "missing"
    ]
    assert {row["key"] for row in rows} == {"00000003"}
    assert all(row["reason"].startswith("box outside") and row["mpjpe_mm"] is None for row in rows)


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_only_what_changed_is_measured_anew_and_the_sums_are_the_same(
    shards: Path, perfect: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = evaluate(shards, out, "shards", "--predictions", perfect, *NO_PICTURES)
    assert first["this_run"]["units"] == 6
    before = {path.name: path.read_bytes() for path in (out / "errors").iterdir()}
    next((out / "errors").iterdir()).unlink()
    again = evaluate(shards, out, "shards", "--predictions", perfect, *NO_PICTURES)
    assert again["this_run"]["units"] == 1
    assert {path.name: path.read_bytes() for path in (out / "errors").iterdir()} == before
    assert again["metrics"] == first["metrics"]
    assert again["by"] == first["by"]
    # Another protocol in the same output is another job, and so are another's hands: refused before they are made.
    for other in (
        ["--dataset", "freihand", "--predictions", str(perfect)],
        ["--dataset", "shards", "--model", "tiny", "--weights", "random:0"],
    ):
        assert main(["evaluate", "--data", f"{shards}/*.tar", "--output", str(out), *other]) == 2
    assert not (out / "predictions").exists()


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_network_is_run_measured_and_continued(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = ("--model", "tiny", "--weights", "random:0", "--unit-rows", "12", "--worst", "2")
    shards = Path(shutil.copytree(shards, tmp_path / "in"))
    first = evaluate(shards, tmp_path, "shards", *network, "--limit", "12")
    assert first["this_run"]["units"] == 1
    assert "the network is untrained: its numbers mean nothing" in capsys.readouterr().err
    kept = {path.name: path.read_bytes() for path in (tmp_path / "errors").iterdir()}
    assert main(["status", f"{tmp_path}/predictions"]) == 3

    whole = evaluate(shards, tmp_path, "shards", *network)
    assert whole["this_run"]["units"] == 1
    now = {path.name: path.read_bytes() for path in (tmp_path / "errors").iterdir()}
    assert (len(kept), len(now)) == (1, 2)
    assert kept.items() <= now.items()
    assert main(["status", f"{tmp_path}/predictions"]) == 0
    again = evaluate(shards, tmp_path, "shards", *network)
    assert again["this_run"]["units"] == 0
    assert again["metrics"] == whole["metrics"]
    assert again["hands"]["measured"] > 24
    assert 20 < means(again)["mpjpe_mm"] < 400

    # Merged parts hold the rows of a shard that is replaced: they leave before it is annotated anew.
    assert main(["compact", f"{tmp_path}/predictions"]) == 0
    last = sorted(shards.glob("*.tar"))[-1]
    changed(changed(last, tmp_path / "changed.tar", {}), last, {"00000012.json": label("split", "another")})
    assert evaluate(shards, tmp_path, "shards", *network)["this_run"]["units"] == 1
    rows = pq.read_table(tmp_path / "predictions" / "annotations", columns=["instance_id"])["instance_id"]
    assert len(set(rows.to_pylist())) == len(rows) == again["hands"]["measured"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "needs --weights, to annotate the shards, or --predictions"),
        (["--weights", "random:0", "--predictions", "p"], "one of them"),
        (["--predictions", "nowhere"], "no output of `handocc annotate`"),
        (["--weights", "random:0", "--model", "tiny", "--worst", "-1"], "--worst -1: must not be negative"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    base = ["--data", f"{shards}/*.tar", "--dataset", "shards", "--output", f"{tmp_path}/out"]
    assert main(["evaluate", *base, *arguments]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("handocc evaluate: ")
    assert said in last


def test_annotations_that_are_not_whole_or_not_of_these_boxes_are_refused(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = annotate(shards, tmp_path / "predictions")
    base = ["evaluate", "--data", f"{shards}/*.tar", "--dataset", "shards", "--output", f"{tmp_path}/out"]
    next((predictions / "annotations").iterdir()).unlink()
    assert main([*base, "--predictions", str(predictions)]) == 2
    assert "1 of 6 units of these shards are not annotated yet" in capsys.readouterr().err
    job = json.loads((predictions / "job.json").read_text())
    job["content"]["boxes"] = "whole"
    (predictions / "job.json").write_text(json.dumps(job))
    assert main([*base, "--predictions", str(predictions)]) == 2
    assert "nobody knows which of the labelled hands is meant" in capsys.readouterr().err
