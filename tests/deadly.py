"""What brings down the process that reads it, as a decoder does that trusts a damaged picture."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.boxes.given import Given
from pipeline.errors import DataError
from pipeline.flow import Step
from pipeline.records import HandBox, Sample, Unit, UnitRecord
from pipeline.sources import SOURCES
from pipeline.sources.source import Extent, Input, Source
from pipeline.stages.page import Page


def die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@dataclass(frozen=True)
class DeadlyBoxes:
    """Finds the hands that labels give, and dies of the samples with these keys."""

    keys: frozenset[str]

    def asked(self, sample: Sample) -> int:
        return Given(None).asked(sample)

    def find(self, sample: Sample, image: NDArray[np.uint8]) -> Sequence[HandBox | DataError]:
        if sample.key in self.keys:
            die()
        return Given(None).find(sample, image)


def _read(_unit: Unit, keys: Sequence[str]) -> Iterator[Sample]:
    for key in keys:
        if key == "deadly":
            die()
        # One that is killed from outside, as when memory runs out: once.
        if key.startswith("/") and not Path(key).exists():
            Path(key).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield Sample(key, error=DataError("no image", "as it happens"))


def _probe(item: Input) -> Extent:
    if item.uri == "deadly":
        die()
    return Extent([item.uri])


DEADLY_SOURCE = Source("deadly", frozenset(), _probe, _read)


@dataclass(frozen=True)
class DeadlyInput(Input):
    """An input of the deadly source; where it is unpacked, there is that source."""

    def __reduce__(self) -> tuple[Callable[[str], Input], tuple[str]]:
        return _named, (self.uri,)


def _named(uri: str) -> Input:
    SOURCES["deadly"] = DEADLY_SOURCE
    return DeadlyInput(uri, "deadly", ())


def looked_at(uri: str) -> str:
    """Dies of a deadly input."""
    return str(_probe(_named(uri)).keys[0])


def no_builder() -> Step:
    """Dies in place of making a step."""
    die()
    raise AssertionError


@dataclass(frozen=True)
class DeadlyStep:
    """Passes units on, and dies of the one with this id."""

    unit_id: str

    def __call__(self, record: UnitRecord) -> UnitRecord:
        if record.unit.unit_id == self.unit_id:
            die()
        return record


class Rejecting:
    """Enters every sample as rejected; where it is unpacked, there is the deadly source."""

    crop_size = 8

    def __reduce__(self) -> tuple[Callable[[], "Rejecting"], tuple[()]]:
        return _unpacked, ()

    def take(self, sample: Sample, page: Page) -> None:
        assert sample.error is not None
        self.reject(sample, page, sample.error, "read")

    def reject(self, sample: Sample, page: Page, error: DataError, stage: str) -> None:
        page.reject(sample, None, error, stage)


def _unpacked() -> Rejecting:
    SOURCES["deadly"] = DEADLY_SOURCE
    return Rejecting()


def failing(error: Exception) -> Step:
    """Makes a step that raises."""

    def step(_record: UnitRecord) -> UnitRecord:
        raise error

    return step
