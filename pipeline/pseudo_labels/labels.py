"""Labels of a training shard from rows of annotations, in the frame of the whole picture or of a part of it.

Left hands stay as they are annotated: their pose is that of the mirrored right hand model in both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.crop import bbox_of_joints
from pipeline.synthesis.labels import Label

DATASET = "pseudo"
ASSUMED = "fov"


@dataclass(frozen=True)
class Belongings:
    """What the labels of one job have in common: the hand model of their parameters, and what they call themselves."""

    hand_model: str
    fingertip_vertices: tuple[int, ...]
    split: str


def picture_label(
    rows: Sequence[Mapping[str, Any]],
    weights: Sequence[float],
    belongings: Belongings,
    origin: tuple[int, int] = (0, 0),
) -> Label:
    """Returns the label of a picture with all of its chosen hands.

    A camera that was only assumed, and where it puts the hands, are left out: who reads a label takes it as given.

    rows: annotations of one picture. origin: the pixel of the whole picture that is the labelled picture's (0, 0).
    """
    rows = [_without_guess(row) for row in rows]
    label: Label = {
        "split": belongings.split,
        "dataset": DATASET,
        "sequence": rows[0]["source"],
        "hand_model": belongings.hand_model,
        "fingertip_vertices": list(belongings.fingertip_vertices),
        "hands": [_hand(row, weight, origin) for row, weight in zip(rows, weights, strict=True)],
    }
    camera = next((row["camera"] for row in rows if row["camera"] is not None), None)
    if camera is not None:
        label["camera"] = _listed([*camera[:2], camera[2] - origin[0], camera[3] - origin[1]], 4)
    return label


def _without_guess(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**row, "camera": None, "translation": None} if row["camera_source"] == ASSUMED else row


def _hand(row: Mapping[str, Any], weight: float, origin: tuple[int, int]) -> Label:
    """One entry of `hands`; without a translation its joints have the wrist at 0, and there is no root."""
    x, y, w, h = row["bbox"]
    joints, wrist = np.asarray(row["joints"], np.float64), row["translation"]
    mano = {name: _listed(row[name], 6) for name in ("global_orient", "hand_pose", "betas")}
    hand: Label = {
        "bbox": _listed([x - origin[0], y - origin[1], w, h], 3),
        "side": row["side"],
        "joints_2d": _listed(np.asarray(row["joints_2d"], np.float64) - origin, 3),
        "joints_3d": _listed(joints if wrist is None else joints + wrist, 6),
        "mano": mano,
        "weight": round(weight, 4),
    }
    if wrist is not None:
        hand["root_3d"] = mano["translation"] = _listed(wrist, 6)
    return hand


def soft_weight(confidence: float, power: float) -> float:
    """Returns how much a hand counts: its confidence to a power, cut at 0 and 1; 1 for the power 0."""
    return float(min(max(confidence, 0.0), 1.0) ** power)


def region(
    rows: Sequence[Mapping[str, Any]], factor: float, width: int, height: int
) -> tuple[int, int, int, int]:
    """Returns the part (left, top, right, bottom) of a picture that holds all hands' enlarged boxes, in whole pixels.

    Each box, with the joints that lie outside of it, is made a square about its centre, `factor` times its longer side,
    and the part is cut at the picture's borders.
    """
    corners = []
    for row in rows:
        box = np.asarray(row["bbox"], np.float64)
        around = bbox_of_joints(row["joints_2d"]).astype(np.float64)
        low = np.minimum(box[:2], around[:2])
        high = np.maximum(box[:2] + box[2:], around[:2] + around[2:])
        reach = factor * (high - low).max() / 2
        corners.append([*((low + high) / 2 - reach), *((low + high) / 2 + reach)])
    found: NDArray[np.float64] = np.array(corners)
    left, top = np.clip(np.floor(found[:, :2].min(axis=0)), 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(np.ceil(found[:, 2:].max(axis=0)), (left + 1, top + 1), (width, height)).astype(
        int
    )
    return int(left), int(top), int(right), int(bottom)


def _listed(values: ArrayLike, decimals: int) -> Any:
    return np.round(np.asarray(values, np.float64), decimals).tolist()
