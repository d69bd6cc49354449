"""Films: every frame once, in order, with its own index, time and pixels, whatever the units."""

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import duckdb
import numpy as np
import pytest

from model.crop import CROP_RULES
from pipeline import boxes
from pipeline.inputs import find_inputs
from pipeline.records import UnitRecord
from pipeline.sources import SOURCES
from pipeline.stages.decode_and_crop import DecodeAndCrop
from pipeline.units import cut, settle
from tests.films import FRAMES, RATE, RECIPES, UNITS, VARIABLE, identity, linear, number_in, probe, read


@pytest.mark.parametrize("name", [recipe.name for recipe in RECIPES])
def test_every_frame_is_itself_in_units_of_any_size(films: Path, name: str) -> None:
    by_units = [read(films / name, rows) for rows in UNITS]
    samples = by_units[0]
    assert [number_in(sample.image) for sample in samples] == list(range(FRAMES))
    assert [sample.frame_index for sample in samples] == list(range(FRAMES))
    assert {sample.key for sample in samples} == {name}
    for other in by_units[1:]:
        assert list(map(identity, other)) == list(map(identity, samples))
    truth = linear(films / name)
    assert [sample.image.tobytes() for sample in samples] == [pixels for _, pixels in truth]
    if name.endswith(".avi"):
        # AVI has no presentation times, and libav's guesses differ with the codec: its frames come at its rate.
        assert [sample.timestamp for sample in samples] == [number / RATE for number in range(FRAMES)]
    else:
        assert [sample.timestamp for sample in samples] == [time for time, _ in truth]
    assert probe(films / name).damage is None


def test_times_of_a_variable_rate_are_those_of_the_film(films: Path) -> None:
    samples = read(films / "variable.mkv", 50)
    assert [sample.timestamp for sample in samples] == [time / 1000 for time in VARIABLE]


def test_units_begin_at_key_frames_where_that_costs_little(films: Path) -> None:
    ((film,), _) = find_inputs([str(films / "plain.mp4")])
    extent = SOURCES["video"].probe(film)
    assert list(extent.seams) == [12, 24, 36, 48]

    def ends(rows: int) -> list[int]:
        return [planned.unit.last for planned in cut(film, extent, rows)]

    assert ends(50) == [48, 60]
    assert ends(30) == [24, 48, 60]
    assert ends(7) == [7, 12, 19, 24, 31, 36, 43, 48, 55, 60]
    assert ends(1000) == [60]


@pytest.mark.parametrize(
    ("matrix", "seen"),
    [
        ((1, 0, 0, 1), lambda image: image),
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
        ((1, 0, 0, -1), lambda image: image[::-1]),
        ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
    ],
    ids=["as it is", "clockwise", "half", "counter-clockwise", "mirrored", "flipped", "transposed"],
)
def test_a_film_is_turned_as_it_says(
    films: Path, tmp_path: Path, matrix: Sequence[int], seen: Callable[[Any], Any]
) -> None:
    data = bytearray((films / "plain.mp4").read_bytes())
    a, b, c, d = (number << 16 for number in matrix)
    # ISO 14496-12, 8.3.2: the matrix lies 40 bytes behind the name and version of the track header.
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(data)
    plain, turned = read(films / "plain.mp4", 1000)[:3], read(tmp_path / "turned.mp4", 1000)[:3]
    for before, after in zip(plain, turned, strict=True):
        assert np.array_equal(after.image, seen(before.image))
        assert after.image.flags["C_CONTIGUOUS"]


def test_a_frame_that_is_only_for_reference_is_no_frame(films: Path, tmp_path: Path) -> None:
    data = bytearray((films / "vp8.webm").read_bytes())
    with av.open(str(films / "vp8.webm")) as film:
        hidden = [bytes(packet) for packet in film.demux(video=0)][5]
    # RFC 6386, 9.1: bit 4 of a frame's first byte is show_frame.
    data[data.index(hidden)] &= ~0x10
    (tmp_path / "hidden.webm").write_bytes(data)
    for rows in UNITS:
        samples = read(tmp_path / "hidden.webm", rows)
        assert [sample.frame_index for sample in samples] == list(range(FRAMES - 1))
        assert [number_in(sample.image) for sample in samples] == [*range(5), *range(6, FRAMES)]


