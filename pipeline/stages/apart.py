"""Reads a unit's samples in a process of its own, which may die of one: of that one, and of no other.

A decoder that a damaged picture brings down takes its whole process with it. Nobody can catch that, but it can
happen elsewhere: a child reads the samples and says before each what it begins, so that it is known where it died.
"""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import IO, Any, Protocol

from pipeline.errors import DataError, HandoccError
from pipeline.records import Sample, Unit
from pipeline.sources import SOURCES
from pipeline.stages.page import MAX_HANDS, Page

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
    """
    done = 0
    while done < len(keys):
        begun: Sample | None = None
        child = _Child(reader, page.unit, keys, done)
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
        problem = DataError(KIND, f"the process that read it died of {child.died}")
        if begun is None:
            for key in keys[done:]:
                reader.reject(SOURCES[page.unit.source].unread(page.unit, key), page, problem, "read")
            return
        reader.reject(begun, page, problem, "decode")
        done += 1


class _Child:
    """A process that reads a unit from its sample number `first` on."""

    def __init__(self, reader: Reader, unit: Unit, keys: Sequence[str], first: int) -> None:
        self.work = pickle.dumps((reader, unit, keys, first))
        self.died: str | None = None

    def messages(self) -> Iterator[Any]:
        """Yields what it says: each sample that it begins, then what its page holds; or our error that ended it."""
        # What decoders print must not come between.
        ours, theirs = os.pipe()
        with os.fdopen(ours, "rb") as said, tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=[theirs],
                # A worker finds this code where its driver told it, which a child would not know.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            os.close(theirs)
            try:
                _hand_over(process, self.work)
                while (message := _received(said)) is not None:
                    yield message
                status = process.wait()
                if status > 0:
                    errors.seek(0)
                    raise RuntimeError(errors.read()[-4000:].decode(errors="replace"))
                self.died = signal.Signals(-status).name if status else None
            finally:
                process.kill()
                process.wait()


def _hand_over(process: "subprocess.Popen[bytes]", work: bytes) -> None:
    assert process.stdin is not None
    try:
        with process.stdin as stream:
            stream.write(work)
    except BrokenPipeError:
        # It died at its start; its status tells.
        return


def _received(stream: IO[bytes]) -> Any:
    """Returns the next message, or None where there is none, or only the beginning of one."""
    try:
        return pickle.load(stream)
    except (EOFError, pickle.UnpicklingError):
        return None


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


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[1]), "wb") as out:
        for said in _read(*pickle.load(sys.stdin.buffer)):
            out.write(pickle.dumps(said))
            out.flush()
