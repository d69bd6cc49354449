"""The crops of an evaluation are those that its protocol means."""

from pathlib import Path

import numpy as np
import pytest

from model.augmentation import AugmentationRanges
from model.crop import crop_affine, crop_box, crop_image, to_uint8
from pipeline.cut import cut
from pipeline.evaluation.crops import EVALUATION_CROPS
from pipeline.inputs import find_inputs
from pipeline.plan import store_keys
from pipeline.records import UnitRecord
from pipeline.sources import webdataset
from pipeline.stages.decode import decode_image
from pipeline.stages.decode_and_crop import DecodeAndCrop
from pipeline.training.samples import training_sample

SIZE = 64


@pytest.mark.parametrize("dataset", EVALUATION_CROPS)
def test_crops_are_those_of_the_authors_evaluation(shards: Path, tmp_path: Path, dataset: str) -> None:
    source = find_inputs([f"{shards}/*.tar"])[0][0]
    (unit,) = store_keys(str(tmp_path), "keys", cut(source, webdataset.probe(source), 100))
    crop = EVALUATION_CROPS[dataset]
    record = DecodeAndCrop(str(tmp_path), crop.boxes, crop.rule, SIZE)(UnitRecord(unit))
    expected = []
    for sample in webdataset.read_as_named(unit):
        assert isinstance(sample.image, bytes)
        for index, hand in enumerate(sample.label["hands"]):
            if dataset in ("shards", "dexycb", "fpha"):
                found = training_sample(
                    sample.key,
                    sample.image,
                    sample.label,
                    index,
                    crop_size=SIZE,
                    rng=None,
                    ranges=AugmentationRanges(),
                )
                expected.append(found.crops[0])
                continue
            image = decode_image(sample.image)
            height, width = image.shape[:2]
            box = crop_box(hand["bbox"], width, height, crop.rule)
            affine = crop_affine(box, SIZE, image_width=width, flip=hand["side"] == "left")
            expected.append(to_uint8(crop_image(image, affine)))
    assert crop.rule.factor == 1.5
    assert crop.rule.clip_first == dataset.startswith("ho3d")
    assert np.array_equal(record.crops, np.stack(expected))
