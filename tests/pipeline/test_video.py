"""Films: every frame once, in order, with its own index, time and pixels, whatever the units; and what damage costs.

Every frame of the films that are made here bears its own number, as sixteen black or white blocks.
"""

import io
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import duckdb
import numpy as np
import pytest
from numpy.typing import NDArray

from model.crop import CROP_RULES
from pipeline import boxes
from pipeline.errors import ConfigError
from pipeline.inputs import find_inputs
from pipeline.records import Sample, UnitRecord
from pipeline.sources import SOURCES
from pipeline.sources.sampling import Sampling
from pipeline.sources.source import Extent
from pipeline.sources.video_reads import Reads
from pipeline.stages.decode_and_crop import DecodeAndCrop
from pipeline.units import cut, settle

WIDTH, HEIGHT, BLOCK = 128, 96, 16
FRAMES, RATE, GROUP = 60, 25, 12
VARIABLE = tuple(np.cumsum(np.random.default_rng(0).integers(5, 90, FRAMES)).tolist())
UNITS = (7, 50, 1000)


@dataclass(frozen=True)
class Recipe:
    """How a film is made; `times` are milliseconds, in place of an even rate."""

    name: str
    codec: str
    options: Mapping[str, str] = field(default_factory=dict)
    muxing: Mapping[str, str] = field(default_factory=dict)
    times: Sequence[int] = ()


