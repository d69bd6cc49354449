"""What is known of a unit while its samples are read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.crop import CropAffine
from pipeline import quality
from pipeline.errors import DataError
from pipeline.intrinsics import KnownCamera
from pipeline.records import HandBox, Sample, Unit


class Page:
    """A unit's account while it is read: one ledger row per hand asked for and per sample without any.

    most_crops: there is room for so many, which takes memory only as it is filled; they are never copied.
    """

    def __init__(self, unit: Unit, crop_size: int, most_crops: int) -> None:
        self.unit = unit
        self.ledger: list[dict[str, Any]] = []
        self.hands: list[dict[str, Any]] = []
        self.crops = np.empty((most_crops, crop_size, crop_size, 3), np.uint8)

    @property
    def taken(self) -> NDArray[np.uint8]:
        """The crops of the hands, in their order."""
        return self.crops[: len(self.hands)]

    def append(
        self, ledger: Sequence[dict[str, Any]], hands: Sequence[dict[str, Any]], crops: NDArray[np.uint8]
    ) -> None:
        """Enters what another page of the same unit says below this one's."""
        below = len(self.ledger)
        self.ledger += ledger
        for hand, crop in zip(hands, crops, strict=True):
            row = hand["ledger_row"] + below
            try:
                self.require_room()
            except DataError as error:
                self.ledger[row] |= {"status": "rejected", "stage": "boxes", "reason": str(error)}
                continue
            self.crops[len(self.hands)] = crop
            self.hands.append(hand | {"ledger_row": row})

    def require_room(self) -> None:
        """Raises DataError where the unit's crops already take all that they may."""
        if len(self.hands) == len(self.crops):
            samples = self.unit.last - self.unit.first
            detail = (
                f"the crops of more than {len(self.crops)} hands take too much memory; "
                f"--unit-rows below {samples} makes smaller units"
            )
            raise DataError("unit full", detail)

    def enter(self, sample: Sample | None, index: int | None, status: str, **more: str) -> None:
        row: dict[str, Any] = {"source": self.unit.input, "hand_index": index, "status": status, **more}
        if sample is not None:
            row |= {"key": sample.key, "frame_index": sample.frame_index, "timestamp": sample.timestamp}
        self.ledger.append(row)

    def reject(self, sample: Sample | None, index: int | None, error: DataError, stage: str) -> None:
        self.enter(sample, index, "rejected", stage=stage, reason=str(error))

    def add(
        self,
        sample: Sample,
        index: int,
        hand: HandBox,
        crop: NDArray[np.uint8],
        affine: CropAffine,
        shape: Sequence[int],
        camera: KnownCamera | DataError | None,
    ) -> None:
        """Enters a hand; one whose camera cannot be used has no place in camera space, and the ledger says why."""
        known = None if isinstance(camera, DataError) else camera
        part = quality.shown_part(affine, image_width=shape[1], image_height=shape[0])
        place = sample.key if sample.frame_index is None else str(sample.frame_index)
        self.crops[len(self.hands)] = crop
        self.hands.append(
            {
                "instance_id": f"{self.unit.input}#{place}#{index}",
                "source": self.unit.input,
                "key": sample.key,
                "frame_index": sample.frame_index,
                "timestamp": sample.timestamp,
                "hand_index": index,
                "side": hand.side,
                "side_source": hand.side_source,
                "image_width": shape[1],
                "image_height": shape[0],
                "bbox": list(hand.bbox),
                "bbox_score": hand.score,
                "bbox_source": hand.bbox_source,
                "camera": None if known is None else list(known.camera),
                "camera_source": None if known is None else known.source,
                "crop_outside": quality.crop_outside(part),
                "sharpness": quality.sharpness(crop, part),
                "crop_to_image": affine.crop_to_image.reshape(-1).tolist(),
                "mirrored": hand.side == "left",
                "ledger_row": len(self.ledger),
            }
        )
        problem = (
            {"stage": "place", "reason": f"no translation: {camera}"} if isinstance(camera, DataError) else {}
        )
        self.enter(sample, index, "annotated", **problem)
