"""The first stage: reads a unit's samples, finds their hands, and cuts the network's crops."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model.crop import CropAffine, CropRule, crop_affine, crop_box, crop_image, to_uint8
from model.errors import ModelError
from pipeline.boxes.box_source import BoxSource
from pipeline.errors import DataError
from pipeline.intrinsics import CameraRule
from pipeline.records import HANDS, LEDGER, MAX_HANDS, Counts, Sample, UnitRecord
from pipeline.sources import SOURCES
from pipeline.stages import apart
from pipeline.stages.decode import Photo, decode_photo
from pipeline.stages.page import Page
from pipeline.units import load_keys

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
        page = Page(unit, self.crop_size, most)
        if record.deadly:
            apart.fill(page, self, keys)
        else:
            for sample in SOURCES[unit.source].read(unit, keys):
                self.take(sample, page)
        if unit.damage is not None:
            page.reject(None, None, DataError("damaged input", unit.damage), "read")
        ledger = pa.Table.from_pylist(page.ledger, schema=LEDGER)
        taken = UnitRecord(
            unit=unit,
            ledger=ledger,
            hands=pa.Table.from_pylist(page.hands, schema=HANDS),
            crops=page.taken,
            counts=Counts.of_ledger(ledger),
            seconds=record.seconds,
            deadly=record.deadly,
        )
        return taken.timed("decode_and_crop", time.perf_counter() - started)

    def take(self, sample: Sample, page: Page) -> None:
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
            self.reject(sample, page, error, stage)
            return
        if not found:
            page.enter(sample, None, "no_hand")
        for index, hand in enumerate(found):
            try:
                if isinstance(hand, DataError):
                    raise hand
                page.require_room()
                crop, affine = cut_out(image, hand.bbox, hand.side, self.crop_rule, self.crop_size)
                height, width = image.shape[:2]
                camera = self.cameras.choose(hand.camera, photo.camera, width, height)
                page.add(sample, index, hand, crop, affine, image.shape, camera)
            except DataError as error:
                page.reject(sample, index, error, "boxes")

    def reject(self, sample: Sample, page: Page, error: DataError, stage: str) -> None:
        """Enters a sample of which nothing can be used: each hand asked for of it, if one can say how many."""
        asked = self.boxes.asked(sample)
        for index in range(asked) if 0 < asked <= MAX_HANDS else [None]:
            page.reject(sample, index, error, stage)


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
