"""Boxes that the input itself carries, sample by sample."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.boxes.box_source import parse_hand
from pipeline.errors import DataError
from pipeline.records import HandBox, Sample


@dataclass(frozen=True)
class Given:
    """Takes `hands` from the sample; `side` serves hands that do not say theirs."""

    side: str | None = None

    def asked(self, sample: Sample) -> int:
        return len(sample.hands) if isinstance(sample.hands, list) else 0

    def find(self, sample: Sample, image: NDArray[np.uint8]) -> Sequence[HandBox | DataError]:  # noqa: ARG002
        if sample.hands is None:
            raise DataError(
                "no boxes", "the sample carries no `hands`; an empty list would say that it has none"
            )
        if not isinstance(sample.hands, list):
            raise DataError("bad box", f"`hands` is a {type(sample.hands).__name__}, not a list")
        return [
            parse_hand(entry, side=self.side, source="given", sample_camera=sample.camera, index=index)
            for index, entry in enumerate(sample.hands)
        ]
