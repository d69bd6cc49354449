"""Units of an annotate job and the labels of the same samples, which may lie elsewhere by now."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.plan import load_keys, load_plan
from pipeline.records import Unit
from pipeline.sources import webdataset
from pipeline.sources.source import Input

_PROBES_AT_ONCE = 16


@dataclass(frozen=True)
class MatchedUnit:
    """A unit as it was annotated, and where the labels of its samples lie."""

    annotated: Unit
    labelled: Unit


def match_units(predictions: str, shards: Sequence[Input]) -> list[MatchedUnit]:
    """Returns the units of an output of annotate whose samples the shards hold, in the shards' order.

    A shard is the one that was annotated by its URI and version. One that was moved, or written anew with other
    labels, is known by its file's name, and must hold the same samples in the same order.

    Raises:
        ConfigError: a shard was not annotated, or holds other samples than then.
    """
    by_input: dict[str, list[Unit]] = {}
    for unit in load_plan(predictions):
        by_input.setdefault(unit.input, []).append(unit)
    by_name: dict[str, list[str]] = {}
    for uri in by_input:
        by_name.setdefault(storage.name_of(uri), []).append(uri)
    pairs: list[tuple[Input, list[Unit]]] = []
    for shard in shards:
        named = by_name.get(storage.name_of(shard.uri), [])
        uri = shard.uri if shard.uri in by_input or not named else named[0]
        if uri not in by_input:
            raise ConfigError(f"{shard.uri}: {predictions} holds no annotations of it; annotate it first")
        if uri != shard.uri and len(named) > 1:
            raise ConfigError(
                f"{shard.uri}: {predictions} has annotations of {len(named)} shards of this name, and of none there"
            )
        pairs.append((shard, sorted(by_input[uri], key=lambda unit: unit.first)))
    with ThreadPoolExecutor(_PROBES_AT_ONCE) as pool:
        return [
            unit for units in pool.map(lambda pair: _matched(predictions, *pair), pairs) for unit in units
        ]


def _matched(predictions: str, shard: Input, units: Sequence[Unit]) -> list[MatchedUnit]:
    if all((unit.input, unit.version) == (shard.uri, shard.version) for unit in units):
        return [MatchedUnit(unit, unit) for unit in units]
    extent = webdataset.probe(shard)
    if units[-1].last != len(extent.keys):
        raise ConfigError(
            f"{shard.uri}: holds {len(extent.keys)} samples, {units[-1].last} were annotated; annotate it anew"
        )
    matched = []
    for unit in units:
        keys = load_keys(predictions, unit)
        for number, (now, then) in enumerate(
            zip(extent.keys[unit.first : unit.last], keys, strict=True), unit.first
        ):
            if now != then:
                raise ConfigError(
                    f"{shard.uri}: its sample {number} is {now}, {then} was annotated there; annotate it anew"
                )
        first, last = (extent.offsets[unit.first], extent.offsets[unit.last]) if keys else (0, 0)
        there = replace(
            unit,
            input=shard.uri,
            version=shard.version,
            size=shard.files[0].size,
            offset=first,
            length=last - first,
        )
        matched.append(MatchedUnit(unit, there))
    return matched
