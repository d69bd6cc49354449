"""What a person sees while a job runs: one line that moves on a terminal, a line now and then in a log."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from pipeline.records import UnitRecord

LOG_EVERY_S = 15.0


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        seconds = task.elapsed or 0.0
        rate = task.fields["samples"] / seconds if seconds else 0.0
        return Text(f"{task.fields['hands']} hands, {rate:.1f} images/s")


def _line(done: int, total: int, samples: int, hands: int, seconds: float) -> str:
    left = seconds / done * (total - done) if done else float("nan")
    rate = samples / seconds if seconds else 0.0
    return f"{done}/{total} units, {hands} hands, {rate:.1f} images/s, {left:.0f} s left"


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[UnitRecord], None]]:
    """Shows how far a job is; the function that it gives takes every finished unit."""
    console = Console(stderr=True)
    started = last = time.monotonic()
    done = samples = hands = 0

    def counted(record: UnitRecord) -> None:
        nonlocal done, samples, hands
        done += 1
        samples += record.counts.samples
        hands += record.counts.hands_annotated

    if console.is_terminal:
        columns = (
            SpinnerColumn(),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} units"),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("left"),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=total, samples=0, hands=0)

            def move(record: UnitRecord) -> None:
                counted(record)
                bar.update(task, completed=done, samples=samples, hands=hands)

            yield move
        return

    def log(record: UnitRecord) -> None:
        nonlocal last
        counted(record)
        if time.monotonic() - last >= LOG_EVERY_S:
            last = time.monotonic()
            print(_line(done, total, samples, hands, last - started), file=sys.stderr, flush=True)

    yield log
