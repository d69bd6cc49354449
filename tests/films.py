"""Films that the tests make, and how they are read back.

Every frame bears its own number, as sixteen black or white blocks.
"""

import io
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.inputs import find_inputs
from pipeline.records import Sample
from pipeline.sources import SOURCES
from pipeline.sources.sampling import Sampling
from pipeline.sources.source import Extent
from pipeline.units import cut

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


def encode(folder: Path, recipe: Recipe, frames: int = FRAMES) -> Path:
    path = folder / recipe.name
    with av.open(str(path), "w", options=dict(recipe.muxing)) as film:
        track = film.add_stream(recipe.codec, rate=RATE, options=dict(recipe.options))
        track.width, track.height, track.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        track.codec_context.gop_size = GROUP
        time_base = Fraction(1, 1000) if recipe.times else Fraction(1, RATE)
        track.codec_context.time_base = time_base
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(drawn(number), format="rgb24")
            frame.pts = recipe.times[number] if recipe.times else number
            frame.time_base = time_base
            film.mux(track.encode(frame))
        film.mux(track.encode())
    return path


def remuxed(path: Path, target: Path, muxing: Mapping[str, str]) -> bytes:
    """Packs the pictures of a film as they are into another container, and returns the file's bytes."""
    with av.open(str(path)) as film, av.open(str(target), "w", options=dict(muxing)) as other:
        track = other.add_stream_from_template(film.streams.video[0])
        for packet in film.demux(video=0):
            if packet.size:
                packet.stream = track
                other.mux(packet)
    return target.read_bytes()


def cut_at(data: bytes, share: float) -> bytes:
    """Returns the first part of a file."""
    return data[: int(len(data) * share)]


def overwritten(data: bytes, share: float, count: int) -> bytes:
    """Returns a file in which so many bytes, from a share of it on, are others."""
    at = int(len(data) * share)
    return data[:at] + np.random.default_rng(0).bytes(count) + data[at + count :]


def sound() -> bytes:
    """Returns an MP4 with a sound and no picture."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as film:
        track = film.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        film.mux(track.encode(frame))
        film.mux(track.encode())
    return stream.getvalue()


def probe(place: Path | str) -> Extent:
    ((film,), _) = find_inputs([str(place)])
    return SOURCES["video"].probe(film)


def read(place: Path | str, rows: int, sampling: Sampling | None = None) -> list[Sample]:
    """Reads a film unit by unit."""
    ((film,), _) = find_inputs([str(place)])
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