def test_the_tables_of_an_mp4_are_enough_to_plan_it(films: Path, tmp_path: Path) -> None:
    data = bytearray((films / "plain.mp4").read_bytes())
    pictures = data.index(b"mdat") + 4 + 20_000
    data[pictures:] = bytes(len(data) - pictures)
    (tmp_path / "plain.mp4").write_bytes(data)
    assert probe(tmp_path / "plain.mp4") == probe(films / "plain.mp4")


def test_the_wrong_ending_does_no_harm(films: Path, tmp_path: Path) -> None:
    (tmp_path / "film.avi").write_bytes((films / "matroska.mkv").read_bytes())
    assert [number_in(sample.image) for sample in read(tmp_path / "film.avi", 50)] == list(range(FRAMES))


def test_a_boxes_table_names_a_film_below_its_root_and_a_frame(films: Path, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        (tmp_path / "data" / folder / "film.mp4").write_bytes((films / "plain.mp4").read_bytes())
    table = tmp_path / "boxes.csv"
    table.write_text(
        "key,frame_index,x,y,w,h,side\none/film.mp4,3,8,8,40,40,left\ntwo/film.mp4,59,8,8,40,40,right\n"
    )
    inputs, _ = find_inputs([str(tmp_path / "data")])
    output = str(tmp_path / "out")
    planned = settle(
        output,
        inputs,
        unit_rows=50,
        crop_size=64,
        probe=lambda some: [SOURCES[item.source].probe(item) for item in some],
    )
    stage = DecodeAndCrop(output, boxes.choose(str(table), None), CROP_RULES["demo"], 64)
    records = [stage(UnitRecord(unit)) for unit in planned.units]
    hands = [row for record in records for row in record.hands.to_pylist()]
    hands.sort(key=lambda row: str(row["key"]))
    assert [(row["key"], row["frame_index"], row["side"]) for row in hands] == [
        ("one/film.mp4", 3, "left"),
        ("two/film.mp4", 59, "right"),
    ]
    assert [row["instance_id"].rsplit("/", 2)[1:] for row in hands] == [
        ["one", "film.mp4#3#0"],
        ["two", "film.mp4#59#0"],
    ]
    assert sum(record.counts.samples for record in records) == 2 * FRAMES
    assert sum(record.counts.samples_without_hands for record in records) == 2 * FRAMES - 2


def test_a_real_film(shared: Path) -> None:
    path = shared / "real" / "videos" / "asl_hand_25fps.mp4"
    samples = read(path, 1000)
    assert [sample.frame_index for sample in samples] == list(range(325))
    assert [sample.timestamp for sample in samples] == [number / 25 for number in range(325)]
    assert {sample.image.shape for sample in samples} == {(1080, 620, 3)}
    assert [sample.image.tobytes() for sample in samples] == [pixels for _, pixels in linear(path)]


@pytest.mark.slow
@pytest.mark.parametrize("rows", [7, 50])
def test_a_real_film_in_smaller_units(shared: Path, rows: int) -> None:
    path = shared / "real" / "videos" / "asl_hand_25fps.mp4"
    assert list(map(identity, read(path, rows))) == list(map(identity, read(path, 1000)))


@pytest.mark.slow
@pytest.mark.ray
def test_a_film_is_annotated_the_same_in_units_of_any_size(
    films: Path, tmp_path: Path, handocc_on_one_ray: Callable[..., Any]
) -> None:
    found = []
    for rows in (7, 1000):
        out = tmp_path / str(rows)
        options = (
            "--boxes whole --side right --every 3 --model tiny --weights random:0 --batch-size 4".split()
        )
        done = handocc_on_one_ray(
            "annotate", films / "open.mkv", "--output", out, *options, "--unit-rows", rows
        )
        assert done.returncode == 0, done.stderr
        found.append(
            duckdb.sql(
                "select instance_id, frame_index, timestamp, joints, joints_2d "
                f"from '{out}/annotations/*.parquet' order by frame_index"
            ).df()
        )
    assert found[0]["frame_index"].tolist() == list(range(0, FRAMES, 3))
    for other in found[1:]:
        for name in ("instance_id", "frame_index", "timestamp"):
            assert other[name].tolist() == found[0][name].tolist()
        for name in ("joints", "joints_2d"):
            one, two = (np.array([np.stack(row) for row in table[name]]) for table in (found[0], other))
            assert np.abs(one - two).max() < 1e-4 * np.abs(one).max()
    report = handocc_on_one_ray("report", out, "--count", "3")
    assert report.returncode == 0, report.stderr
    assert len(list((out / "report" / "hands").glob("*.png"))) == 3
