"""What is found of an input stands in the plan for good: a bad hour of its storage must not."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cluster import connect
from pipeline import storage
from pipeline.cut import cut
from pipeline.errors import ConfigError, Interrupted
from pipeline.inputs import find_inputs
from pipeline.probe import probe
from pipeline.ray_data import in_order
from pipeline.sources.sampling import Sampling
from pipeline.sources.source import Extent, Input
from pipeline.units import settle
from tests.s3_faults import Service


def probed(*places: str | Path, needs_boxes: bool = False) -> list[Extent]:
    inputs, _ = find_inputs([str(place) for place in places])
    return probe(inputs, sampling=Sampling(), needs_boxes=needs_boxes)


def test_a_cut_shard_is_damaged_and_a_disk_that_fails_is_no_damage(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    whole = min(shards.glob("*.tar")).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    (extent,) = probed(tmp_path / "cut.tar")
    assert extent.damage is not None
    # A file that exists and whose first byte the kernel answers with an input/output error.
    (tmp_path / "bad-sector.tar").symlink_to("/proc/self/mem")
    with pytest.raises(Interrupted, match=r"bad-sector\.tar: storage does not answer"):
        probed(tmp_path)


@pytest.mark.parametrize("name", ["a.tar", "a.parquet", "a.mp4"])
def test_a_service_that_gives_out_while_planning_leaves_no_damage_in_the_plan(
    s3: Service, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    storage.put(f"{s3.bucket}/{name}", b"nothing that could be read")
    (item,), _ = find_inputs([f"{s3.bucket}/{name}"])
    assert probe([item], sampling=Sampling(), needs_boxes=False)[0].damage is not None
    s3.faults.rates = {"slow_down": 1.0}
    with pytest.raises(Interrupted, match="SlowDown"):
        probe([item], sampling=Sampling(), needs_boxes=False)


@pytest.mark.ray
def test_pieces_planned_as_ray_tasks_are_those_planned_here_and_errors_come_as_they_were(
    tmp_path: Path, shards: Path
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(150):
        shutil.copy(min(shards.glob("*.tar")), tmp_path / "in" / f"{number:03d}.tar")
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "a.parquet")
    inputs, _ = find_inputs([str(tmp_path / "in")])
    bare, _ = find_inputs([str(tmp_path / "a.parquet")])

    def look(some: list[Input]) -> list[Extent]:
        return probe(some, sampling=Sampling(), needs_boxes=True)

    here = settle(str(tmp_path / "here"), inputs, unit_rows=5, crop_size=64, probe=look)
    with connect(None):
        there = settle(str(tmp_path / "there"), inputs, unit_rows=5, crop_size=64, probe=look, run=in_order)
        with pytest.raises(ConfigError, match=r"a\.parquet: carries no boxes; --boxes must be") as raised:
            list(in_order(look, [inputs[:3], bare]))
    assert len(str(raised.value).splitlines()) == 1
    assert there.units == here.units
    assert len(here.units) == 3 * 150 == len(cut(inputs[0], look(inputs[:1])[0], 5)) * 150
