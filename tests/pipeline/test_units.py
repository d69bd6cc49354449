import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import storage
from pipeline.cut import most_rows
from pipeline.errors import DataError, Interrupted
from pipeline.inputs import find_inputs
from pipeline.pictures import samples_of
from pipeline.records import Unit
from pipeline.sources import SOURCES
from pipeline.sources.source import Extent, Input
from pipeline.units import Piece, Settled, load_keys, load_plan, rows_per_unit, settle, unit_id, within
from tests.s3_faults import Service


def probe(inputs: Sequence[Input]) -> list[Extent]:
    return [SOURCES[item.source].probe(item) for item in inputs]


def plan(output: Path, *arguments: Path, rows: int | None = 3) -> Settled:
    inputs, _ = find_inputs([str(argument) for argument in arguments])
    return settle(str(output), inputs, unit_rows=rows, crop_size=128, probe=probe)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number in range(7):
        path = folder / f"{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * number)
    return folder


def test_an_id_holds_no_slash_and_no_leading_dot() -> None:
    for uri in ("s3://user:secret@bucket/a/b c.tar?x=1", "/data/.hidden", "/ü/" + "long" * 50):
        name = unit_id(uri, 0, 12)
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,79}-[0-9a-f]{16}-00000000-00000012", name)
    assert unit_id("s3://user:secret@bucket/a", 0, 1) == unit_id("s3://bucket/a", 0, 1)


def test_every_image_is_in_exactly_one_unit(tmp_path: Path, folder: Path) -> None:
    settled = plan(tmp_path / "out", folder)
    keys = [key for unit in settled.units for key in load_keys(str(tmp_path / "out"), unit)]
    assert sorted(keys) == ["0/0.jpg", "0/2.jpg", "0/4.jpg", "0/6.jpg", "1/1.jpg", "1/3.jpg", "1/5.jpg"]
    assert [(unit.first, unit.last) for unit in settled.units] == [(0, 3), (3, 6), (6, 7)]


def test_a_new_image_never_shifts_old_units(tmp_path: Path, folder: Path) -> None:
    output = tmp_path / "out"
    before = plan(output, folder)
    (folder / "0" / "1.jpg").write_bytes(b"new")
    after = plan(output, folder)
    assert after.units[: len(before.units)] == before.units
    assert load_keys(str(output), after.units[-1]) == ["0/1.jpg"]
    assert (after.units[-1].first, after.units[-1].last) == (7, 8)


def test_a_changed_image_changes_its_unit_alone(tmp_path: Path, folder: Path) -> None:
    output = tmp_path / "out"
    before = plan(output, folder)
    (folder / "1" / "5.jpg").write_bytes(b"something else")
    after = plan(output, folder)
    changed = [new.unit_id for old, new in zip(before.units, after.units, strict=True) if old != new]
    assert changed == [before.units[2].unit_id]
    assert after.changed == (before.units[2].unit_id,)


def test_a_picture_that_is_another_one_by_now_is_not_taken_for_the_annotated_one(
    tmp_path: Path, folder: Path
) -> None:
    units = plan(tmp_path / "out", folder, rows=7).units
    (folder / "1" / "3.jpg").write_bytes(b"another")
    (folder / "0" / "4.jpg").unlink()
    table = pa.table({"key": ["1/1.jpg", "1/3.jpg", "0/4.jpg"], "frame_index": pa.nulls(3, pa.int64())})
    found = {
        sample.key: sample.error for _, sample in samples_of(str(tmp_path / "out"), units[0], table, range(3))
    }
    assert found["1/1.jpg"] is None
    assert [error and error.kind for key, error in found.items() if key != "1/1.jpg"].count(
        "changed input"
    ) == 1
    assert (found["0/4.jpg"] or DataError("none")).kind == "missing file"


def test_a_change_is_noticed_though_another_image_of_the_unit_is_gone(tmp_path: Path, folder: Path) -> None:
    output = tmp_path / "out"
    before = plan(output, folder, rows=100)
    (folder / "0" / "0.jpg").unlink()
    gone = plan(output, folder, rows=100)
    assert gone.units == before.units
    assert [uri.rsplit("/", 1)[-1] for uri in gone.removed] == ["0.jpg"]
    assert gone.incomplete == {before.units[0].unit_id}
    (folder / "1" / "5.jpg").write_bytes(b"something else")
    assert plan(output, folder, rows=100).changed == (before.units[0].unit_id,)
    assert plan(output, folder, rows=100).changed == ()


def test_an_input_has_one_version_however_it_is_named(tmp_path: Path, shards: Path) -> None:
    output = tmp_path / "out"
    plan(output, shards)
    for arguments in (sorted(shards.glob("*.tar")), [shards / "*.tar"], [shards]):
        assert plan(output, *arguments).changed == ()


def test_a_removed_input_is_named_and_keeps_its_units(tmp_path: Path, shards: Path) -> None:
    output = tmp_path / "out"
    first, second = sorted(shards.glob("*.tar"))
    plan(output, first, second)
    after = plan(output, second)
    assert after.removed == (storage.canonical(str(first)),)
    assert len(after.units) == 8
    assert {unit.input for unit in after.units if unit.unit_id in after.requested} == {
        storage.canonical(str(second))
    }