H264 = {"preset": "veryfast", "x264-params": "bframes=3:b-adapt=0:scenecut=0"}
OPEN = {"preset": "veryfast", "x264-params": "bframes=3:b-adapt=0:scenecut=0:open-gop=1"}
REFRESH = {"preset": "veryfast", "x264-params": f"bframes=0:intra-refresh=1:keyint={GROUP}"}
HEVC = {"preset": "ultrafast", "x265-params": f"log-level=none:bframes=3:keyint={GROUP}:open-gop=1"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
FAST = {"movflags": "faststart"}

PLAIN = Recipe("plain.mp4", "libx264", H264, FAST)
RECIPES = (
    PLAIN,
    Recipe("table-last.mov", "libx264", H264),
    Recipe("matroska.mkv", "libx264", H264),
    Recipe("open.mp4", "libx264", OPEN),
    Recipe("open.mkv", "libx264", OPEN),
    Recipe("fragments.mp4", "libx264", H264, FRAGMENTS),
    Recipe("variable.mp4", "libx264", H264, times=VARIABLE),
    Recipe("variable.mkv", "libx264", H264, times=VARIABLE),
    Recipe("refresh.mp4", "libx264", REFRESH),
    Recipe("hevc.mp4", "libx265", HEVC),
    Recipe("hevc.mkv", "libx265", HEVC),
    Recipe("vp9.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    Recipe("vp8.webm", "libvpx", {"deadline": "realtime", "cpu-used": "8"}),
    Recipe("plain.avi", "mpeg4"),
    Recipe("reordered.avi", "mpeg4", {"bf": "2"}),
    Recipe("h264.avi", "libx264", H264),
)


def drawn(number: int) -> NDArray[np.uint8]:
    """Returns the picture of a frame: its number in blocks, and below it noise, which makes the film move."""
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    for bit in range(16):
        row, column = divmod(bit, 8)
        image[row * BLOCK :, column * BLOCK : (column + 1) * BLOCK] = 235 if number >> bit & 1 else 16
    noise = np.random.default_rng(number).integers(0, 255, (4, 8, 3), np.uint8)
    image[2 * BLOCK :] = noise.repeat(BLOCK, 0).repeat(BLOCK, 1)
    return image


def number_in(image: NDArray[np.uint8]) -> int:
    """Reads the number of a frame from its blocks."""
    centres = image[BLOCK // 2 : 2 * BLOCK : BLOCK, BLOCK // 2 :: BLOCK].mean(axis=2).reshape(-1)
    return sum(1 << bit for bit, level in enumerate(centres) if level > 125)


def encode(folder: Path, recipe: Recipe) -> Path:
    path = folder / recipe.name
    with av.open(str(path), "w", options=dict(recipe.muxing)) as film:
        track = film.add_stream(recipe.codec, rate=RATE, options=dict(recipe.options))
        track.width, track.height, track.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        track.codec_context.gop_size = GROUP
        time_base = Fraction(1, 1000) if recipe.times else Fraction(1, RATE)
        track.codec_context.time_base = time_base
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(drawn(number), format="rgb24")
            frame.pts = recipe.times[number] if recipe.times else number
            frame.time_base = time_base
            film.mux(track.encode(frame))
        film.mux(track.encode())
    return path


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for recipe in RECIPES:
        encode(folder, recipe)
    return folder


def probe(path: Path) -> Extent:
    ((film,), _) = find_inputs([str(path)])
    return SOURCES["video"].probe(film)


def read(path: Path, rows: int, sampling: Sampling | None = None) -> list[Sample]:
    """Reads a film unit by unit."""
    ((film,), _) = find_inputs([str(path)])
    extent = (sampling or Sampling()).of(SOURCES["video"].probe(film))
    return [
        sample
        for planned in cut(film, extent, rows)
        for sample in SOURCES["video"].read(planned.unit, planned.keys)
    ]


def identity(sample: Sample) -> tuple[Any, ...]:
    pixels = sample.image.tobytes() if isinstance(sample.image, np.ndarray) else None
    return sample.key, sample.frame_index, sample.timestamp, pixels, str(sample.error)


def told(sample: Sample, whole: Set[bytes]) -> tuple[Any, ...]:
    """Returns what is said of a frame, and whether its pixels are those of one in the whole film."""
    *said, pixels, error = identity(sample)
    return *said, pixels in whole, error


def linear(path: Path) -> list[tuple[float | None, bytes]]:
    """Decodes a film from end to end in one thread, as the plainest loop would."""
    with av.open(str(path)) as film:
        return [(frame.time, frame.to_ndarray(format="rgb24").tobytes()) for frame in film.decode(video=0)]


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


@pytest.mark.parametrize("kept", [0.3, 0.62, 0.9])
@pytest.mark.parametrize("name", ["plain.mp4", "matroska.mkv", "vp9.webm", "plain.avi", "fragments.mp4"])
def test_a_film_without_its_tail_gives_what_is_there_and_says_so(
    films: Path, tmp_path: Path, name: str, kept: float
) -> None:
    data = (films / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * kept)])
    extent = probe(tmp_path / name)
    assert extent.damage is not None
    assert "are there" in extent.damage
    samples = read(tmp_path / name, 50)
    assert 0 < len(samples) < FRAMES
    whole = read(films / name, 1000)
    assert {sample.error for sample in samples} == {None}
    # Near the cut some frames are gone that would be shown before others which are there.
    sure = max(len(samples) - 3, 1)
    assert [identity(sample) for sample in samples[:sure]] == [identity(sample) for sample in whole[:sure]]


def test_what_is_no_film_is_one_damaged_unit_with_the_reason(films: Path, tmp_path: Path) -> None:
    sound = io.BytesIO()
    with av.open(sound, "w", format="mp4") as film:
        track = film.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        film.mux(track.encode(frame))
        film.mux(track.encode())
    whole = (films / "table-last.mov").read_bytes()
    for name, data, says in (
        ("empty.mp4", b"", "the file is empty"),
        ("sound.mp4", sound.getvalue(), "no video: the film holds audio"),
        ("text.webm", b"no film at all " * 100, "unreadable film"),
        ("no-table.mov", whole[: len(whole) // 2], "unreadable film"),
        ("list.mp4", f"ffconcat version 1.0\nfile {films / 'plain.mp4'}\n".encode(), "unreadable film"),
        ("playlist.mp4", f"#EXTM3U\n#EXTINF:1,\n{films / 'plain.mp4'}\n".encode(), "unreadable film"),
    ):
        (tmp_path / name).write_bytes(data)
        ((film_input,), _) = find_inputs([str(tmp_path / name)])
        (planned,) = cut(film_input, probe(tmp_path / name), 50)
        assert says in str(planned.unit.damage)
        assert planned.keys == ()
        assert list(SOURCES["video"].read(planned.unit, planned.keys)) == []


def test_the_wrong_ending_does_no_harm(films: Path, tmp_path: Path) -> None:
    (tmp_path / "film.avi").write_bytes((films / "matroska.mkv").read_bytes())
    assert [number_in(sample.image) for sample in read(tmp_path / "film.avi", 50)] == list(range(FRAMES))


def test_a_damaged_frame_costs_what_is_made_from_it_and_no_more(films: Path, tmp_path: Path) -> None:
    data = bytearray((films / "plain.mp4").read_bytes())
    with av.open(str(films / "plain.mp4")) as film:
        stored = [packet for packet in film.demux(video=0) if packet.size]
    # The first frame behind the second key frame: the third frame of its group in the order of showing, a P.
    hit = stored[GROUP + 1]
    assert hit.pos is not None
    data[hit.pos + 60 : hit.pos + 90] = b"\x55" * 30
    (tmp_path / "plain.mp4").write_bytes(data)
    whole = [identity(sample)[:4] for sample in read(films / "plain.mp4", 1000)]
    by_units = [read(tmp_path / "plain.mp4", rows) for rows in UNITS]
    samples = by_units[0]
    for other in by_units[1:]:
        assert list(map(identity, other)) == list(map(identity, samples))
    bad = [sample.frame_index for sample in samples if sample.error is not None]
    assert bad == list(range(GROUP + 1, 2 * GROUP))
    assert {str(sample.error).split(":")[0] for sample in samples if sample.error} == {"damaged frame"}
    assert [identity(sample)[:4] for sample in samples if sample.error is None] == [
        place for number, place in enumerate(whole) if number not in bad
    ]
    assert [sample.timestamp for sample in samples] == [place[2] for place in whole]


def test_frames_that_cannot_be_decoded_are_rejected_and_not_left_out(films: Path, tmp_path: Path) -> None:
    data = bytearray((films / "plain.mp4").read_bytes())
    with av.open(str(films / "plain.mp4")) as film:
        first = min(packet.pos for packet in film.demux(video=0) if packet.pos is not None)
    data[first:] = bytes(len(data) - first)
    (tmp_path / "plain.mp4").write_bytes(data)
    samples = read(tmp_path / "plain.mp4", 50)
    assert [sample.frame_index for sample in samples] == list(range(FRAMES))
    assert Counter(str(sample.error).split(":")[0] for sample in samples) == {"missing frame": FRAMES}


def test_a_film_that_has_gone_is_said_frame_by_frame(films: Path, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes((films / "plain.mp4").read_bytes())
    ((film,), _) = find_inputs([str(path)])
    (planned,) = cut(film, probe(path), 1000)
    path.unlink()
    samples = list(SOURCES["video"].read(planned.unit, planned.keys))
    assert [sample.frame_index for sample in samples] == list(range(FRAMES))
    assert {str(sample.error).split(":")[0] for sample in samples} == {"unreadable film"}


def test_an_error_of_the_storage_is_not_taken_for_the_end_of_a_film() -> None:
    class Broken(io.BytesIO):
        def read(self, count: int | None = -1, /) -> bytes:
            if self.tell() > 3:
                raise OSError("connection lost")
            return super().read(count)

    reads = Reads(Broken(b"0123456789"), 10)
    assert (reads.read(4), reads.read(4)) == (b"0123", b"")
    with pytest.raises(OSError, match="connection lost"):
        reads.check()


@pytest.mark.parametrize("name", ["plain.mp4", "open.mkv", "variable.mkv", "reordered.avi"])
@pytest.mark.parametrize(
    "sampling", [Sampling(every=1), Sampling(every=5), Sampling(every=14), Sampling(fps=3)]
)
def test_sampled_frames_keep_their_index_time_and_pixels(films: Path, name: str, sampling: Sampling) -> None:
    whole = {sample.frame_index: identity(sample) for sample in read(films / name, 1000)}
    by_units = [read(films / name, rows, sampling) for rows in (2, 7, 1000)]
    for samples in by_units:
        assert [identity(sample) for sample in samples] == [whole[sample.frame_index] for sample in samples]
        assert [sample.frame_index for sample in samples] == [sample.frame_index for sample in by_units[0]]
    if sampling.every is not None:
        assert [sample.frame_index for sample in by_units[0]] == list(range(0, FRAMES, sampling.every))


def test_a_rate_takes_the_first_frame_at_or_after_each_tick() -> None:
    def taken(times: Sequence[float], fps: float) -> list[str]:
        keys = [str(number) for number in range(len(times))]
        return list(Sampling(fps=fps).of(Extent(keys, timestamps=times)).keys)

    assert taken([number / 25 for number in range(11)], 5) == ["0", "5", "10"]
    assert taken([number / 30 for number in range(31)], 10) == [str(number) for number in range(0, 31, 3)]
    assert taken([2.0, 2.4, 2.6, 4.1, 4.2], 1) == ["0", "3"]
    assert taken([0.0, 0.1, 0.2], 100) == ["0", "1", "2"]
    assert taken([7.5], 1) == ["0"]


@pytest.mark.parametrize(
    "sampling",
    [Sampling(every=0), Sampling(fps=0), Sampling(fps=float("nan")), Sampling(fps=-1), Sampling(2, 2.0)],
)
def test_a_sampling_that_takes_nothing_or_two_things_is_refused(sampling: Sampling) -> None:
    with pytest.raises(ConfigError, match=r"--(every|fps)"):
        sampling.check()


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
@pytest.mark.parametrize("name", [recipe.name for recipe in RECIPES])
def test_random_damage_costs_the_same_frames_in_units_of_any_size(
    films: Path, tmp_path: Path, name: str
) -> None:
    data = (films / name).read_bytes()
    whole = {identity(sample)[3] for sample in read(films / name, 1000)}
    rng = np.random.default_rng(len(name))
    for _ in range(6):
        damaged = bytearray(data[: int(len(data) * rng.uniform(0.3, 1.3))])
        at = int(rng.integers(len(damaged) // 8, len(damaged)))
        for place in range(at, min(at + int(rng.integers(1, 40)), len(damaged))):
            damaged[place] ^= int(rng.integers(1, 256))
        (tmp_path / name).write_bytes(damaged)
        expected = len(probe(tmp_path / name).keys)
        by_units = [read(tmp_path / name, rows) for rows in UNITS]
        assert [len(samples) for samples in by_units] == [expected] * len(UNITS)
        # Damage that a decoder does not notice may look different each time; all else is the same.
        assert len({tuple(told(sample, whole) for sample in samples) for samples in by_units}) == 1


@pytest.mark.slow
@pytest.mark.ray
def test_a_film_is_annotated_the_same_in_units_of_any_size(
    films: Path, tmp_path: Path, handocc: Callable[..., Any]
) -> None:
    found = []
    for rows in (7, 1000):
        out = tmp_path / str(rows)
        options = (
            "--boxes whole --side right --every 3 --model tiny --weights random:0 --batch-size 4".split()
        )
        done = handocc("annotate", films / "open.mkv", "--output", out, *options, "--unit-rows", rows)
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
    report = handocc("report", out, "--count", "3")
    assert report.returncode == 0, report.stderr
    assert len(list((out / "report" / "hands").glob("*.png"))) == 3
