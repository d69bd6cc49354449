"""Pictures of stored annotations: what is drawn beside a hand is that hand's own truth, and no other's."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.gallery import choose_rows, rows_with_samples, strip
from pipeline.plan import load_plan
from pipeline.records import Sample
from pipeline.sinks.parts import committed
from tests.pipeline.evaluation.annotated import FINGERPRINT, annotate


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
