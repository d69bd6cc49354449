"""A unit becomes crops: no more of them than its memory has room for."""

from pathlib import Path

import numpy as np

from model.crop import CROP_RULES
from pipeline import boxes
from pipeline.cut import cut
from pipeline.inputs import find_inputs
from pipeline.plan import store_keys
from pipeline.records import UnitRecord
from pipeline.sources import webdataset
from pipeline.stages.decode_and_crop import MAX_CROP_BYTES, DecodeAndCrop

SIZE = 32


def test_hands_for_whose_crops_a_unit_has_no_room_are_rejected_with_the_way_out(
    shards: Path, tmp_path: Path
) -> None:
    source = find_inputs([f"{shards}/*.tar"])[0][0]
    (unit,) = store_keys(str(tmp_path), "keys", cut(source, webdataset.probe(source), 100))

    def taken(crop_bytes: int = MAX_CROP_BYTES) -> UnitRecord:
        given = boxes.choose("given", None)
        stage = DecodeAndCrop(str(tmp_path), given, CROP_RULES["demo"], SIZE, crop_bytes=crop_bytes)
        return stage(UnitRecord(unit))

    whole, part = taken(), taken(7 * SIZE * SIZE * 3 + 5)
    assert whole.crops.shape == (whole.counts.hands, SIZE, SIZE, 3)
    assert whole.counts.hands > 7
    np.testing.assert_array_equal(part.crops, whole.crops[:7])
    assert part.hands == whole.hands.slice(0, 7)
    assert part.counts.rejects == {"unit full": whole.counts.hands - 7}
    assert part.counts.samples == whole.counts.samples
    reason = part.ledger["reason"].to_pylist()[-1]
    assert reason.endswith("--unit-rows below 12 makes smaller units")
