"""The files for the benchmarks' servers, read by readers written from the formats' descriptions."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.hand_models import load_hand_models
from pipeline.evaluation.report import headlines
from pipeline.evaluation.submissions import NoSubmission, Submission, write_submission
from pipeline.evaluation.summary import summarise
from tests.datasets import dexycb, freihand, ho3d
from tests.datasets.truth import write_mano
from tests.pipeline.datasets.prepared import prepare
from tests.pipeline.evaluation.annotated import Change, Hand, annotate, unchanged
from tests.pipeline.evaluation.measured import measure
from tests.training_shards import changed, label


def submit(
    root: Path, dataset: str, split: str, tmp_path: Path, change: Change = unchanged, boxes: str = "given"
) -> Submission:
    """Prepares a fixture, takes its truth for a prediction, and writes the submission."""
    models = load_hand_models(str(write_mano(tmp_path / "mano")))
    prepare(dataset, root, split, tmp_path / "shards", models)
    predictions = annotate(tmp_path / "shards", tmp_path / "predictions", change, rows=2, boxes=boxes)
    measured = measure(
        tmp_path / "shards", predictions, tmp_path / "out", dataset, boxes_given=boxes == "given"
    )
    return write_submission(
        measured.output,
        dataset,
        predictions=str(predictions),
        units=measured.units,
        parts=measured.parts,
        poser=None,
    )


def read_zip(submission: Submission) -> tuple[np.ndarray, np.ndarray]:
    with zipfile.ZipFile(submission.uri) as archive:
        assert archive.namelist() == ["pred.json"]
        xyz, verts = json.loads(archive.read("pred.json"))
    return np.array(xyz), np.array(verts)


def published(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """The truth in the very form in which the benchmarks publish it, which is that of a submission."""
    xyz, verts = (json.loads((root / f"evaluation_{name}.json").read_text()) for name in ("xyz", "verts"))
    return np.array(xyz), np.array(verts)


@pytest.mark.parametrize("version", [2, 3])
def test_a_submission_of_the_truth_is_ho3ds_published_truth(tmp_path: Path, version: int) -> None:
    root = ho3d.build(tmp_path / "root", version)
    written = submit(root, f"ho3d-v{version}", "evaluation", tmp_path)
    assert written.uri.endswith("submission/pred.zip")
    for found, truth in zip(read_zip(written), published(root), strict=True):
        assert found.shape == truth.shape
        assert np.abs(found - truth).max() < 1e-6
        # OpenGL: the hand lies before the camera, which looks along -z.
        assert (found[..., 2] < 0).all()
    assert (written.pictures, written.empty, written.unplaced) == (3, 0, 0)


def test_a_picture_without_a_prediction_keeps_its_place(tmp_path: Path) -> None:
    root = ho3d.build(tmp_path / "root")
    second = ho3d.EVALUATION[1]
    written = submit(
        root, "ho3d-v2", "evaluation", tmp_path, lambda key, hand: None if key == second else hand
    )
    (xyz, verts), (true_xyz, true_verts) = read_zip(written), published(root)
    assert np.abs(xyz[[0, 2]] - true_xyz[[0, 2]]).max() < 1e-6
    assert np.abs(verts[[0, 2]] - true_verts[[0, 2]]).max() < 1e-6
    assert np.abs(xyz[1] - true_xyz[1, 0]).max() < 1e-6
    assert written.empty == 1


def test_found_hands_are_submitted_for_the_pictures_where_they_lie(tmp_path: Path) -> None:
    def found(key: str, hand: Hand) -> Hand:
        elsewhere = {"bbox": [-900.0, 0.0, 5.0, 5.0]} if key == ho3d.EVALUATION[1] else {}
        size = {"image_width": 640, "image_height": 480}
        return replace(hand, columns={"hand_index": 4, **size, **elsewhere})

    root = ho3d.build(tmp_path / "root")
    written = submit(root, "ho3d-v2", "evaluation", tmp_path, found, boxes="detect")
    (xyz, _), (true_xyz, _) = read_zip(written), published(root)
    assert np.abs(xyz[[0, 2]] - true_xyz[[0, 2]]).max() < 1e-6
    assert np.abs(xyz[1] - true_xyz[1, 0]).max() < 1e-6
    assert (written.pictures, written.empty) == (3, 1)


def test_without_a_published_truth_there_is_still_a_submission(tmp_path: Path) -> None:
    true = dict(zip(ho3d.EVALUATION, ho3d.hands("evaluation"), strict=True))

    def predicted(key: str, _hand: Hand) -> Hand:
        wrist = true[key].joints[0]
        return Hand(true[key].joints - wrist, true[key].vertices - wrist)

    root = ho3d.build(tmp_path / "root", truth=False)
    xyz, verts = read_zip(submit(root, "ho3d-v2", "evaluation", tmp_path, predicted))
    # HO-3D gives the wrists of its evaluation.
    assert np.abs(xyz - [ho3d.ho3d_joints(hand) for hand in true.values()]).max() < 1e-6
    assert np.abs(verts - [hand.vertices * ho3d.OPENGL for hand in true.values()]).max() < 1e-6
    measured = measure(tmp_path / "shards", tmp_path / "predictions", tmp_path / "again", "ho3d-v2")
    summary = summarise(measured.output, measured.units, 3)
    assert (summary.evaluated, summary.counts["no_truth"], summary.worst) == (0, 3, [])
    assert headlines(summary)[0].startswith("0 hands with a truth")


def test_a_submission_of_the_truth_is_freihands_published_truth(tmp_path: Path) -> None:
    root = freihand.build(tmp_path / "root", truth=True)
    for found, truth in zip(
        read_zip(submit(root, "freihand", "evaluation", tmp_path)), published(root), strict=True
    ):
        assert found.shape == truth.shape
        assert np.abs(found - truth).max() < 1e-6


def test_freihand_without_its_truth_takes_the_annotations_own_place(tmp_path: Path) -> None:
    true = freihand.hands("evaluation")

    def predicted(key: str, _hand: Hand) -> Hand:
        hand = true[int(key.rpartition("/")[2])]
        wrist = hand.joints[0]
        return Hand(hand.joints - wrist, hand.vertices - wrist, wrist)

    root = freihand.build(tmp_path / "root")
    xyz, verts = read_zip(submit(root, "freihand", "evaluation", tmp_path, predicted))
    assert np.abs(xyz - [hand.joints for hand in true]).max() < 1e-6
    assert np.abs(verts - [hand.vertices for hand in true]).max() < 1e-6


def test_dexycbs_lines_are_index_and_millimetres(tmp_path: Path) -> None:
    root = dexycb.build(tmp_path / "root")
    written = submit(root, "dexycb", "s1_val", tmp_path)
    lines = [line.split(",") for line in Path(written.uri).read_text().splitlines()]
    assert all(len(line) == 64 for line in lines)
    # The toolkit counts all frames, and wants lines of those that show a hand.
    places = [
        (number, serial, frame)
        for number in dexycb.FULL
        for serial in dexycb.SERIALS
        for frame in range(dexycb.FRAMES)
    ]
    expected = {
        index: dexycb.hand(*place) for index, place in enumerate(places) if place[1:] != dexycb.NO_HAND
    }
    found = {int(line[0]): np.array(line[1:], float).reshape(21, 3) for line in lines}
    assert found.keys() == expected.keys()
    assert all(np.abs(found[index] - 1000 * hand.joints).max() < 1e-3 for index, hand in expected.items())


def refused(shards: Path, dataset: str, tmp_path: Path) -> str:
    predictions = annotate(shards, tmp_path / "predictions")
    measured = measure(shards, predictions, tmp_path / "out", dataset)
    with pytest.raises(NoSubmission) as refusal:
        write_submission(
            measured.output,
            dataset,
            predictions=str(predictions),
            units=measured.units,
            parts=measured.parts,
            poser=None,
        )
    return str(refusal.value)


def test_labels_that_are_in_no_benchmarks_order_make_no_submission(shards: Path, tmp_path: Path) -> None:
    assert "two hands have the index" in refused(shards, "dexycb", tmp_path)


def test_one_index_beyond_a_benchmark_does_not_make_the_list_as_long(tmp_path: Path) -> None:
    models = load_hand_models(str(write_mano(tmp_path / "mano")))
    prepare(
        "freihand", freihand.build(tmp_path / "root", truth=True), "evaluation", tmp_path / "good", models
    )
    (good,) = (tmp_path / "good").glob("*.tar")
    (tmp_path / "shards").mkdir()
    last = f"evaluation/rgb/{1:08d}.json"
    changed(good, tmp_path / "shards" / good.name, {last: label("index", 10**12)})
    assert "the benchmark has 3960 pictures" in refused(tmp_path / "shards", "freihand", tmp_path)
