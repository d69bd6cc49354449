"""What a label says of its hands that predictions can be measured against."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.crop import bbox_of_joints
from pipeline.errors import DataError
from pipeline.training.labels import (
    fingertip_vertices_of,
    hand_count,
    hand_label,
    hand_model_of,
    is_text,
    numbers_of,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TrueHand:
    """One labelled hand; metres and camera axes, wrist at the origin. What is not labelled is None.

    bbox: x, y, w, h in pixels, round the labelled joints where there are any. vertices: those that stand in the label
    itself; pose and betas may give them as well. root: the wrist in camera space. index: the picture's place in the
    benchmark's own order. hand_model: whose parameters and vertices these are. fingertips: which vertices the finger
    tips are.
    """

    key: str
    hand_index: int
    left: bool
    bbox: Floats  # (4,)
    joints: Floats | None  # (21, 3)
    vertices: Floats | None  # (778, 3)
    pose: Floats | None  # (16, 3) absolute axis-angle
    betas: Floats | None  # (10,)
    root: Floats | None  # (3,)
    visible: tuple[int, ...] | None
    hand_model: str | None
    fingertips: tuple[int, ...] | None
    dataset: str | None
    split: str | None
    index: int | None
    sequence: str | None
    subject: str | None
    object: str | None

    @property
    def is_known(self) -> bool:
        """Says whether there is anything to measure against."""
        return self.joints is not None or self.vertices is not None or self.pose is not None


def true_hands(key: str, label: Any) -> list[TrueHand | DataError]:
    """Returns each hand of a sample's label, or why it cannot be used.

    Raises:
        DataError: the label itself cannot be used.
    """
    hands: list[TrueHand | DataError] = []
    model, tips = hand_model_of(key, label), fingertip_vertices_of(key, label)
    for hand_index in range(hand_count(key, label)):
        try:
            hands.append(_true_hand(key, label, hand_index, model, tips))
        except DataError as error:
            hands.append(error)
    return hands


def _true_hand(
    key: str, label: dict[str, Any], hand_index: int, model: str | None, tips: tuple[int, ...] | None
) -> TrueHand:
    hand, entry = hand_label(key, label, hand_index), label["hands"][hand_index]
    where = f"{key}, hand {hand_index}"
    root, vertices = numbers_of(where, entry, "root_3d", 3), numbers_of(where, entry, "vertices", 778, 3)
    if hand.has_joints_3d:
        wrist = np.asarray(entry["joints_3d"][0], np.float64)
        if root is None and wrist[2] > 0:  # else the joints stand round the wrist, which is nowhere
            root = wrist
    else:
        wrist = np.zeros(3) if root is None else root
    index = label.get("index")
    return TrueHand(
        key=key,
        hand_index=hand_index,
        left=hand.left,
        bbox=(bbox_of_joints(hand.joints_2d) if hand.has_joints_2d else hand.bbox).astype(np.float64),
        joints=hand.joints_3d.astype(np.float64) if hand.has_joints_3d else None,
        vertices=None if vertices is None else vertices - wrist,
        pose=hand.pose.astype(np.float64) if hand.has_mano else None,
        betas=hand.betas.astype(np.float64) if hand.has_mano else None,
        root=root,
        visible=None if (hand.visible < 0).any() else tuple(hand.visible.tolist()),
        hand_model=model,
        fingertips=tips,
        dataset=_name(label, "dataset"),
        split=_name(label, "split"),
        index=index if type(index) is int and 0 <= index < 2**63 else None,
        sequence=_name(label, "sequence"),
        subject=_name(label, "subject"),
        object=_name(label, "object"),
    )


def _name(label: dict[str, Any], name: str) -> str | None:
    value = label.get(name)
    return value if is_text(value) else None
