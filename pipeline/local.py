"""Runs a flow in this process, unit by unit."""

from collections.abc import Iterable, Iterator

from pipeline.flow import Flow
from pipeline.records import Unit, UnitRecord


def run(flow: Flow, units: Iterable[Unit]) -> Iterator[UnitRecord]:
    """Yields each unit's record when it has passed every stage."""
    steps = [stage.make() for stage in flow.stages]
    for unit in units:
        record = UnitRecord(unit)
        for step in steps:
            record = step(record)
        yield record
