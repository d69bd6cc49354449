"""The contract of every source: what is written is read back, in any units, and damage is said."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.inputs import find_inputs
from pipeline.records import Sample
from pipeline.sources import SOURCES, webdataset
from pipeline.sources.source import Extent, unrepeated
from pipeline.units import load_keys, load_plan, settle
from tests.s3_faults import Service

HANDS = [{"bbox": [1.0, 2.0, 3.0, 4.0], "side": "right"}]
CONTENT = [(f"{number:03d}", bytes([number]) * (number + 1)) for number in range(11)]


def write_images(folder: Path, content: Sequence[tuple[str, bytes]]) -> Path:
    (folder / "images").mkdir()
    for key, data in content:
        (folder / "images" / f"{key}.jpg").write_bytes(data)
    return folder / "images"


def write_tar(folder: Path, content: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(folder / "a.tar", "w") as archive:
        for key, data in content:
            for name, body in ((f"{key}.jpg", data), (f"{key}.json", json.dumps({"hands": HANDS}).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(body)
                archive.addfile(member, io.BytesIO(body))
    return folder / "a.tar"


def write_parquet(folder: Path, content: Sequence[tuple[str, bytes]]) -> Path:
    table = pa.table(
        {
            "key": [key for key, _ in content],
            "image": [data for _, data in content],
            "hands": [HANDS for _ in content],
        }
    )
    pq.write_table(table, folder / "a.parquet", row_group_size=4)
    return folder / "a.parquet"


WRITERS: dict[str, Callable[[Path, Sequence[tuple[str, bytes]]], Path]] = {
    "images": write_images,
    "webdataset": write_tar,
    "parquet": write_parquet,
}


def read(path: Path, output: Path, rows: int) -> tuple[list[Sample], list[str]]:
    """Reads an input unit by unit, through the stored plan; returns samples and what was damaged."""

    def probe(inputs: object) -> list[Extent]:
        return [SOURCES[item.source].probe(item) for item in inputs]  # type: ignore[attr-defined]

    inputs, _ = find_inputs([str(path)])
    units = settle(str(output), inputs, unit_rows=rows, crop_size=64, probe=probe).units
    samples = [
        sample for unit in units for sample in SOURCES[unit.source].read(unit, load_keys(str(output), unit))
    ]
    return samples, [unit.damage for unit in units if unit.damage is not None]


def test_every_source_is_held_to_the_contract_here_or_in_a_file_of_its_own() -> None:
    assert set(SOURCES) == {*WRITERS, "video"}


@pytest.mark.parametrize("rows", [1, 4, 100])
@pytest.mark.parametrize("name", WRITERS)
def test_every_sample_is_read_once_whatever_the_units(tmp_path: Path, name: str, rows: int) -> None:
    samples, damage = read(WRITERS[name](tmp_path, CONTENT), tmp_path / "out", rows)
    endings = ".jpg" if name == "images" else ""
    assert [(sample.key, sample.image) for sample in samples] == [
        (key + endings, data) for key, data in CONTENT
    ]
    assert damage == []
    if name != "images":
        assert all(sample.hands == HANDS for sample in samples)


@pytest.mark.parametrize("name", ["webdataset", "parquet"])
def test_a_repeated_key_is_told_apart_the_same_in_any_units(tmp_path: Path, name: str) -> None:
    content = [("a", b"1"), ("b", b"2"), ("a", b"3"), ("b", b"4"), ("a", b"5")]
    path = WRITERS[name](tmp_path, content)
    for rows in (1, 2, 100):
        samples, _ = read(path, tmp_path / f"out{rows}", rows)
        assert [sample.key for sample in samples] == ["a", "b", "a~2", "b~2", "a~3"]
        assert [sample.image for sample in samples] == [data for _, data in content]


def test_a_table_is_cut_between_its_row_groups(tmp_path: Path) -> None:
    read(write_parquet(tmp_path, CONTENT), tmp_path / "out", 5)
    assert [(unit.first, unit.last) for unit in load_plan(str(tmp_path / "out"))] == [(0, 4), (4, 8), (8, 11)]


def test_of_a_row_group_no_more_is_fetched_than_a_run_of_it_needs(tmp_path: Path) -> None:
    def fetched() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    table = pa.table({"image": [bytes([number]) * 200_000 for number in range(100)]})
    pq.write_table(
        table, tmp_path / "a.parquet", compression="none", use_dictionary=False, write_batch_size=1
    )
    read(tmp_path / "a.parquet", tmp_path / "out", 40)
    unit, *_ = load_plan(str(tmp_path / "out"))
    before = fetched()
    samples = SOURCES["parquet"].read(unit, load_keys(str(tmp_path / "out"), unit))
    next(samples)
    assert fetched() - before < 25 * 200_000
    assert len(list(samples)) == 39
    assert fetched() - before < 60 * 200_000


def test_a_long_run_of_a_shard_is_fetched_in_windows_and_each_of_them_once(
    tmp_path: Path, s3: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tar(tmp_path, [(f"{number:03d}", bytes([number]) * 700) for number in range(40)])
    whole, _ = read(path, tmp_path / "whole", 100)
    (unit,) = load_plan(str(tmp_path / "whole"))
    storage.put(f"{s3.bucket}/a.tar", path.read_bytes())
    found = storage.stat(f"{s3.bucket}/a.tar")
    assert found is not None
    there = replace(unit, input=found.uri, version=f"{found.size}-{found.version}")
    monkeypatch.setattr(webdataset, "WINDOW_BYTES", 5000)
    s3.faults.requests.clear()
    keys = load_keys(str(tmp_path / "whole"), unit)
    assert list(SOURCES["webdataset"].read(there, keys)) == whole
    assert s3.faults.requests["GetObject"] == -(-unit.length // 5000) > 20


def test_a_shard_that_changes_while_it_is_read_gives_no_more_samples_and_loses_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tar(tmp_path, [(f"{number:03d}", bytes([number]) * 700) for number in range(40)])
    read(path, tmp_path / "out", 100)
    (unit,) = load_plan(str(tmp_path / "out"))
    monkeypatch.setattr(webdataset, "WINDOW_BYTES", 5000)
    samples = []
    for sample in SOURCES["webdataset"].read(unit, load_keys(str(tmp_path / "out"), unit)):
        samples.append(sample)
        if len(samples) == 10:
            path.write_bytes(path.read_bytes() + b"more")
    assert [sample.key for sample in samples] == [f"{number:03d}" for number in range(40)]
    assert [sample.error is None for sample in samples[:10]] == [True] * 10
    assert {sample.error.kind for sample in samples[15:] if sample.error is not None} == {"changed input"}
    assert all(sample.error is not None for sample in samples[15:])


def test_a_key_that_looks_like_a_repeated_one_stays_unique() -> None:
    assert unrepeated(["a", "a~2", "a", "a"]) == ["a", "a~2", "a~3", "a~4"]


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.93])
def test_a_truncated_shard_gives_what_can_be_read_and_says_so(tmp_path: Path, kept: float) -> None:
    path = write_tar(tmp_path, CONTENT)
    whole = path.read_bytes()
    # The end of a tar is padding to 10 KiB: the share is of what is before it.
    path.write_bytes(whole[: int((len(CONTENT) * 4 * 512) * kept)])
    samples, damage = read(path, tmp_path / "out", 4)
    good = [sample for sample in samples if sample.error is None]
    assert len(damage) == 1
    assert len(CONTENT) * kept - 2 <= len(good) < len(CONTENT)
    assert [sample.image for sample in good] == [data for _, data in CONTENT[: len(good)]]


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path, CONTENT)
    data = bytearray(path.read_bytes())
    data[4 * 512 * 5 : 4 * 512 * 5 + 20] = b"\xff" * 20
    path.write_bytes(data)
    samples, damage = read(path, tmp_path / "out", 100)
    assert len(samples) == 5
    assert "damaged header" in damage[0]


def test_what_is_not_an_archive_or_a_table_is_said(tmp_path: Path) -> None:
    for name in ("a.tar", "a.parquet"):
        for number, data in enumerate((b"", b"this is not what it says" * 100)):
            folder = tmp_path / f"{name}-{number}"
            folder.mkdir()
            (folder / name).write_bytes(data)
            samples, damage = read(folder / name, folder / "out", 4)
            assert samples == []
            assert len(damage) == 1


def test_a_sample_without_an_image_and_one_with_a_broken_label_are_errors(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, body in (
            ("x.txt", b"-"),
            ("y.jpg", b"j"),
            ("y.json", b"{"),
            ("z.jpg", b"j"),
            ("z.json", b"[]"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    samples, _ = read(tmp_path / "a.tar", tmp_path / "out", 100)
    assert [str(sample.error).split(":")[0] for sample in samples] == [
        "no image",
        "unreadable label",
        "unreadable label",
    ]
