"""What a training shard says about a synthetic hand."""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.synthesis.hands import HandKit, PosedHand
from pipeline.synthesis.shading import Drawing
from pipeline.synthesis.staging import project

Floats = NDArray[np.floating]
Label = dict[str, Any]  # a JSON object, laid out as DESIGN's training-shard contract says

OCCLUDER_GAP_M = 2e-3  # a foreign surface must be this much nearer than a joint to hide it


def hand_label(
    kit: HandKit,
    hand: PosedHand,
    translation: Floats,
    camera: Floats,
    drawing: Drawing,
    owner: int,
    vertices: bool,
) -> Label:
    """One entry of `hands`: camera space, metres, pixels.

    bbox: the tight box of the projected mesh, hidden parts included, cut at the picture's edges.
    visible: see `visible_joints`; owner is the index of the hand's surface in the drawing.
    """
    joints = hand.joints + translation
    mesh = hand.vertices + translation
    height, width = drawing.depth.shape
    outline = project(mesh, camera)
    low = np.clip(outline.min(axis=0), 0, (width - 1, height - 1))
    high = np.clip(outline.max(axis=0), 0, (width - 1, height - 1))
    label = {
        "bbox": _rounded(np.concatenate([low, high - low])),
        "side": hand.side,
        "joints_3d": _rounded(joints),
        "joints_2d": _rounded(project(joints, camera)),
        "root_3d": _rounded(joints[0]),
        "mano": {
            "global_orient": _rounded(hand.global_orient),
            "hand_pose": _rounded(hand.hand_pose),
            "betas": _rounded(hand.betas),
            "translation": _rounded(translation),
        },
        "visible": visible_joints(joints, camera, drawing, owner, kit.flesh_m).astype(int).tolist(),
    }
    if vertices:
        label["vertices"] = np.round(mesh, 5).tolist()
    return label


def visible_joints(
    joints: Floats, camera: Floats, drawing: Drawing, owner: int, flesh_m: Floats
) -> NDArray[np.bool_]:
    """(21,) seen: inside the picture, behind no foreign surface, no deeper in its own hand than flesh_m.

    flesh_m (21,): how far below its own hand's surface a joint may lie along the line of sight.
    """
    height, width = drawing.depth.shape
    column, row = np.rint(project(joints, camera)).astype(np.int64).T
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    at = np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)
    covered_by = joints[:, 2] - drawing.depth[at]
    allowed = np.where(drawing.owner[at] == owner, flesh_m, OCCLUDER_GAP_M)
    seen: NDArray[np.bool_] = inside & (covered_by <= allowed)
    return seen


def to_json(label: Label) -> str:
    """The label as compact JSON, the same text for the same label."""
    return json.dumps(label, separators=(",", ":"), allow_nan=False)


def _rounded(values: Floats) -> Any:
    """Nested lists of floats with six significant digits: below a micrometre, and a third of the text."""
    flat = [float(f"{value:.6g}") for value in values.ravel()]
    return np.array(flat).reshape(values.shape).tolist()
