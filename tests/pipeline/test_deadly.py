"""A sample that brings its worker down costs itself, and no other one its place."""

import functools
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray

from pipeline import local, ray_data
from pipeline.boxes.given import Given
from pipeline.errors import ConfigError, Interrupted, StorageError
from pipeline.flow import Flow, Stage, as_it_is
from pipeline.inputs import find_inputs
from pipeline.probe import probe
from pipeline.ray_data import StageFailed
from pipeline.records import Unit
from pipeline.sources import SOURCES
from pipeline.sources.sampling import Sampling
from pipeline.stages import apart
from pipeline.stages.page import Page
from pipeline.units import settle
from tests.deadly import (
    DEADLY_SOURCE,
    DeadlyBoxes,
    DeadlyInput,
    DeadlyStep,
    Rejecting,
    failing,
    looked_at,
    no_builder,
)
from tests.pipeline.test_flow import WORKERS, job

DEADLY = frozenset({"00000003", "00000004", "00000017"})


@pytest.fixture
def cluster() -> Iterator[None]:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def planned(output: Path, shards: Path) -> tuple[Unit, ...]:
    return settle(
        str(output),
        find_inputs([f"{shards}/*.tar"])[0],
        unit_rows=6,
        crop_size=128,
        probe=lambda items: [SOURCES[item.source].probe(item) for item in items],
    ).units


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_what_kills_its_worker_is_rejected_and_all_else_is_annotated(tmp_path: Path, shards: Path) -> None:
    rows = []
    for runner, boxes in ((ray_data, DeadlyBoxes(DEADLY)), (local, Given(None))):
        output = tmp_path / runner.__name__
        units = planned(output, shards)
        records = list(runner.run(job(boxes).flow(str(output), WORKERS, batch_size=4), units))
        assert {record.unit.unit_id for record in records} == {unit.unit_id for unit in units}
        assert sum(record.counts.samples for record in records) == 24
        rows.append({name: pq.read_table(output / name).to_pylist() for name in ("annotations", "ledger")})
    ours, theirs = rows
    rejected = [row for row in ours["ledger"] if row["status"] == "rejected"]
    assert {row["key"] for row in rejected} == DEADLY
    assert {row["reason"] for row in rejected} == {
        "crashed the reader: the process that read it died of SIGSEGV"
    }
    assert [row for row in ours["ledger"] if row["key"] not in DEADLY] == [
        row for row in theirs["ledger"] if row["key"] not in DEADLY
    ]
    assert [row["instance_id"] for row in ours["annotations"]] == [
        row["instance_id"] for row in theirs["annotations"] if row["key"] not in DEADLY
    ]


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_step_that_kills_every_worker_ends_the_job_behind_all_others_and_names_the_unit() -> None:
    units = [Unit(f"unit-{number}", "images", "file:///x", number, number + 1, 1, "v") for number in range(4)]
    flow = Flow("deadly", (Stage("step", functools.partial(as_it_is, DeadlyStep("unit-1"))),))
    finished: list[str] = []
    with pytest.raises(Interrupted, match=r"died 6 times over step of unit-1; 1 units"):
        finished.extend(record.unit.unit_id for record in ray_data.run(flow, units))
    assert sorted(finished) == ["unit-0", "unit-2", "unit-3"]


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_stage_that_cannot_be_built_and_one_that_fails_say_why() -> None:
    units = [Unit("unit", "images", "file:///x", 0, 1, 1, "v")]
    for make, what, said in (
        (functools.partial(int, "no number"), StageFailed, "invalid literal for int.*'no number'"),
        (functools.partial(failing, ConfigError("lower --it")), ConfigError, "^lower --it$"),
        (functools.partial(failing, StorageError("gone")), Interrupted, "^gone$"),
    ):
        for actors in (None, (1, 1)):
            flow = Flow("failing", (Stage("step", make, cpus=0.5, actors=actors),))
            with pytest.raises(what, match=said):
                list(ray_data.run(flow, units))


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_step_that_no_worker_survives_building_ends_the_job_and_is_named() -> None:
    units = [Unit("unit", "images", "file:///x", 0, 1, 1, "v")]
    flow = Flow("deadly", (Stage("infer", no_builder, cpus=0.5, actors=(1, 1)),))
    with pytest.raises(Interrupted, match="infer: 6 workers died one after another while they started"):
        list(ray_data.run(flow, units))


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_what_kills_planning_is_looked_at_carefully_and_else_named() -> None:
    uris = ["a", "deadly", "b"]
    assert list(ray_data.in_order(looked_at, uris, carefully=str.upper)) == ["a", "DEADLY", "b"]
    with pytest.raises(Interrupted, match="3 workers died over deadly"):
        list(ray_data.in_order(looked_at, uris))


def test_an_input_that_kills_who_looks_at_it_is_damaged() -> None:
    inputs = [DeadlyInput(uri, "deadly", ()) for uri in ("a", "deadly", "b")]
    found = probe(inputs, sampling=Sampling(None, None), needs_boxes=False, apart=True)
    assert [list(extent.keys) for extent in found] == [["a"], [], ["b"]]
    assert found[1].damage == "the process that looked at it died of SIGSEGV"


def test_a_child_that_was_killed_from_outside_costs_no_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SOURCES, "deadly", DEADLY_SOURCE)
    page = Page(Unit("unit", "deadly", "file:///x", 0, 3, 1, "v"), 8, 4)
    apart.fill(page, Rejecting(), ["a", f"{tmp_path}/once", "b"])
    assert [row["reason"].split(":")[0] for row in page.ledger] == ["no image"] * 3
    assert (tmp_path / "once").exists()


def test_what_dies_before_its_sample_is_there_takes_the_rest_of_its_unit_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(SOURCES, "deadly", DEADLY_SOURCE)
    page = Page(Unit("unit", "deadly", "file:///x", 0, 4, 1, "v"), 8, 4)
    apart.fill(page, Rejecting(), ["a", "b", "deadly", "c"])
    assert [(row["key"], row["reason"].split(":")[0]) for row in page.ledger] == [
        ("a", "no image"),
        ("b", "no image"),
        ("deadly", "crashed the reader"),
        ("c", "crashed the reader"),
    ]
