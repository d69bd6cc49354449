"""`handocc calibrate` through the command: on labels and annotations whose errors the quality columns give away."""

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.calibrate import EVALUATION
from jobs.cli import main
from model.config import preset
from model.crop import CROP_RULES
from model.mano.synthetic import synthetic_hand
from model.weights import LoadedWeights, add_calibration, load_weights, random_weights, save_weights
from pipeline import local
from pipeline.annotation import Annotation
from pipeline.calibration import Calibration, Curve, beside
from pipeline.errors import ConfigError
from tests.pipeline.evaluation.annotated import Hand, annotate
from tests.pipeline.test_flow import WORKERS, job
from tests.s3_jobs import kill_at

PICTURES = 80
RULE = CROP_RULES["demo"].describe()
QUALITY = (
    "predicted_error_mm",
    "heatmap_entropy",
    "bone_deviation",
    "joint_limit_excess",
    "crop_outside",
    "sharpness",
    "flip_error_mm",
)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_shards(tmp_path_factory.mktemp("labelled"), "made")


def labelled_shards(folder: Path, dataset: str) -> Path:
    """Two shards of pictures with two hands each, of which only the labels mean anything."""
    rng, picture = np.random.default_rng(0), io.BytesIO()
    Image.new("RGB", (160, 160), (90, 80, 70)).save(picture, "PNG")
    rest = synthetic_hand().J_regressor @ synthetic_hand().v_template
    base = np.concatenate([rest, rest[11:]])
    for shard in range(2):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for number in range(PICTURES // 2):
                joints = [base + rng.normal(0, 0.004, (21, 3)) + (0, 0, 0.5) for _ in range(2)]
                hands = [
                    {"bbox": [20 + 50 * n, 30, 60, 70], "side": side, "joints_3d": joints[n].tolist()}
                    for n, side in enumerate(("right", "left"))
                ]
                label = {"camera": [200, 200, 80, 80], "split": "test", "dataset": dataset, "hands": hands}
                for ending, data in (("png", picture.getvalue()), ("json", json.dumps(label).encode())):
                    member = tarfile.TarInfo(f"{number:04d}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights, as training leaves it."""
    made = random_weights(preset("tiny"), 0)
    path = tmp_path_factory.mktemp("weights") / "best.safetensors"
    data = save_weights(
        made.network, made.config, hand_model_name=synthetic_hand().name, notes={"epoch": "3"}
    )
    path.write_bytes(data)
    return path


def loaded(path: Path) -> LoadedWeights:
    return load_weights(path.read_bytes())


@pytest.fixture(scope="module")
def predictions(labelled: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Annotations that are 2 to 20 mm off, which their 2D joints give away and nothing else does."""
    rng = np.random.default_rng(1)

    def off(_key: str, hand: Hand) -> Hand:
        error = 0.002 * 10 ** rng.random()
        wrong = hand.joints + rng.normal(0, error, (21, 3))
        told = {name: float(rng.random()) for name in QUALITY}
        told |= {"reprojection_error": error * np.exp(rng.normal(0, 0.2)), "shift_error_mm": 1000 * error}
        return replace(hand, joints=wrong, columns=told)

    output = tmp_path_factory.mktemp("predictions")
    return annotate(labelled, output, off, vertices=False, tensors_sha256=loaded(weights).tensors_sha256)


def calibrate(predictions: Path, labelled: Path, output: Path, *more: str | Path) -> int:
    arguments = ["calibrate", "--predictions", predictions, "--data", f"{labelled}/*.tar", "--output", output]
    return main([str(word) for word in [*arguments, *more]])


@pytest.mark.ray
@pytest.mark.slow
def test_killed_behind_its_evaluation_it_leaves_the_same_bytes(
    labelled: Path, weights: Path, predictions: Path, tmp_path: Path, handocc: Callable[..., Any]
) -> None:
    command = ["calibrate", "--predictions", str(predictions), "--data", f"{labelled}/*.tar"]
    command += ["--weights", str(weights), "--output"]
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    assert handocc(*command, calm).returncode == 0
    made = ("reliability.png", "coverage.png", "calibration.json", "metrics.json", "best.safetensors")
    # Its errors are the first that the evaluation leaves; the weights come last.
    assert kill_at([*command, str(killed)], str(killed), 1, folder=f"{EVALUATION}/errors") > 0
    assert not (killed / "best.safetensors").exists()
    done = handocc(*command, killed)
    assert done.returncode == 0, done.stderr
    assert [(killed / name).read_bytes() for name in made] == [(calm / name).read_bytes() for name in made]


@pytest.mark.ray
def test_a_calibration_is_learnt_shown_kept_in_the_weights_and_written_by_annotate(
    labelled: Path,
    weights: Path,
    predictions: Path,
    shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    # No hand is that bad; what was measured serves the request that follows.
    assert calibrate(predictions, labelled, output, "--threshold-mm", "500") == 2
    assert "160 of 160 hands are within 500 mm" in capsys.readouterr().err
    assert calibrate(predictions, labelled, output, "--weights", weights) == 0
    metrics = json.loads((output / "metrics.json").read_text())
    before, plain, second = metrics["held_out"].values()
    assert metrics["hands"] == {"measured": 2 * PICTURES, "used": 2 * PICTURES}
    assert before["auroc"] == 0.5
    assert before["best_half_is_lower_by"] == pytest.approx(0, abs=0.05)
    assert plain["auroc"] > 0.85
    assert second["auroc"] > plain["auroc"]
    assert second["best_half_is_lower_by"] > 0.25
    assert second["ece"] < 0.15
    for name in ("reliability.png", "coverage.png"):
        assert Image.open(output / name).size == (720, 540)
    assert "best half" in capsys.readouterr().out

    own, theirs = loaded(weights), loaded(output / "best.safetensors")
    assert theirs.calibration is not None
    assert theirs.calibration.keys() == {"given"}
    assert theirs.calibration == json.loads((output / "calibration.json").read_text())
    assert theirs.tensors_sha256 == own.tensors_sha256
    assert theirs.sha256 != own.sha256
    assert theirs.notes == own.notes

    calibrated = written(theirs, shards, tmp_path / "calibrated")
    plainly = written(own, shards, tmp_path / "plain")
    assert calibrated.schema.metadata[b"confidence"].startswith(b"calibrated: probability that PA-MPJPE < 10")
    assert plainly.schema.metadata[b"confidence"] == b"heatmap peak mass, uncalibrated"
    assert plainly["expected_error_mm"].null_count == plainly.num_rows
    assert calibrated["joints"] == plainly["joints"]
    assert (calibrated["predicted_error_mm"].to_numpy() > 0).all()
    assert {len(row) for row in calibrated["predicted_joint_errors_mm"].to_pylist()} == {21}
    headless = random_weights(replace(preset("tiny"), error_head=False), 0)
    of_another = written(headless, shards, tmp_path / "headless")
    assert of_another.schema == plainly.schema.with_metadata(of_another.schema.metadata)
    assert of_another["predicted_joint_errors_mm"].null_count == of_another.num_rows
    rows = np.stack([calibrated[name].to_numpy() for name in ("confidence", "expected_error_mm")])
    confidence, expected = rows[:, np.argsort(rows[0])]
    assert ((confidence >= 0) & (confidence <= 1)).all()
    assert (np.diff(expected) <= 0).all()

    # The same command again finds everything measured; another request is refused.
    assert calibrate(predictions, labelled, output, "--weights", weights) == 0
    again = json.loads((output / "evaluation" / "metrics.json").read_text())
    assert again["this_run"]["units"] == 0
    assert calibrate(predictions, labelled, output, "--threshold-mm", "8") == 2
    assert "threshold_mm was 10.0 and is 8.0" in capsys.readouterr().err

    (tmp_path / "pseudo").mkdir()
    pseudo = labelled_shards(tmp_path / "pseudo", "pseudo")
    assert calibrate(predictions, pseudo, tmp_path / "of-pseudo") == 2
    said = capsys.readouterr().err
    assert "note: taken for what was annotated, by name" in said
    assert "holds pseudo-labels, which are no truth to learn from" in said


def of_given_boxes(tensors_sha256: str) -> Calibration:
    """A calibration that says next to nothing."""
    one = (1.0,)
    curve = Curve(("peak_mass",), one, one, one, one, one, 0.0, one, one)
    return Calibration(
        10.0, tensors_sha256, "tiny", synthetic_hand().name, "given", RULE, "others", 200, (curve,)
    )


@pytest.mark.ray
def test_what_is_learnt_of_found_hands_stands_beside_what_is_known_of_given_ones(
    labelled: Path, weights: Path, tmp_path: Path
) -> None:
    """Of hands that were found the detector's score alone gives the error away."""
    rng, seen = np.random.default_rng(2), iter(range(1000))

    def found(_key: str, hand: Hand) -> Hand | None:
        number = next(seen)
        if number % 40 == 0:
            return None
        error = 0.002 * 10 ** rng.random()
        columns = {name: float(rng.random()) for name in (*QUALITY, "reprojection_error", "shift_error_mm")}
        columns |= {"bbox_score": 1 - 20 * error, "hand_index": 9 - number % 2, "bbox_source": "detect"}
        return replace(hand, joints=hand.joints + rng.normal(0, error, (21, 3)), columns=columns)

    own = loaded(weights)
    predictions = annotate(
        labelled,
        tmp_path / "predictions",
        found,
        vertices=False,
        tensors_sha256=own.tensors_sha256,
        boxes="detect max_hands=8",
    )
    given = of_given_boxes(own.tensors_sha256)
    knows = tmp_path / "knows.safetensors"
    knows.write_bytes(
        add_calibration(
            weights.read_bytes(), beside({}, given), config=None, hand_model_name=synthetic_hand().name
        )
    )
    # Hands that were not found are no rejects.
    assert calibrate(predictions, labelled, tmp_path / "out", "--weights", knows) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["boxes"] == "detect"
    assert metrics["hands"]["measured"] == 2 * PICTURES - 4
    assert metrics["held_out"]["calibrated"]["auroc"] > 0.85
    evaluation = json.loads((tmp_path / "out" / "evaluation" / "metrics.json").read_text())
    assert evaluation["reasons"] == {"not found": 4}

    learnt = loaded(tmp_path / "out" / "knows.safetensors")
    assert learnt.calibration is not None
    assert learnt.calibration["given"] == loaded(knows).calibration["given"]  # type: ignore[index]
    of_found = replace(job(), weights=learnt, boxes_identity="detect max_hands=8")
    assert of_found.calibration is not None
    curve = of_found.calibration.curve(tta=False)
    assert max(zip(np.abs(curve.weights), curve.features, strict=True))[1] == "bbox_score"
    assert "boxes that the detector found" in of_found.metadata["confidence"]
    assert not of_found.remarks
    by_given = replace(job(), weights=loaded(knows), boxes_identity="detect max_hands=8")
    assert by_given.calibration == given
    assert "learnt in given boxes, these are found" in by_given.remarks[0]
    assert not replace(job(), weights=learnt, boxes_identity="given").remarks
    in_crops_of_training = replace(job(), weights=learnt, crop_rule=CROP_RULES["training"])
    kinds = "crops of another kind (demo: x1.25, clipped first; these are training: x1.5)"
    assert kinds in in_crops_of_training.remarks[0]
    for others in ("whole", "table boxes.csv"):
        in_others = replace(job(), weights=learnt, boxes_identity=others)
        assert in_others.calibration == given
        assert "nothing is known of what it is worth in others" in in_others.remarks[0]
    alone = {"detect": learnt.calibration["detect"]}
    of_found_only = replace(job(), weights=replace(learnt, calibration=alone))
    assert of_found_only.metadata["confidence"] == "heatmap peak mass, uncalibrated"
    assert "not calibrated" in of_found_only.remarks[0]


def written(weights: LoadedWeights, shards: Path, output: Path) -> "pq.Table":
    """What annotate writes of a shard with these weights, without Ray."""
    from pipeline.inputs import find_inputs
    from pipeline.sources import SOURCES
    from pipeline.units import settle

    made: Annotation = replace(job(), weights=weights, meshes="none", vertices=False, unit_rows=None)
    inputs, _ = find_inputs([str(sorted(shards.glob("*.tar"))[0])])
    settled = settle(
        str(output),
        inputs,
        unit_rows=None,
        crop_size=weights.config.input_size,
        probe=lambda items: [SOURCES[item.source].probe(item) for item in items],
    )
    for _ in local.run(made.flow(str(output), WORKERS, batch_size=16), settled.units):
        pass
    (part,) = (output / "annotations").glob("*.parquet")
    return pq.ParquetFile(part).read()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--weights", "OTHER"), "made with other weights"),
        (("--weights", "shipped:tiny"), "made with other weights"),
        (("--weights", "random:0"), "no file to keep a calibration in"),
        (("--weights", "nowhere.safetensors"), "no such file"),
        (("--threshold-mm", "0"), "must be more than 0"),
        (("--folds", "1"), "must be at least 2"),
        (("--weights", "OWN", "--output", "HOME"), "would replace --weights"),
        (("--predictions", "OLD"), "without the quality columns"),
        (("--predictions", "TABLE"), "annotated with boxes of file:///boxes.csv, and"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_in_one_line(
    labelled: Path,
    weights: Path,
    predictions: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    says: str,
) -> None:
    other = random_weights(preset("tiny"), 1)
    data = save_weights(other.network, other.config, hand_model_name=synthetic_hand().name, notes={})
    (tmp_path / "other.safetensors").write_bytes(data)
    old = tmp_path / "old"
    old.mkdir()
    about = json.loads((predictions / "job.json").read_text())
    of_table = tmp_path / "table"
    of_table.mkdir()
    about["content"]["boxes"] = "file:///boxes.csv 1"
    (of_table / "job.json").write_text(json.dumps(about))
    del about["content"]["tta"]
    (old / "job.json").write_text(json.dumps(about))
    places = {
        "OTHER": tmp_path / "other.safetensors",
        "OWN": weights,
        "HOME": weights.parent,
        "OLD": old,
        "TABLE": of_table,
    }
    status = calibrate(predictions, labelled, tmp_path / "out", *(places.get(word, word) for word in more))
    assert status == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error
    assert not (tmp_path / "out" / "calibration.json").exists()


def test_a_second_look_is_another_job() -> None:
    assert replace(job(), tta=True).fingerprint != job().fingerprint


def test_weights_whose_tensors_are_not_the_calibrations_are_refused(weights: Path, tmp_path: Path) -> None:
    of_others = beside({}, of_given_boxes("a" * 64))
    data = add_calibration(
        weights.read_bytes(), of_others, config=None, hand_model_name=synthetic_hand().name
    )
    with pytest.raises(ConfigError, match="learnt with weights aaaa"):
        replace(job(), weights=load_weights(data))
