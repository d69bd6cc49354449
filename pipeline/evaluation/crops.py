"""Which boxes and which crop rule each benchmark is evaluated with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.crop import CROP_RULES, CropRule, bbox_of_joints
from pipeline.boxes.box_source import BoxSource
from pipeline.boxes.given import Given
from pipeline.errors import DataError
from pipeline.records import HandBox, Sample


@dataclass(frozen=True)
class AroundJoints(Given):
    """Takes the boxes round the labelled joints, and those of `hands` where no joints are labelled."""

    def find(self, sample: Sample, image: NDArray[np.uint8]) -> Sequence[HandBox | DataError]:
        hands = sample.hands
        if isinstance(hands, list):
            hands = [_boxed(entry) for entry in hands]
        return super().find(replace(sample, hands=hands), image)


def _boxed(entry: Any) -> Any:
    if not isinstance(entry, dict) or entry.get("joints_2d") is None:
        return entry
    try:
        joints_2d = np.asarray(entry["joints_2d"], np.float32)
    except (TypeError, ValueError, OverflowError):
        joints_2d = np.empty(0, np.float32)
    if joints_2d.shape != (21, 2):
        # Such a label is refused when it is measured against, and the message says why.
        return entry
    return {**entry, "bbox": bbox_of_joints(joints_2d).tolist()}


@dataclass(frozen=True)
class EvaluationCrop:
    """Where the hands of a benchmark's evaluation are taken to be; `identity` tells the boxes from others."""

    boxes: BoxSource
    identity: str
    rule: CropRule


_GIVEN = EvaluationCrop(Given(), "given", CROP_RULES["training"])
_AROUND_JOINTS = EvaluationCrop(AroundJoints(), "given, round the labelled joints", CROP_RULES["training"])

# ho3d and dexycb: the authors' code (github.com/namepllet/HandOccNet, data/HO3D and data/DEX_YCB): the benchmark's
# box, or the one round the true joints. freihand: its pictures are crops, which the rule leaves whole.
EVALUATION_CROPS: Final[dict[str, EvaluationCrop]] = {
    "ho3d-v2": replace(_GIVEN, rule=CROP_RULES["ho3d_evaluation"]),
    "ho3d-v3": replace(_GIVEN, rule=CROP_RULES["ho3d_evaluation"]),
    "dexycb": _AROUND_JOINTS,
    "fpha": _AROUND_JOINTS,
    "freihand": _GIVEN,
    "shards": _AROUND_JOINTS,
}