def test_a_changed_shard_is_planned_anew_as_a_whole(tmp_path: Path, shards: Path) -> None:
    output, copy = tmp_path / "out", tmp_path / "copy.tar"
    first, second = sorted(shards.glob("*.tar"))
    copy.write_bytes(first.read_bytes())
    assert len(plan(output, copy).units) == 4
    copy.write_bytes(second.read_bytes()[: second.stat().st_size // 2])
    after = plan(output, copy)
    assert after.changed == (storage.canonical(str(copy)),)
    assert after.units[-1].damage is not None
    assert {unit.version for unit in load_plan(str(output))} == {after.units[0].version}


def test_a_limit_takes_whole_units(tmp_path: Path, folder: Path) -> None:
    units = plan(tmp_path / "out", folder).units
    assert [len(within(units, limit)) for limit in (1, 3, 4, 100, None)] == [1, 1, 2, 3, 3]


def test_small_jobs_are_cut_finer_than_256_mib() -> None:
    assert rows_per_unit(10, 256) == 16
    assert rows_per_unit(6400, 256) == 100
    assert rows_per_unit(10**8, 256) == (256 << 20) // (256 * 256 * 3)


def test_a_job_of_many_inputs_is_cut_by_bytes_alone() -> None:
    assert most_rows(256) == rows_per_unit(10**8, 256)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """1100 shards: the same one under as many names."""
    folder = tmp_path_factory.mktemp("many")
    one = folder / "0000.tar"
    one.write_bytes(min(shards.glob("*.tar")).read_bytes())
    for number in range(1, 1100):
        os.link(one, folder / f"{number:04d}.tar")
    return folder


def test_an_interrupted_planning_of_many_inputs_goes_on_where_it_was(tmp_path: Path, many: Path) -> None:
    inputs, _ = find_inputs([str(many)])
    probed: list[str] = []

    def watched(some: Sequence[Input]) -> list[Extent]:
        probed.extend(item.uri for item in some)
        return [Extent(["a", "b", "c"], offsets=[0, 1, 2, 3], has_boxes=True) for _ in some]

    def breaking(plan: Callable[[Piece], list[Unit]], pieces: Sequence[Piece]) -> Iterator[list[Unit]]:
        yield from map(plan, pieces[:-1])
        raise Interrupted("storage gave out")

    def settled(output: Path, **more: Any) -> Settled:
        return settle(str(output), inputs, unit_rows=2, crop_size=128, probe=watched, **more)

    whole = settled(tmp_path / "whole")
    assert len(whole.units) == 2 * len(inputs) == 2200
    assert probed == [item.uri for item in inputs]
    with pytest.raises(Interrupted):
        settled(tmp_path / "out", run=breaking)
    kept = load_plan(str(tmp_path / "out"))
    assert 0 < len(kept) < 2200
    probed.clear()
    again = settled(tmp_path / "out")
    assert probed == [item.uri for item in inputs][len(kept) // 2 :]
    assert [unit.unit_id for unit in again.units] == [unit.unit_id for unit in whole.units]
    assert [load_keys(str(tmp_path / "out"), unit) for unit in again.units[-3:]] == [["c"], ["a", "b"], ["c"]]
    probed.clear()
    assert settled(tmp_path / "out").units == again.units
    assert probed == []


def test_what_could_not_be_read_is_looked_at_again_when_asked_for(tmp_path: Path, shards: Path) -> None:
    """As after `chmod`, or where an archived object is back: neither its size nor its time tells."""
    good, bad = sorted(shards.glob("*.tar"))
    sound, spoilt = tmp_path / "a.tar", tmp_path / "b.tar"
    sound.write_bytes(good.read_bytes())
    spoilt.write_bytes(b"?" * bad.stat().st_size)
    status = spoilt.stat()
    inputs, output = find_inputs([str(tmp_path)])[0], str(tmp_path / "out")
    probed: list[str] = []

    def settled(**more: Any) -> Settled:
        def watched(some: Sequence[Input]) -> list[Extent]:
            probed.extend(storage.name_of(item.uri) for item in some)
            return probe(some)

        return settle(output, inputs, unit_rows=12, crop_size=128, probe=watched, **more)

    assert [(unit.last, unit.damage is None) for unit in settled().units] == [(12, True), (0, False)]
    spoilt.write_bytes(bad.read_bytes())
    os.utime(spoilt, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert settled().units[-1].damage is not None
    probed.clear()
    again = settled(doubt_damage=True)
    assert (probed, again.doubted) == (["b.tar"], (inputs[1].uri,))
    assert [(unit.last, unit.damage) for unit in again.units] == [(12, None), (12, None)]
    assert load_plan(output) == list(again.units)


def test_a_plan_that_is_only_looked_at_is_the_one_that_would_be_stored(tmp_path: Path, many: Path) -> None:
    inputs = find_inputs([str(many)])[0][:100]
    looked = settle(str(tmp_path / "a"), inputs, unit_rows=5, crop_size=128, probe=probe, store=False)
    assert not (tmp_path / "a").exists()
    stored = settle(str(tmp_path / "b"), inputs, unit_rows=5, crop_size=128, probe=probe)
    assert [unit.unit_id for unit in looked.units] == [unit.unit_id for unit in stored.units]
    anew = settle(
        str(tmp_path / "b"), inputs, unit_rows=3, crop_size=128, probe=probe, stored=(), store=False
    )
    assert len(anew.units) == 400


def test_each_file_of_keys_is_read_once(s3: Service) -> None:
    for number in range(130):
        storage.put(f"{s3.bucket}/in/{number:03d}.jpg", b"x")

    def again() -> Settled:
        inputs, _ = find_inputs([f"{s3.bucket}/in"])
        return settle(f"{s3.bucket}/out", inputs, unit_rows=1, crop_size=128, probe=probe)

    assert len(again().units) == 130
    storage.put(f"{s3.bucket}/in/070.jpg", b"another")
    s3.faults.requests.clear()
    assert len(again().changed) == 1
    assert s3.faults.requests["GetObject"] == 1 + 3, "one file of the plan, three of keys"
