"""The whole image as the box of one hand: for pictures that are crops already."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.boxes.box_source import camera_of
from pipeline.errors import DataError
from pipeline.records import HandBox, Sample


@dataclass(frozen=True)
class Whole:
    """Takes every image as one hand of the side that the option names."""

    side: str

    def asked(self, sample: Sample) -> int:  # noqa: ARG002
        return 1

    def find(self, sample: Sample, image: NDArray[np.uint8]) -> Sequence[HandBox | DataError]:
        height, width = image.shape[:2]
        return [
            HandBox(
                bbox=(0.0, 0.0, float(width), float(height)),
                side=self.side,
                side_source="option",
                bbox_source="whole",
                camera=camera_of(sample.camera),
            )
        ]
