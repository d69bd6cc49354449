"""The first stage: reads a unit's samples, finds their hands, and cuts the network's crops."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model.crop import CropAffine, CropRule, crop_affine, crop_box, crop_image, to_uint8
from model.errors import ModelError
from pipeline import quality
from pipeline.boxes.box_source import BoxSource
from pipeline.errors import DataError
from pipeline.intrinsics import CameraRule, KnownCamera
from pipeline.records import HANDS, LEDGER, Counts, HandBox, Sample, Unit, UnitRecord
from pipeline.sources import SOURCES
from pipeline.stages.decode import Photo, decode_photo
from pipeline.units import load_keys

MAX_HANDS = 1000
MAX_CROP_BYTES = 1 << 30


@dataclass(frozen=True)
class DecodeAndCrop:
    """Turns a unit into crops and a ledger; a full frame never leaves this stage.

    output: where the plan lies, with the keys of the unit's samples. cameras: which camera saw a hand.
    crop_bytes: what a unit's crops may take; a unit is cut by samples, and hands beyond that are rejected.
    """

    output: str
    boxes: BoxSource
    crop_rule: CropRule
    crop_size: int
    cameras: CameraRule = CameraRule()
    crop_bytes: int = MAX_CROP_BYTES

    def __call__(self, record: UnitRecord) -> UnitRecord:
        started = time.perf_counter()
        unit = record.unit
        keys = load_keys(self.output, unit)
        most = min(self.crop_bytes // (self.crop_size**2 * 3), len(keys) * MAX_HANDS)
        page = _Page(unit, np.empty((most, self.crop_size, self.crop_size, 3), np.uint8))
        for sample in SOURCES[unit.source].read(unit, keys):
            self._take(sample, page)
        if unit.damage is not None:
            page.reject(None, None, DataError("damaged input", unit.damage), "read")
        ledger = pa.Table.from_pylist(page.ledger, schema=LEDGER)
        taken = UnitRecord(
            unit=unit,
            ledger=ledger,
            hands=pa.Table.from_pylist(page.hands, schema=HANDS),
            crops=page.crops[: len(page.hands)],
            counts=Counts.of_ledger(ledger),
            seconds=record.seconds,
        )
        return taken.timed("decode_and_crop", time.perf_counter() - started)

    def _take(self, sample: Sample, page: "_Page") -> None:
        """Enters one sample: its hands as crops, or why it has none."""
        stage = "read"
        try:
            if sample.error is not None:
                raise sample.error
            stage = "decode"
            photo = decode_photo(sample.image) if isinstance(sample.image, bytes) else Photo(sample.image)
            image = photo.pixels
            stage = "boxes"
            found = self.boxes.find(sample, image)
            if len(found) > MAX_HANDS:
                raise DataError("too many hands", f"{len(found)} in one image; at most {MAX_HANDS}")
        except DataError as error:
            asked = self.boxes.asked(sample)
            for index in range(asked) if 0 < asked <= MAX_HANDS else [None]:
                page.reject(sample, index, error, stage)
            return
        if not found:
            page.enter(sample, None, "no_hand")
        for index, hand in enumerate(found):
            try:
                if isinstance(hand, DataError):
                    raise hand
                page.require_room()
                height, width = image.shape[:2]
                camera = self.cameras.choose(hand.camera, photo.camera, width, height)
                crop, affine = cut_out(image, hand.bbox, hand.side, self.crop_rule, self.crop_size)
                page.add(sample, index, hand, crop, affine, image.shape, camera)
            except DataError as error:
                page.reject(sample, index, error, "boxes")


def cut_out(
    image: NDArray[np.uint8], bbox: Sequence[float], side: str, rule: CropRule, size: int
) -> tuple[NDArray[np.uint8], CropAffine]:
    """Returns the crop of a hand as the network sees it, left hands mirrored, and where it lies.

    Raises:
        DataError: the box shows nothing of the image, or is too large.
    """
    height, width = image.shape[:2]
    x, y, w, h = bbox
    # The crop rule would move a box that lies left of or above the image into it.
    box = crop_box(bbox, width, height, rule) if x + w > 0 and y + h > 0 else None
    if box is None:
        detail = f"bbox {list(bbox)} covers less than a pixel of the {width}x{height} image"
        raise DataError("box outside", detail)
    affine = crop_affine(box, size, image_width=width, flip=side == "left")
    try:
        return to_uint8(crop_image(image, affine)), affine
    except ModelError as error:
        raise DataError("box too large", str(error)) from error


class _Page:
    """A unit's account while it is read: one ledger row per hand asked for and per sample without any.

    crops: room for them, which takes memory only as it is filled; they are never copied.
    """

    def __init__(self, unit: Unit, crops: NDArray[np.uint8]) -> None:
        self.unit = unit
        self.ledger: list[dict[str, Any]] = []
        self.hands: list[dict[str, Any]] = []
        self.crops = crops

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
        camera: KnownCamera | None,
    ) -> None:
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
                "camera": None if camera is None else list(camera.camera),
                "camera_source": None if camera is None else camera.source,
                "crop_outside": quality.crop_outside(part),
                "sharpness": quality.sharpness(crop, part),
                "crop_to_image": affine.crop_to_image.reshape(-1).tolist(),
                "mirrored": hand.side == "left",
                "ledger_row": len(self.ledger),
            }
        )
        self.enter(sample, index, "annotated")
