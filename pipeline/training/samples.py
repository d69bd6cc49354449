"""Training samples: crops and what is labelled of them, as arrays; one sample cut from a shard's picture."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.augmentation import (
    NO_AUGMENTATION,
    Augmentation,
    AugmentationRanges,
    colour_crop,
    draw,
    mirror_points,
    mirror_pose,
    paste,
    turn_points,
    turn_root,
)
from model.crop import (
    CROP_RULES,
    CropAffine,
    bbox_of_joints,
    crop_affine,
    crop_box,
    crop_image,
    joints_to_crop,
    to_uint8,
)
from model.errors import ModelError
from pipeline.errors import DataError
from pipeline.stages.decode import decode_image
from pipeline.training.labels import HandLabel, hand_label


@dataclass(frozen=True)
class TrainingSamples:
    """n hands as the network learns them: right hands (left ones mirrored), turned and scaled as their crops are.

    What is not labelled holds zeros, and its mask says so. Metres and radians, camera axes (x right, y down, z away).
    """

    crops: NDArray[np.uint8]  # (n, S, S, 3) RGB
    joints_2d: NDArray[np.float32]  # (n, 21, 2) in [0, 1] of the crop; they may lie outside of it
    joints_2d_valid: NDArray[np.bool_]  # (n, 21)
    pose: NDArray[np.float32]  # (n, 16, 3) axis-angle, absolute; 0 is global_orient
    betas: NDArray[np.float32]  # (n, 10)
    has_mano: NDArray[np.bool_]  # (n,)
    joints_3d: NDArray[np.float32]  # (n, 21, 3) wrist at the origin
    has_joints_3d: NDArray[np.bool_]  # (n,)
    weight: NDArray[np.float32]  # (n,)
    visible: NDArray[np.int8]  # (n, 21) 1 seen, 0 hidden, -1 unknown
    left: NDArray[np.bool_]  # (n,) it was a left hand
    hand_index: NDArray[np.int32]  # (n,) in the label's `hands`
    keys: tuple[str, ...]

    @classmethod
    def none(cls, crop_size: int) -> "TrainingSamples":
        """Return no hands."""
        return cls(
            crops=np.zeros((0, crop_size, crop_size, 3), np.uint8),
            joints_2d=np.zeros((0, 21, 2), np.float32),
            joints_2d_valid=np.zeros((0, 21), np.bool_),
            pose=np.zeros((0, 16, 3), np.float32),
            betas=np.zeros((0, 10), np.float32),
            has_mano=np.zeros(0, np.bool_),
            joints_3d=np.zeros((0, 21, 3), np.float32),
            has_joints_3d=np.zeros(0, np.bool_),
            weight=np.zeros(0, np.float32),
            visible=np.zeros((0, 21), np.int8),
            left=np.zeros(0, np.bool_),
            hand_index=np.zeros(0, np.int32),
            keys=(),
        )

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, part: slice) -> "TrainingSamples":
        return self.select(np.arange(len(self))[part])

    def select(self, indices: ArrayLike) -> "TrainingSamples":
        """Return the samples of these numbers, in this order."""
        chosen = np.asarray(indices, np.int64)
        arrays = {name: getattr(self, name)[chosen] for name in _ARRAYS}
        return TrainingSamples(**arrays, keys=tuple(self.keys[index] for index in chosen))

    def to_row(self) -> dict[str, Any]:
        """Return them as one row of a dataset: arrays, and the keys as JSON."""
        return {**{name: getattr(self, name) for name in _ARRAYS}, "keys": json.dumps(self.keys)}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "TrainingSamples":
        """Return the samples of such a row, with the arrays as they lie in it."""
        return cls(**{name: np.asarray(row[name]) for name in _ARRAYS}, keys=tuple(json.loads(row["keys"])))


_ARRAYS = tuple(item.name for item in fields(TrainingSamples) if item.name != "keys")


def concatenate(parts: Sequence[TrainingSamples]) -> TrainingSamples:
    """Return the samples of all parts, one part behind the other; there must be at least one."""
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    return TrainingSamples(**arrays, keys=tuple(key for part in parts for key in part.keys))


def training_sample(
    key: str,
    image: bytes | NDArray[np.uint8],
    label: Any,
    hand_index: int,
    *,
    crop_size: int,
    rng: np.random.Generator | None,
    ranges: AugmentationRanges,
) -> TrainingSamples:
    """Cut one hand out of a picture (its bytes, or RGB pixels) as the published training does.

    The box is that round the labelled joints, or else the label's, enlarged by the `training` crop rule. rng: draws
    the augmentation; None for none, as validation wants it.

    Raises:
        DataError: the picture or what the label says of this hand cannot be used.
    """
    hand = hand_label(key, label, hand_index)
    pixels = decode_image(image) if isinstance(image, bytes) else image
    augmentation = NO_AUGMENTATION if rng is None else draw(rng, ranges)
    where = f"{key}, hand {hand_index}"
    affine = _placed(where, hand, pixels, crop_size, augmentation)
    joints_2d = (joints_to_crop(hand.joints_2d, affine) / crop_size).astype(np.float32)
    try:
        crop, visible = crop_image(pixels, affine), hand.visible
    except ModelError as error:
        raise DataError("box too large", f"{where}: {error}") from error
    if augmentation.occluder is not None:
        covered = paste(crop, augmentation.occluder, joints_2d)
        visible = np.where(covered & hand.has_joints_2d, 0, visible)
    pose, joints_3d = _turned(hand, augmentation.rotation_deg)
    return TrainingSamples(
        crops=to_uint8(colour_crop(crop, augmentation.colour))[None],
        joints_2d=joints_2d[None] * hand.has_joints_2d,
        joints_2d_valid=np.full((1, 21), hand.has_joints_2d),
        pose=pose[None].astype(np.float32),
        betas=hand.betas[None],
        has_mano=np.array([hand.has_mano]),
        joints_3d=joints_3d[None].astype(np.float32),
        has_joints_3d=np.array([hand.has_joints_3d]),
        weight=np.array([hand.weight], np.float32),
        visible=visible[None].astype(np.int8),
        left=np.array([hand.left]),
        hand_index=np.array([hand_index], np.int32),
        keys=(key,),
    )


def _placed(
    where: str, hand: HandLabel, pixels: NDArray[np.uint8], crop_size: int, augmentation: Augmentation
) -> CropAffine:
    """Where the hand's crop lies in its picture."""
    height, width = pixels.shape[:2]
    x, y, w, h = bbox = bbox_of_joints(hand.joints_2d) if hand.has_joints_2d else hand.bbox
    # The crop rule would move a box that lies left of or above the image into it.
    inside = x + w > 0 and y + h > 0
    box = crop_box(bbox, width, height, CROP_RULES["training"]) if inside else None
    if box is None:
        raise DataError("box outside", f"{where}: {bbox.tolist()} has no area in the {width}x{height} image")
    return crop_affine(
        box,
        crop_size,
        image_width=width,
        scale=augmentation.scale,
        rotation_deg=augmentation.rotation_deg,
        flip=hand.left,
    )


def _turned(hand: HandLabel, rotation_deg: float) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Pose and joints as those of a right hand in a crop turned by rotation_deg."""
    pose = np.array(mirror_pose(hand.pose) if hand.left else hand.pose, np.float64)
    joints = mirror_points(hand.joints_3d) if hand.left else hand.joints_3d
    if hand.has_mano:
        pose[0] = turn_root(pose[0], rotation_deg)
    return pose, turn_points(joints, rotation_deg)
