"""Pictures of stored annotations: what is drawn beside a hand is that hand's own truth, and no other's."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import storage
from pipeline.cut import cut
from pipeline.gallery import choose_rows, rows_with_samples, strip
from pipeline.inputs import find_inputs
from pipeline.plan import load_plan, store_keys
from pipeline.records import Sample
from pipeline.sinks.parts import committed
from pipeline.sources import images
from tests.pipeline.evaluation.annotated import FINGERPRINT, annotate
from tests.s3_faults import Service


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> tuple[Mapping[str, Any], Sample]:
    """An annotated hand and the sample that it is of."""
    output = str(annotate(shards, tmp_path_factory.mktemp("gallery")))
    units = {unit.unit_id: unit for unit in load_plan(output)}
    rows = choose_rows(output, units, committed(output, list(units.values()), FINGERPRINT), 30)
    found = list(rows_with_samples(output, units, rows))
    assert [row["instance_id"] for row, _ in found] == rows["instance_id"].to_pylist()
    assert all(row["key"] == sample.key for row, sample in found)
    return found[0]


def captions(row: Mapping[str, Any], sample: Sample) -> list[str]:
    return [tile.caption for tile in strip("unused", row, sample, None, None).tiles]


def test_the_truth_is_drawn_where_the_label_gave_the_box_and_nowhere_else(
    drawn: tuple[Mapping[str, Any], Sample],
) -> None:
    row, sample = drawn
    assert captions(row, sample)[-1] == "ground truth"
    for source in ("detect", "table", "whole"):
        assert "ground truth" not in captions({**row, "bbox_source": source}, sample)


@pytest.mark.parametrize("joints_2d", [None, [[1.0, 2.0]], [[None, 1.0]] * 21, "no", {"a": 1}])
def test_a_label_without_joints_that_could_be_drawn_draws_none(
    drawn: tuple[Mapping[str, Any], Sample], joints_2d: object
) -> None:
    row, sample = drawn
    hands = [{**hand, "joints_2d": joints_2d} for hand in sample.hands]
    assert "ground truth" not in captions(row, replace(sample, hands=hands))


def test_pictures_that_nobody_asked_for_are_not_read(s3: Service) -> None:
    for number in range(20):
        storage.put(f"{s3.bucket}/in/{number:02d}.png", b"x")
    (folder,), _ = find_inputs([f"{s3.bucket}/in"])
    output = f"{s3.bucket}/out"
    (unit,) = store_keys(output, "keys", cut(folder, images.probe(folder), 100))
    rows = pa.table({"key": ["07.png"] * 2, "frame_index": [None] * 2, "unit_id": [unit.unit_id] * 2})
    s3.faults.requests.clear()
    found = [sample.key for _, sample in rows_with_samples(output, {unit.unit_id: unit}, rows)]
    assert found == ["07.png"] * 2
    # The plan's keys take two: its footer and the unit's row.
    assert s3.faults.requests["GetObject"] <= 3
