"""Hands of either side, posed by one hand model or read from annotations, with the wrist at the origin.

N hands; metres, camera axes; numpy, float64.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from model.mano.asset import HandModel
from model.mano.layer import ManoLayer, wrist_relative
from model.rotations import axis_angle_to_rotation
from pipeline.columns import numbers

Floats = NDArray[np.float64]
POSED_AT_ONCE = 256


class Hands(NamedTuple):
    """Joints (N, 21, 3) and vertices (N, 778, 3)."""

    joints: Floats
    vertices: Floats


class HandPoser:
    """Poses the hand model; a left hand is its mirror image, as annotations and labels have it."""

    def __init__(self, hand_model: HandModel) -> None:
        self._layer = ManoLayer(hand_model, torch.float64)
        self._mean_pose = np.concatenate([np.zeros((1, 3)), hand_model.hands_mean.reshape(15, 3)])

    @torch.inference_mode()
    def __call__(self, pose_N16x3: NDArray[Any], betas_N10: NDArray[Any], left_N: NDArray[np.bool_]) -> Hands:
        """Poses by absolute axis-angle vectors, 0 being global_orient."""
        sign_N11 = np.where(left_N, -1.0, 1.0)[:, None, None]
        one_N11 = np.ones_like(sign_N11)
        # Of a right hand: x of the axes stays, x of the points turns round.
        poses = pose_N16x3 * np.concatenate([one_N11, sign_N11, sign_N11], axis=2)
        joints, vertices = np.empty((len(poses), 21, 3)), np.empty((len(poses), 778, 3))
        for start in range(0, len(poses), POSED_AT_ONCE):
            chunk = slice(start, start + POSED_AT_ONCE)
            rotations = axis_angle_to_rotation(torch.from_numpy(poses[chunk]))
            betas = torch.from_numpy(np.asarray(betas_N10[chunk], np.float64))
            vertices_n, joints_n = wrist_relative(self._layer(rotations, betas))
            joints[chunk], vertices[chunk] = joints_n.numpy(), vertices_n.numpy()
        mirror = np.concatenate([sign_N11, one_N11, one_N11], axis=2)
        return Hands(joints * mirror, vertices * mirror)

    def at_rest(self, left_N: NDArray[np.bool_]) -> Hands:
        """Returns hands of the mean pose and shape that are not turned."""
        right = self(self._mean_pose[None], np.zeros((1, 10)), np.array([False]))
        mirror = np.stack([np.where(left_N, -1.0, 1.0), np.ones(len(left_N)), np.ones(len(left_N))], axis=1)
        return Hands(right.joints * mirror[:, None], right.vertices * mirror[:, None])


def rows_of(
    annotations: pa.Table, keys: Sequence[str | None], hand_indices: Sequence[int | None]
) -> NDArray[np.int64]:
    """Returns the annotations' row (N,) of each hand, by its picture's key and its index there, or -1."""
    places = zip(annotations["key"].to_pylist(), annotations["hand_index"].to_pylist(), strict=True)
    row_of = {place: row for row, place in enumerate(places)}
    return np.array([row_of.get(place, -1) for place in zip(keys, hand_indices, strict=True)], np.int64)


def predicted_vertices(annotations: pa.Table, poser: HandPoser | None) -> Floats | None:
    """Returns the vertices (N, 778, 3) of annotation rows: those that are stored, or else the parameters' own.

    None where neither is to be had.
    """
    if "vertices" in annotations.column_names:
        return numbers(annotations, "vertices", 778, 3)
    if poser is None:
        return None
    orient, pose = numbers(annotations, "global_orient", 1, 3), numbers(annotations, "hand_pose", 15, 3)
    left = np.array([side == "left" for side in annotations.column("side").to_pylist()], np.bool_)
    return poser(np.concatenate([orient, pose], axis=1), numbers(annotations, "betas", 10), left).vertices


def translations(annotations: pa.Table) -> Floats:
    """Returns the wrists in camera space (N, 3), NaN where no camera is known."""
    column = annotations.column("translation").to_pylist()
    return np.array([[np.nan] * 3 if value is None else value for value in column], np.float64).reshape(-1, 3)
