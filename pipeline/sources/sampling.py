"""Which frames of a film a job takes: all, every so many, or so many a second."""

from dataclasses import dataclass, replace

import numpy as np

from pipeline.errors import ConfigError
from pipeline.sources.source import Extent

ROUNDING = 1e-6  # ticks; times are floats


@dataclass(frozen=True)
class Sampling:
    """Takes frames whose index is a multiple of `every`, or, `fps` times a second, the first one at or after a tick.

    Ticks are counted from the film's first frame, on the clock by which its frames are shown. A frame is taken
    once, however many ticks it is the first one after. Inputs without a clock are taken whole.
    """

    every: int | None = None
    fps: float | None = None

    def check(self) -> None:
        """Raises ConfigError for values that take no frames, or both at once."""
        if self.every is not None and self.fps is not None:
            raise ConfigError("--every and --fps: only one of them can say which frames are taken")
        if self.every is not None and self.every < 1:
            raise ConfigError(f"--every {self.every}: must be at least 1")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise ConfigError(f"--fps {self.fps:g}: must be more than 0")

    def of(self, extent: Extent) -> Extent:
        """Returns the part of an extent that is taken; the frames keep their index and their time."""
        times = np.array(extent.timestamps)
        if not len(times) or (self.every is None and self.fps is None):
            return extent
        if self.fps is not None:
            ticks = np.floor((times - times[0]) * self.fps + ROUNDING)
            taken = np.flatnonzero(np.diff(ticks, prepend=-1.0) > 0)
        else:
            taken = np.arange(0, len(times), self.every)
        seams = np.unique(np.searchsorted(taken, np.array(extent.seams, int)))
        return replace(
            extent,
            keys=[extent.keys[number] for number in taken.tolist()],
            timestamps=times[taken].tolist(),
            seams=seams[(seams > 0) & (seams < len(taken))].tolist(),
        )
