"""In which order training sees its samples: a function of the seed, the epoch and the step, and of nothing else."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WINDOW = 256


@dataclass(frozen=True)
class Piece:
    """Samples [first, last) of one segment; `position` is the first one's number in the epoch."""

    segment: int
    first: int
    last: int
    position: int


@dataclass(frozen=True)
class Window:
    """What one task reads, shuffles and augments: a few micro-batches of one lane.

    skip: how many of its samples, after shuffling, were used before the run was interrupted.
    """

    epoch: int
    lane: int
    number: int
    pieces: tuple[Piece, ...]
    skip: int = 0


@dataclass(frozen=True)
class Order:
    """The order of the samples of `segments`, runs of consecutive samples that are read in one piece.

    A step takes one micro-batch from every lane, whichever worker has the lane: the sequence of steps does not
    depend on how many workers share the lanes. An epoch shuffles the segments and deals them out to the lanes; a
    window of a lane is shuffled once more, sample by sample. Its last step is filled up from the epoch's start.
    """

    segments: Sequence[int]  # samples in each
    lanes: int
    micro_batch: int
    seed: int
    window: int = WINDOW

    @property
    def batch(self) -> int:
        """Samples a step, over all workers."""
        return self.lanes * self.micro_batch

    @functools.cached_property
    def steps(self) -> int:
        """Steps an epoch."""
        return -(-sum(self.segments) // self.batch)

    def windows(self, epoch: int, lane: int, first_step: int = 0) -> Iterator[Window]:
        """Yields what a lane reads from a step of an epoch on, in order."""
        per_lane = self.steps * self.micro_batch
        size = self.micro_batch * max(1, self.window // self.micro_batch)
        done = first_step * self.micro_batch
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.segments))
        ends = np.cumsum(np.asarray(self.segments)[order])
        for start in range(done // size * size, per_lane, size):
            stop = min(start + size, per_lane)
            pieces = _pieces(order, ends, lane * per_lane + start, lane * per_lane + stop)
            yield Window(epoch, lane, start // size, tuple(pieces), skip=max(0, done - start))


def _pieces(order: NDArray[np.int64], ends: NDArray[np.int64], first: int, last: int) -> Iterator[Piece]:
    """Yields the pieces of samples [first, last) of the endlessly repeated sequence of segments."""
    total = int(ends[-1])
    position = first
    while position < last:
        inside = position % total
        index = int(np.searchsorted(ends, inside, side="right"))
        begin = int(ends[index - 1]) if index else 0
        take = min(last - position, int(ends[index]) - inside)
        yield Piece(int(order[index]), inside - begin, inside - begin + take, position)
        position += take
