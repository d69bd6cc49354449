"""Camera space by the command: whose camera it was, where the hands are, and what is said of an assumption."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.cli import main
from model import shipped
from model.crop import CROP_RULES
from model.mano.synthetic import synthetic_hand
from model.weights import load_weights
from pipeline import local
from pipeline.annotation import Annotation
from pipeline.boxes import choose
from pipeline.camera import place_hands
from pipeline.columns import fixed_lists
from pipeline.flow import Workers
from pipeline.inputs import find_inputs
from pipeline.intrinsics import CameraRule, camera_rule
from pipeline.records import Counts, Unit, UnitRecord
from pipeline.sources import SOURCES
from pipeline.stages.place import Place
from pipeline.units import settle

TINY = ("--model", "tiny", "--weights", "random:0")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A photograph whose EXIF knows its camera, and one whose does not."""
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 28
    noise.save(folder / "known.jpg", exif=exif)
    noise.save(folder / "unknown.jpg")
    return folder


def annotated_with(folder: Path, rule: CameraRule, output: Path) -> dict[str, dict[str, Any]]:
    """The rows of a folder's pictures, annotated in this process."""
    job = Annotation(
        weights=load_weights(shipped.read("tiny")),
        hand_model=synthetic_hand(),
        boxes=choose("whole", "left"),
        boxes_identity="whole",
        side="left",
        crop_rule=CROP_RULES["whole"],
        precision="fp32",
        meshes="none",
        vertices=False,
        unit_rows=8,
        cameras=rule,
    )
    settled = settle(
        str(output),
        find_inputs([str(folder)])[0],
        unit_rows=8,
        crop_size=128,
        probe=lambda items: [SOURCES[item.source].probe(item) for item in items],
    )
    workers = Workers(task_cpus=1.0, actor_cpus=0.5, actor_gpus=0, actors=(1, 1), threads=1, device="cpu")
    list(local.run(job.flow(str(output), workers, batch_size=4), settled.units))
    found = duckdb.sql(f"select * from '{output}/annotations/*.parquet'")
    return {
        row[found.columns.index("key")]: dict(zip(found.columns, row, strict=True))
        for row in found.fetchall()
    }


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        (None, {"known.jpg": "exif", "unknown.jpg": None}),
        ("given", {"known.jpg": None, "unknown.jpg": None}),
        ("fov:60", {"known.jpg": "exif", "unknown.jpg": "fov"}),
        ("100,110,59.5,44.5", {"known.jpg": "given", "unknown.jpg": "given"}),
    ],
)
def test_a_row_has_a_translation_where_a_camera_is_known_or_assumed(
    tmp_path: Path, photos: Path, text: str | None, sources: dict[str, str | None]
) -> None:
    rows = annotated_with(photos, camera_rule(text), tmp_path / "out")
    assert {key: row["camera_source"] for key, row in rows.items()} == sources
    for row in rows.values():
        assert (row["camera"] is None) == (row["translation"] is None) == (row["camera_source"] is None)
        if row["camera"] is None:
            continue
        fx, fy, cx, cy = row["camera"]
        assert (cx, cy) == (59.5, 44.5)
        moved = np.array(row["joints"]) + row["translation"]
        assert moved[:, 2].min() > 0
        # What is projected lies where the joints were seen, as far as the network agrees with itself on noise.
        pixels = moved[:, :2] / moved[:, 2:] * (fx, fy) + (cx, cy)
        assert np.abs(np.median(pixels - row["joints_2d"], axis=0)).max() < 3


def test_a_hand_that_says_nothing_of_its_place_keeps_null_and_the_ledger_says_why(
    tmp_path: Path, photos: Path
) -> None:
    annotated_with(photos, camera_rule("100,100,59.5,44.5"), tmp_path / "out")
    hands, ledger = (
        pa.concat_tables(pq.read_table(path) for path in (tmp_path / "out" / name).iterdir())
        for name in ("annotations", "ledger")
    )
    column = hands.schema.get_field_index("joint_confidence")
    blind = np.array(hands["joint_confidence"].to_pylist())
    blind[1] = 0
    hands = hands.set_column(column, hands.field(column), fixed_lists(blind, hands.field(column).type))
    unit = Unit("u", "images", "file:///photos", 0, 2, 1, "v")
    placed = Place()(UnitRecord(unit, ledger=ledger, hands=hands))
    assert [row is None for row in placed.hands["translation"].to_pylist()] == [False, True]
    # Joints are believed by the square of their confidence.
    seen = (
        np.array([hands[name][0].as_py()]) for name in ("joints", "joints_2d", "joint_confidence", "camera")
    )
    joints, joints_2d, confidence, camera = seen
    wanted = place_hands(joints, joints_2d, confidence**2, camera).translation[0]
    assert placed.hands["translation"][0].as_py() == pytest.approx(wanted.tolist(), abs=1e-6)
    assert wanted != pytest.approx(
        place_hands(joints, joints_2d, confidence, camera).translation[0], abs=1e-4
    )
    reasons = dict(zip(*(placed.ledger[name].to_pylist() for name in ("key", "reason")), strict=True))
    assert reasons == {
        hands["key"][0].as_py(): None,
        hands["key"][1].as_py(): "no translation: no joint has a weight",
    }
    assert Counts.of_ledger(placed.ledger) == Counts.of_ledger(ledger)


@pytest.mark.ray
def test_labelled_cameras_place_every_hand_before_the_camera_of_its_picture(
    tmp_path: Path, shards: Path, handocc_here: Callable[..., Any]
) -> None:
    done = handocc_here(
        "annotate", f"{shards}/*.tar", "--output", tmp_path / "out", "--weights", "shipped:tiny"
    )
    assert done.returncode == 0, done.stderr
    rows = duckdb.sql(
        f"select camera, camera_source, translation, joints from '{tmp_path}/out/annotations/*.parquet'"
    ).fetchall()
    assert len(rows) > 12
    for camera, source, translation, joints in rows:
        assert source == "given"
        assert len(camera) == 4
        assert (np.array(joints) + translation)[:, 2].min() > 0


@pytest.mark.ray
def test_an_assumed_camera_is_said_in_the_log_and_the_record_and_is_part_of_the_job(
    tmp_path: Path, photos: Path, handocc_here: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    common = (
        "annotate",
        str(photos),
        "--output",
        str(tmp_path / "out"),
        *TINY,
        "--boxes",
        "whole",
        "--side",
        "right",
    )
    done = handocc_here(*common, "--camera", "fov:60")
    assert done.returncode == 0, done.stderr
    assert "a field of view of 60 degrees along the longer side is assumed" in done.stderr
    job = json.loads((tmp_path / "out" / "job.json").read_text())
    assert job["content"]["camera"] == job["conventions"]["camera"] == "given, exif, fov:60"
    assert any("60 degrees" in remark for remark in job["remarks"])
    assert main([*common, "--camera", "fov:61"]) == 2
    assert "camera was given, exif, fov:60 and is given, exif, fov:61" in capsys.readouterr().err
    assert main([*common, "--camera", "fov:0"]) == 2
    assert "--camera fov:0: the field of view must be 1 to 170 degrees" in capsys.readouterr().err
