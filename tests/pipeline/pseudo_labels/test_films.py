"""Pseudo-labels of a film's frames."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from model.config import preset
from model.crop import CROP_RULES
from model.mano.synthetic import synthetic_hand
from model.weights import random_weights
from pipeline import boxes, local
from pipeline.annotation import Annotation
from pipeline.flow import Workers
from pipeline.inputs import find_inputs
from pipeline.pseudo_labels.near_duplicates import Motion
from pipeline.pseudo_labels.selection import (
    NEAR_DUPLICATE,
)
from pipeline.sources import SOURCES
from pipeline.stages.decode import decode_image
from pipeline.units import settle
from tests.films import PLAIN, drawn, encode
from tests.pipeline.pseudo_labels.made import ALL, pseudo_label


def test_frames_of_a_film_are_thinned_and_both_hands_of_a_frame_stay_together(tmp_path: Path) -> None:
    film = encode(tmp_path, PLAIN, frames=12)
    hands = [(frame, *hand) for frame in range(12) for hand in ((5, "left"), (70, "right"))]
    rows = [f"{film.name},{frame},{x},20,50,50,{side}" for frame, x, side in hands]
    (tmp_path / "boxes.csv").write_text("key,frame_index,x,y,w,h,side\n" + "\n".join(rows) + "\n")
    fingerprint = _annotate_film(film, tmp_path / "boxes.csv", tmp_path / "annotated")
    made = pseudo_label(
        tmp_path / "annotated", tmp_path / "all", fingerprint=fingerprint, frames="crop", factor=1
    )
    assert [(row["frame_index"], row["side"], row["hand"]) for row in made.manifest] == [
        (frame, side, number) for frame in range(12) for number, side in enumerate(("left", "right"))
    ]
    assert len(made.labels) == 12
    for member, label in made.labels.items():
        frame = next(row["frame_index"] for row in made.manifest if row["member"] == member)
        bbox, joints = np.array(label["hands"][0]["bbox"]), np.array(label["hands"][0]["joints_2d"])
        assert bbox[2:].tolist() == [50, 50]
        assert np.isfinite(joints).all()
        shown = decode_image(made.pictures[member])
        left, top = np.round(np.array([5, 20]) - bbox[:2]).astype(int)
        there = drawn(frame)[top : top + shown.shape[0], left : left + shown.shape[1]]
        assert np.abs(shown.astype(int) - there).mean() < 25, "it is another frame, or another part of it"
    still = replace(ALL, motion=Motion(joints_mm=1000, box=0.1))
    made = pseudo_label(tmp_path / "annotated", tmp_path / "still", fingerprint=fingerprint, balance=still)
    assert [(row["frame_index"], row["side"]) for row in made.manifest] == [(0, "left"), (0, "right")]
    assert made.chosen.by_reason()[NEAR_DUPLICATE] == 22


def test_a_stretch_of_a_film_without_hands_is_passed_over(tmp_path: Path) -> None:
    film = encode(tmp_path, PLAIN, frames=12)
    frames = [0, 4, 11]  # none in the second of three units
    rows = [f"{film.name},{frame},{5 + 30 * (frame == 4)},20,50,50,right" for frame in frames]
    (tmp_path / "boxes.csv").write_text("key,frame_index,x,y,w,h,side\n" + "\n".join(rows) + "\n")
    fingerprint = _annotate_film(film, tmp_path / "boxes.csv", tmp_path / "annotated")
    made = pseudo_label(tmp_path / "annotated", tmp_path / "out", fingerprint=fingerprint, frames="crop")
    assert [row["frame_index"] for row in made.manifest] == frames


def _annotate_film(film: Path, table: Path, output: Path) -> str:
    """Annotates a film in this process by an untrained network; returns the fingerprint."""
    job = Annotation(
        weights=random_weights(preset("tiny"), 0),
        hand_model=synthetic_hand(),
        boxes=boxes.choose(str(table), None),
        boxes_identity="table",
        side=None,
        crop_rule=CROP_RULES["demo"],
        precision="fp32",
        meshes="none",
        vertices=False,
        unit_rows=5,
    )
    inputs, _ = find_inputs([str(film)])
    settled = settle(
        str(output),
        inputs,
        unit_rows=5,
        crop_size=64,
        probe=lambda items: [SOURCES[item.source].probe(item) for item in items],
    )
    workers = Workers(task_cpus=1, actor_cpus=0.5, actor_gpus=0, actors=(1, 1), threads=1, device="cpu")
    for record in local.run(job.flow(str(output), workers, 4), settled.units):
        assert record.counts.hands_annotated == record.counts.hands
    return job.fingerprint
