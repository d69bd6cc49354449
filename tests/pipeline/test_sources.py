"""The contract of every source: what is written is read back, in any units, and damage is said."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.inputs import find_inputs
from pipeline.records import Sample
from pipeline.sources import SOURCES
from pipeline.sources.source import Extent, unrepeated
from pipeline.units import load_keys, settle

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
