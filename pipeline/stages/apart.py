"""Reads a unit's samples in a process of its own, which may die of one: of that one, and of no other.

A decoder that a damaged picture brings down takes its whole process with it. Nobody can catch that, but it can
happen elsewhere: a child reads the samples and says before each what it begins, so that it is known where it died.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

from pipeline.child import Child
from pipeline.errors import DataError, HandoccError
from pipeline.records import MAX_HANDS, Sample, Unit
from pipeline.sources import SOURCES
from pipeline.stages.page import Page

KIND = "crashed the reader"


class Reader(Protocol):
    """Enters samples on a page."""

    @property
    def crop_size(self) -> int:
        """Pixels a side of the crops that it makes."""

    def take(self, sample: Sample, page: Page) -> None:
        """Enters what can be made of a sample."""

    def reject(self, sample: Sample, page: Page, error: DataError, stage: str) -> None:
        """Enters why nothing can be."""


def fill(page: Page, reader: Reader, keys: Sequence[str]) -> None:
    """Enters a unit's samples on its page; what a child died of is rejected.

    Where it died before a sample was there, as a film's decoder does, the rest of the unit is rejected with it.
    A child that was killed from outside has a second try at the same place.
    """
    done, killed_at = 0, -1
    while done < len(keys):
        begun: Sample | None = None
        child = Child(functools.partial(_read, reader, page.unit, keys, done))
        for message in child.messages():
            if isinstance(message, HandoccError):
                raise message
            if isinstance(message, Sample):
                begun = message
            else:
                page.append(*message)
                begun, done = None, done + 1
        if child.died is None:
            return
        if child.blameless and killed_at != done:
            killed_at = done
            continue
        problem = DataError(KIND, f"the process that read it died of {child.died}")
        if begun is None:
            for key in keys[done:]:
                reader.reject(SOURCES[page.unit.source].unread(page.unit, key), page, problem, "read")
            return
        reader.reject(begun, page, problem, "decode")
        done += 1


def _read(reader: Reader, unit: Unit, keys: Sequence[str], first: int) -> Iterator[Any]:
    try:
        for number, sample in enumerate(SOURCES[unit.source].read(unit, keys)):
            if number < first:
                continue
            yield replace(sample, image=b"", label=None)
            page = Page(unit, reader.crop_size, MAX_HANDS)
            reader.take(sample, page)
            yield page.ledger, page.hands, page.taken
    except HandoccError as error:
        yield error
