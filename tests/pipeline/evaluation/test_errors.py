"""What is measured of a unit, and against which labels."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from model.mano.synthetic import synthetic_hand
from pipeline.errors import ConfigError, DataError
from pipeline.evaluation.matching import match_units
from pipeline.evaluation.report import headlines
from pipeline.evaluation.summary import measured_units, read_errors, summarise, to_json
from pipeline.inputs import find_inputs
from pipeline.sinks.parts import Part
from tests.pipeline.evaluation.annotated import Hand, annotate
from tests.pipeline.evaluation.measured import MeasuredOutput, copy, measure
from tests.training_shards import Change, changed, label
from tests.training_shards import hand as hand_field

Label = dict[str, Any]


def relabelled(shards: Path, to: Path, change: Callable[[Label], None]) -> Path:
    """The shards with other labels."""
    to.mkdir()
    for shard in shards.glob("*.tar"):
        with tarfile.open(shard) as old, tarfile.open(to / shard.name, "w") as new:
            for member in old:
                stream = old.extractfile(member)
                assert stream is not None
                data = stream.read()
                if member.name.endswith(".json"):
                    label = json.loads(data)
                    change(label)
                    data = json.dumps(label).encode()
                member.size = len(data)
                new.addfile(member, io.BytesIO(data))
    return to


def labelled_hands(shards: Path) -> Iterator[tuple[str, Label]]:
    """The labelled hands of shards in their order, with the keys of their samples."""
    for shard in sorted(shards.glob("*.tar")):
        with tarfile.open(shard) as archive:
            for member in archive:
                if member.name.endswith(".json"):
                    stream = archive.extractfile(member)
                    assert stream is not None
                    for entry in json.loads(stream.read())["hands"]:
                        yield member.name.removesuffix(".json"), entry


def errors(measured: MeasuredOutput) -> list[dict[str, Any]]:
    tables = [table for _, table in read_errors(measured.output, measured.units)]
    rows: list[dict[str, Any]] = pa.concat_tables(tables).to_pylist()
    return rows


def test_parameters_give_the_same_meshes_as_labelled_vertices(shards: Path, tmp_path: Path) -> None:
    predictions = annotate(shards, tmp_path / "predictions", vertices=False)
    hand_model = synthetic_hand()
    measured = measure(shards, predictions, tmp_path / "out", hand_model=hand_model, has_vertices=False)
    rows = errors(measured)
    assert {row["side"] for row in rows} == {"left", "right"}
    # Labels are rounded to 0.01 mm.
    assert all(row["mpvpe_mm"] < 0.02 and row["f5"] == 1 for row in rows)

    def no_vertices(label: Label) -> None:
        for hand in label["hands"]:
            del hand["vertices"], hand["joints_3d"]

    posed = relabelled(shards, tmp_path / "posed", no_vertices)
    again = measure(posed, predictions, tmp_path / "again", hand_model=hand_model, has_vertices=False)
    assert all(row["mpvpe_mm"] < 1e-3 and row["mpjpe_mm"] < 0.02 for row in errors(again))


def test_meshes_of_another_hand_model_are_left_out_and_counted(shards: Path, tmp_path: Path) -> None:
    def other(label: Label) -> None:
        label["hand_model"] = "0123abcd"

    others = relabelled(shards, tmp_path / "others", other)
    measured = measure(others, annotate(shards, tmp_path / "predictions"), tmp_path / "out")
    rows = errors(measured)
    assert all(row["mpjpe_mm"] < 1e-3 and row["mpvpe_mm"] is None for row in rows)
    summary = summarise(measured.output, measured.units, 0)
    assert summary.other_hand_models == {"0123abcd": len(rows)}


def test_hands_in_camera_space_are_measured_by_their_wrists(shards: Path, tmp_path: Path) -> None:
    numbers = iter(range(1000))

    def placed(key: str, hand: Hand) -> Hand:
        number = next(numbers)
        off = np.array([[0.003, 0, 0.004], [0, 0.012, -0.005], [0.06, 0, 0.08], [np.nan] * 3][number % 4])
        return replace(hand, wrist=None if np.isnan(off).any() else true[key, number] + off)

    true = {}
    for number, (key, entry) in enumerate(labelled_hands(shards)):
        true[key, number] = np.array(entry["root_3d"])
    measured = measure(shards, annotate(shards, tmp_path / "predictions", placed), tmp_path / "out")
    rows = errors(measured)
    known = [row["translation_error_mm"] is not None for row in rows]
    assert known == [number % 4 != 3 for number in range(len(rows))]
    for row, in_place, in_depth in zip(rows[:3], (5, 13, 100), (4, 5, 80), strict=True):
        assert row["translation_error_mm"] == pytest.approx(in_place, abs=0.01)
        assert row["depth_error_mm"] == pytest.approx(in_depth, abs=0.01)
        assert row["depth_error_percent"] == pytest.approx(in_depth / row["root"][2] / 10, rel=0.01)
    summary = summarise(measured.output, measured.units, 0)
    told = to_json(summary)["metrics"]
    assert told["translation_error_mm"]["median"] == pytest.approx(13, abs=0.01)
    assert told["translation_error_mm"]["samples"] == sum(known)
    assert told["depth_error_mm"]["mean"] > 20 > told["depth_error_mm"]["median"]
    assert any(line.startswith("its depth, median ") for line in headlines(summary))


def test_hands_without_a_place_have_no_error_of_it(shards: Path, tmp_path: Path) -> None:
    measured = measure(shards, annotate(shards, tmp_path / "predictions"), tmp_path / "out")
    summary = summarise(measured.output, measured.units, 0)
    assert summary.medians() == {}
    assert to_json(summary)["metrics"]["depth_error_mm"]["samples"] == 0


def test_labels_without_a_truth_or_none_at_all_are_counted_apart(shards: Path, tmp_path: Path) -> None:
    numbers = iter(range(100))

    def damaged(label: Label) -> None:
        number = next(numbers)
        if number == 2:
            for hand in label["hands"]:
                for name in ("vertices", "joints_3d", "mano"):
                    del hand[name]
        if number == 4:
            label["hands"][0]["joints_3d"] = [[0, 0, float("nan")]] * 21
        if number == 5:
            label["hands"] = None

    changed = relabelled(shards, tmp_path / "changed", damaged)
    measured = measure(changed, annotate(shards, tmp_path / "predictions"), tmp_path / "out")
    rows = errors(measured)
    apart = {status: [row for row in rows if row["status"] == status] for status in ("no_truth", "rejected")}
    assert all(row["mpjpe_mm"] is None and row["failed"] is None for row in apart["no_truth"])
    reasons = [row["reason"] for row in apart["rejected"]]
    assert ["joints_3d holds a number" in reason or "must be a list" in reason for reason in reasons] == [
        True,
        True,
    ]
    summary = summarise(measured.output, measured.units, 0)
    assert summary.evaluated + len(apart["no_truth"]) + 2 == len(rows)
    assert summary.reasons == {"bad label": 2}


def crowd(data: bytes) -> bytes:
    found = json.loads(data)
    return json.dumps(found | {"hands": found["hands"] + [{}] * 1000}).encode()


ODD: dict[str, tuple[Change, str | None]] = {
    "an index beyond 64 bits": (label("index", 2**70), None),
    "half a character for a sequence": (label("sequence", "\ud800"), None),
    "half a character for a hand model": (label("hand_model", "\ud800"), "hand_model must be a name"),
    "a wrist of 400 digits": (hand_field("root_3d", [10**400, 0, 1]), "root_3d must be 3 numbers"),
    "a mesh of words": (hand_field("vertices", [["0"] * 3] * 778), "vertices must be 778x3 numbers"),
    "more hands than a picture has": (crowd, "at most 1000"),
}


@pytest.mark.parametrize(("change", "says"), ODD.values(), ids=ODD)
def test_an_odd_label_costs_no_other_one(
    shards: Path, tmp_path: Path, change: Change, says: str | None
) -> None:
    first = min(shards.glob("*.tar"))
    (tmp_path / "odd").mkdir()
    changed(first, tmp_path / "odd" / first.name, {"00000003.json": change})
    rows = errors(measure(tmp_path / "odd", annotate(shards, tmp_path / "predictions"), tmp_path / "out"))
    assert {row["key"] for row in rows} == {f"{number:08d}" for number in range(12)}
    (reason,) = [row["reason"] for row in rows if row["status"] == "rejected"] or [None]
    assert says in reason if says else reason is None


def test_labels_round_the_wrist_say_no_place(shards: Path, tmp_path: Path) -> None:
    """Those of pseudo-labels without a camera: the wrist of such joints is the origin of nothing."""

    def round_the_wrist(label: Label) -> None:
        for hand in label["hands"]:
            root = np.array(hand.pop("root_3d"))
            for name in ("joints_3d", "vertices"):
                hand[name] = (np.array(hand[name]) - root).tolist()

    def placed(_key: str, hand: Hand) -> Hand:
        return replace(hand, wrist=np.array([0.0, 0.0, 0.5]))

    changed = relabelled(shards, tmp_path / "changed", round_the_wrist)
    rows = errors(measure(changed, annotate(shards, tmp_path / "predictions", placed), tmp_path / "out"))
    assert all(row["mpjpe_mm"] < 0.02 for row in rows)
    assert all(row["translation_error_mm"] is row["root"] is None for row in rows)


def test_errors_of_what_was_annotated_anew_are_measured_anew(shards: Path, tmp_path: Path) -> None:
    measured = measure(shards, annotate(shards, tmp_path / "predictions"), tmp_path / "out")

    def current(parts: dict[str, Part]) -> set[str]:
        return measured_units(measured.output, measured.units, parts, measured.measurement.fingerprint)

    first, *others = measured.parts
    assert current(measured.parts) == measured.parts.keys()
    # Another file in the place of the annotated one, with as many hands.
    anew = {first: replace(measured.parts[first], unit_version="another")}
    assert current(measured.parts | anew) == set(others)


def test_units_of_which_nothing_was_predicted_are_measured_as_missing(shards: Path, tmp_path: Path) -> None:
    predictions = annotate(shards, tmp_path / "predictions", lambda _key, _hand: None)
    measured = measure(shards, predictions, tmp_path / "out")
    rows = errors(measured)
    assert {row["status"] for row in rows} == {"missing"}
    assert summarise(measured.output, measured.units, 0).evaluated == len(rows) > 0


def test_hands_that_were_found_are_known_by_their_place(shards: Path, tmp_path: Path) -> None:
    seen = iter(range(100))

    def found(_key: str, hand: Hand) -> Hand | None:
        number = next(seen)
        if number == 2:
            return None
        columns: dict[str, Any] = {"hand_index": 10 - number % 10, "bbox_source": "detect"}
        columns |= {"bbox": [-900.0, 0.0, 5.0, 5.0]} if number == 5 else {}
        return replace(hand, columns=columns | ({"side": "neither"} if number == 7 else {}))

    predictions = annotate(shards, tmp_path / "predictions", found, boxes="detect")
    measured = measure(shards, predictions, tmp_path / "out", boxes_given=False)
    rows, labelled = errors(measured), list(labelled_hands(shards))
    status = {
        name: [row for row in rows if row["status"] == name] for name in ("measured", "missing", "unlabelled")
    }
    assert len(status["measured"]) == len(labelled) - 2
    assert [(row["key"], row["reason"]) for row in status["missing"]] == [
        (labelled[number][0], "not found") for number in (2, 5)
    ]
    assert all(row["pa_mpjpe_mm"] < 1e-3 for row in status["measured"])
    ((key, index, nothing),) = [
        (row["key"], row["annotated_index"], row["pa_mpjpe_mm"]) for row in status["unlabelled"]
    ]
    assert (key, index, nothing) == (labelled[5][0], 5, None)

    summary = summarise(measured.output, measured.units, 3)
    assert (summary.not_found, summary.other_side) == (2, 1)
    assert to_json(summary)["hands"]["unlabelled"] == 1
    said = "\n".join(headlines(summary))
    assert "2 without a prediction" in said
    assert "1 annotated hands lie where no labelled one does" in said
    known_as = {(row["key"], row["annotated_index"], row["hand_index"]) for row in status["measured"]}
    assert all((hand.key, hand.annotated_index, hand.hand_index) in known_as for hand in summary.worst)


def test_what_went_wrong_with_a_sample_is_why_its_hands_were_not_found(shards: Path, tmp_path: Path) -> None:
    broken = "00000004"

    def found(key: str, hand: Hand) -> Hand | DataError | None:
        return DataError("no side", "hand 3 has no side") if key == broken else None

    predictions = annotate(shards, tmp_path / "predictions", found, boxes="file:///boxes.csv 1")
    measured = measure(shards, predictions, tmp_path / "out", boxes_given=False)
    by_reason = {row["reason"]: row["key"] for row in errors(measured)}
    assert by_reason.keys() == {"not found", "no side: hand 3 has no side"}
    assert by_reason["no side: hand 3 has no side"] == broken
    summary = summarise(measured.output, measured.units, 0)
    assert 0 < summary.not_found < summary.counts["missing"]


def test_a_found_hand_may_be_the_one_whose_label_is_broken(shards: Path, tmp_path: Path) -> None:
    predictions = annotate(shards, tmp_path / "predictions", boxes="detect")

    def broken(label: Label) -> None:
        if label["index"] % 2:
            label["hands"][0]["side"] = "both"
        else:
            # The box may be of the whole picture: where joints are labelled they say where the hand is.
            label["hands"][0]["bbox"] = [0, 0, 160, 160]

    changed = relabelled(shards, tmp_path / "changed", broken)
    rows = errors(measure(changed, predictions, tmp_path / "out", boxes_given=False))
    assert {row["status"] for row in rows} == {"measured", "rejected"}
    assert sum(row["status"] == "rejected" for row in rows) == 12


def test_a_hand_that_reaches_out_of_the_picture_is_known_by_what_is_inside(
    shards: Path, tmp_path: Path
) -> None:
    def at_the_border(_key: str, hand: Hand) -> Hand:
        return replace(hand, columns={"bbox": [0.0, 40.0, 60.0, 60.0]})

    def there(label: Label) -> None:
        for hand in label["hands"]:
            hand["joints_2d"] = [[-90.0, 40.0], [60.0, 100.0], *[[0.0, 50.0]] * 19]

    predictions = annotate(shards, tmp_path / "predictions", at_the_border, boxes="detect")
    changed = relabelled(shards, tmp_path / "changed", there)
    rows = errors(measure(changed, predictions, tmp_path / "out", boxes_given=False))
    assert {row["status"] for row in rows} == {"measured"}


def test_the_worst_hands_are_those_with_the_largest_errors(shards: Path, tmp_path: Path) -> None:
    bend = iter(range(100))

    def bent(_key: str, hand: Any) -> Any:
        amount = next(bend)
        moved = hand.moved(lambda points: points + amount * points[:, ::-1] ** 2)
        return replace(moved, columns={"confidence": 1 / (1 + amount)})

    measured = measure(shards, annotate(shards, tmp_path / "predictions", bent), tmp_path / "out")
    rows = sorted(errors(measured), key=lambda row: -row["pa_mpjpe_mm"])
    summary = summarise(measured.output, measured.units, 5)
    halves, surest = summary.halves(), sorted(rows, key=lambda row: -row["confidence"])
    found = [row["pa_mpjpe_mm"] for row in surest[: len(rows) // 2]]
    assert halves["best_half_mm"] == pytest.approx(np.mean(found))
    mean = np.mean([row["pa_mpjpe_mm"] for row in rows])
    assert halves["best_half_is_lower_by"] == pytest.approx(1 - np.mean(found) / mean)
    assert halves["best_half_is_lower_by"] > 0.2
    assert halves["perfect_half_mm"] <= halves["best_half_mm"]
    worst = summary.worst
    assert [hand.error_mm for hand in worst] == [row["pa_mpjpe_mm"] for row in rows[:5]]
    assert [(hand.key, hand.hand_index) for hand in worst] == [
        (row["key"], row["hand_index"]) for row in rows[:5]
    ]


def test_shards_that_were_moved_are_known_by_name_and_content(shards: Path, tmp_path: Path) -> None:
    predictions = annotate(shards, tmp_path / "predictions")
    moved = copy(shards, tmp_path / "moved")
    rows = errors(measure(moved, predictions, tmp_path / "out"))
    assert all(row["mpjpe_mm"] < 1e-3 and str(moved) in row["source"] for row in rows)

    first, second = sorted(moved.glob("*.tar"))
    second.rename(first)
    with pytest.raises(ConfigError, match=r"its sample 0 is 00000012, 00000000 was annotated there"):
        match_units(str(predictions), find_inputs([str(first)])[0])
    first.rename(tmp_path / "moved" / "other.tar")
    with pytest.raises(ConfigError, match="holds no annotations of it"):
        match_units(str(predictions), find_inputs([str(tmp_path / "moved")])[0])
