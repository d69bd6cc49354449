"""What damage to a film costs: the frames that are made from it, told one by one, and a word on what is gone."""

import io
from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.inputs import find_inputs
from pipeline.sources import SOURCES
from pipeline.sources.video_reads import Reads
from pipeline.units import cut
from tests.films import (
    FRAMES,
    GROUP,
    HEIGHT,
    RATE,
    RECIPES,
    UNITS,
    WIDTH,
    drawn,
    identity,
    overwritten,
    probe,
    read,
    sound,
    told,
)


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
    whole = (films / "table-last.mov").read_bytes()
    for name, data, says in (
        ("empty.mp4", b"", "the file is empty"),
        ("sound.mp4", sound(), "no video: the film holds audio"),
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


@pytest.mark.parametrize("name", ["plain.mp4", "open.mp4", "variable.mp4", "table-last.mov"])
def test_no_picture_is_taken_for_good_that_is_made_from_a_damaged_one(
    films: Path, tmp_path: Path, name: str
) -> None:
    whole = {sample.timestamp: identity(sample)[3] for sample in read(films / name, 1000)}
    data = (films / name).read_bytes()
    for count in (40, 2000):
        for share in (0.3, 0.4, 0.5, 0.6, 0.7):
            (tmp_path / name).write_bytes(overwritten(data, share, count))
            samples = read(tmp_path / name, 1000)
            assert len(samples) == FRAMES
            good = [sample for sample in samples if sample.error is None]
            wrong = [sample for sample in good if identity(sample)[3] != whole[sample.timestamp]]
            # A decoder may overlook the damage in a picture, if it comes out at the right length.
            assert len(wrong) <= 1, (count, share)
            assert len(good) > FRAMES - 2 * GROUP


def test_frames_that_are_lost_in_the_middle_of_a_matroska_file_are_said(films: Path, tmp_path: Path) -> None:
    for name in ("matroska.mkv", "vp9.webm"):
        data = (films / name).read_bytes()
        (tmp_path / name).write_bytes(overwritten(data, 0.5, 3000))
        extent = probe(tmp_path / name)
        assert 0 < len(extent.keys) < FRAMES
        assert "are damaged, and the frames in them gone" in str(extent.damage)


def test_what_else_a_matroska_file_holds_is_no_damage(films: Path, tmp_path: Path) -> None:
    with av.open(str(films / "matroska.mkv")) as film, av.open(str(tmp_path / "loud.mkv"), "w") as loud:
        track = loud.add_stream_from_template(film.streams.video[0])
        # Sound as it is, of which there is more between two pictures than the pictures take.
        noise = loud.add_stream("pcm_s16le", rate=48000, layout="mono")
        for number, packet in enumerate(packet for packet in film.demux(video=0) if packet.size):
            packet.stream = track
            loud.mux(packet)
            samples = np.full((1, 1920), number, np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.rate, frame.pts, frame.time_base = 48000, number * 1920, Fraction(1, 48000)
            loud.mux(noise.encode(frame))
        loud.mux(noise.encode())
    extent = probe(tmp_path / "loud.mkv")
    assert (len(extent.keys), extent.damage) == (FRAMES, None)
    # With transparency, a second picture stands behind each.
    with av.open(str(tmp_path / "clear.webm"), "w") as clear:
        track = clear.add_stream("libvpx-vp9", rate=RATE, options={"deadline": "realtime", "cpu-used": "8"})
        track.width, track.height, track.pix_fmt = WIDTH, HEIGHT, "yuva420p"
        for number in range(5):
            alpha = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 1), np.uint8)
            frame = av.VideoFrame.from_ndarray(np.dstack([drawn(number), alpha]), format="rgba")
            clear.mux(track.encode(frame.reformat(format="yuva420p")))
        clear.mux(track.encode())
    extent = probe(tmp_path / "clear.webm")
    assert (len(extent.keys), extent.damage) == (5, None)


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
    assert {str(sample.error).split(":")[0] for sample in samples} == {"missing file"}


def test_a_film_that_is_replaced_is_not_taken_for_the_planned_one(films: Path, tmp_path: Path) -> None:
    path = tmp_path / "film.mkv"
    path.write_bytes((films / "matroska.mkv").read_bytes())
    ((film,), _) = find_inputs([str(path)])
    (planned,) = cut(film, probe(path), 1000)
    path.write_bytes((films / "open.mkv").read_bytes())
    samples = list(SOURCES["video"].read(planned.unit, planned.keys))
    assert [sample.frame_index for sample in samples] == list(range(FRAMES))
    assert {str(sample.error).split(":")[0] for sample in samples} == {"changed input"}


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
