"""What a benchmark's reader gives: frames in the benchmark's own order, and a label for each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.datasets.hand_models import HandModels
from pipeline.datasets.labels import Label


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a benchmark.

    index: its place in the benchmark's own order. key: its name in the shard. image: URI of the encoded bytes.
    about: what its reader needs to make the label.
    """

    index: int
    key: str
    image: str
    about: Any = None


class NoHand(Exception):  # noqa: N818
    """A frame in which the benchmark labels no hand; the message is one of a few phrases."""


class Benchmark(Protocol):
    """One split of a benchmark as it lies in storage. It travels to the workers: it holds no more than a listing."""

    @property
    def root(self) -> str:
        """Returns the canonical URI of the benchmark's folder."""

    @property
    def truth(self) -> tuple[str, ...]:
        """Returns the files of labels that are there and need not be, as those of a test that came out later."""

    def __len__(self) -> int:
        """Returns how many frames the split lists."""

    def frames(self, first: int, last: int) -> Iterator[Frame]:
        """Yields frames first … last - 1 in the benchmark's order."""

    def label(self, frame: Frame) -> Label:
        """Returns a frame's label as the contract of training shards says.

        Raises:
            NoHand: the benchmark labels no hand in it.
            DataError: what it says of this frame is missing or damaged.
            OSError: a file of it cannot be had.
        """


@dataclass(frozen=True)
class Dataset:
    """A line of the table: how a benchmark is found below its root.

    splits: their names, the default first. needs_mano: what of MANO its labels cannot be made without, for the
    message; None where its poses are absolute already.
    find: Raises ConfigError, in one line, for a root that is not this benchmark's, or lacks a file of the split.
    """

    title: str
    splits: tuple[str, ...]
    needs_mano: str | None
    find: Callable[[str, str, HandModels | None], Benchmark]
