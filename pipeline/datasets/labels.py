"""Labels as the contract of training shards lays them out, from arrays in our conventions."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from model.crop import bbox_of_joints
from model.mano.joints import FINGERTIP_VERTICES
from pipeline.camera import project
from pipeline.datasets.conventions import Floats
from pipeline.errors import DataError
from pipeline.synthesis.labels import Label, to_json

__all__ = ["Label", "frame_label", "hand_label", "mano_label", "to_json"]

Pose = dict[str, list[float]]

# Beyond these, something else was read than metres and pixels.
_FARTHEST_M = 100.0
_WIDEST_PX = 1e6


def frame_label(
    dataset: str,
    split: str,
    index: int | None,
    camera: Floats,
    hand: Label,
    *,
    tips: str | None,
    hand_model: str | None = None,
    sequence: str | None = None,
    subject: str | None = None,
    object: str | None = None,
) -> Label:
    """Returns a sample's label; what is None is left out.

    index: the sample's number in the benchmark's own order, None where it is not known. tips: the name of the vertex
    set that the labelled finger tips are, None where they are no vertices.
    """
    label = {
        "dataset": dataset,
        "split": split,
        "index": index,
        "camera": _listed(camera, 6),
        "sequence": sequence,
        "subject": subject,
        "object": object,
        "hand_model": hand_model if "mano" in hand or "vertices" in hand else None,
        "fingertip_vertices": None if tips is None else list(FINGERTIP_VERTICES[tips]),
        "hands": [hand],
    }
    return {name: value for name, value in label.items() if value is not None}


def hand_label(
    side: str,
    camera: Floats,
    *,
    joints: Floats | None = None,
    vertices: Floats | None = None,
    root: Floats | None = None,
    bbox: ArrayLike | None = None,
    mano: Pose | None = None,
) -> Label:
    """Returns one entry of `hands`; what is None is left out.

    joints (21, 3), vertices (778, 3), root (3,): camera space, metres. Without a bbox the tight box of the
    projected joints serves, which may reach over the picture's border: the crop rules cut it themselves.

    Raises:
        DataError: a number that is not finite, a joint at or behind the camera.
    """
    label: Label = {"side": side}
    if joints is not None:
        _require(joints, (21, 3), _FARTHEST_M, "joints")
        if (joints[:, 2] <= 0).any():
            raise DataError("senseless annotation", "a joint lies behind the camera")
        pixels = project(joints, camera)
        _require(pixels, (21, 2), _WIDEST_PX, "projected joints")
        label["joints_3d"] = _listed(joints, 7)
        label["joints_2d"] = _listed(pixels, 3)
        root = joints[0] if root is None else root
        bbox = bbox_of_joints(pixels) if bbox is None else bbox
    if root is not None:
        _require(root, (3,), _FARTHEST_M, "root joint")
        label["root_3d"] = _listed(root, 7)
    if bbox is None:
        raise DataError("senseless annotation", "there is neither a box nor joints")
    box = np.asarray(bbox, np.float64)
    _require(box, (4,), _WIDEST_PX, "box")
    label["bbox"] = _listed(box, 3)
    if mano is not None:
        label["mano"] = mano
    if vertices is not None:
        _require(vertices, (778, 3), _FARTHEST_M, "vertices")
        label["vertices"] = _listed(vertices, 6)
    return label


def mano_label(
    global_orient: ArrayLike, hand_pose: ArrayLike, betas: ArrayLike, translation: ArrayLike
) -> Pose:
    """Returns `mano`: axis-angle, absolute; translation is the wrist in camera space."""
    values = {
        "global_orient": (global_orient, 3),
        "hand_pose": (hand_pose, 45),
        "betas": (betas, 10),
        "translation": (translation, 3),
    }
    for name, (value, count) in values.items():
        _require(np.asarray(value, np.float64), (count,), _FARTHEST_M, name)
    return {name: _listed(value, 7) for name, (value, _) in values.items()}


def _require(values: Floats, shape: tuple[int, ...], largest: float, what: str) -> None:
    if values.shape != shape:
        raise DataError("senseless annotation", f"{what}: shape {values.shape}, {shape} belongs there")
    # Also false for NaN.
    if not (np.abs(values) <= largest).all():
        raise DataError("senseless annotation", f"{what}: a number that is not finite, or beyond {largest:g}")


def _listed(values: ArrayLike, decimals: int) -> Any:
    """Nested lists of rounded floats: a tenth of a micrometre, a thousandth of a pixel."""
    return np.round(np.asarray(values, np.float64), decimals).tolist()
