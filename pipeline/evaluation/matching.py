"""Units of an annotate job and the labels of the same samples, which may lie elsewhere by now."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from model.crop import bbox_of_joints
from pipeline import storage
from pipeline.boxes.overlap import overlap
from pipeline.columns import numbers
from pipeline.errors import ConfigError, DataError
from pipeline.plan import load_keys, load_plan
from pipeline.records import Unit
from pipeline.sinks.parts import Part, read_table
from pipeline.sources import SOURCES, webdataset
from pipeline.sources.source import Input
from pipeline.training.labels import hand_count, hand_label

_PROBES_AT_ONCE = 16
_SAME_BOX = 0.5  # overlap of two boxes of one hand, of which one may be drawn anew


@dataclass(frozen=True)
class MatchedUnit:
    """A unit as it was annotated, and where the labels of its samples lie."""

    annotated: Unit
    labelled: Unit

    @property
    def is_by_name(self) -> bool:
        """Says whether the shard is no longer what was annotated, or not there, and known by its name and keys."""
        now, then = self.labelled, self.annotated
        return (now.input, now.version) != (then.input, then.version)


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
    asked = {shard.uri for shard in shards}
    taken: dict[str, str] = {}
    for shard in shards:
        # One that is named itself is no other one's former place.
        named = [uri for uri in by_name.get(storage.name_of(shard.uri), []) if uri not in asked]
        uri = shard.uri if shard.uri in by_input or not named else named[0]
        if uri not in by_input:
            raise ConfigError(f"{shard.uri}: {predictions} holds no annotations of it; annotate it first")
        if uri != shard.uri and len(named) > 1:
            raise ConfigError(
                f"{shard.uri}: {predictions} has annotations of {len(named)} shards of this name, and of none there"
            )
        if uri in taken:
            raise ConfigError(
                f"{shard.uri}: has the name of {taken[uri]}, and {predictions} has annotations of one shard of this "
                "name; leave out the other one"
            )
        taken[uri] = shard.uri
        pairs.append((shard, sorted(by_input[uri], key=lambda unit: unit.first)))
    with ThreadPoolExecutor(_PROBES_AT_ONCE) as pool:
        return [
            unit for units in pool.map(lambda pair: _matched(predictions, *pair), pairs) for unit in units
        ]


def require_same_hands(predictions: str, matched: Sequence[MatchedUnit], parts: Mapping[str, Part]) -> None:
    """Holds shards that are known by name against annotations of given boxes: their hands must lie in these.

    Names and keys are soon the same, as those of any two sets that one program numbered. Looks at each shard's first
    unit with hands to compare.

    Raises:
        ConfigError: most of a unit's hands lie elsewhere than they were annotated.
    """
    shards: dict[str, list[MatchedUnit]] = {}
    for unit in matched:
        if unit.is_by_name:
            shards.setdefault(unit.labelled.input, []).append(unit)

    def overlaps(units: Sequence[MatchedUnit]) -> list[float]:
        of_units = (
            _overlaps(predictions, unit.labelled, parts[unit.annotated.unit_id])
            for unit in units
            if parts[unit.annotated.unit_id].counts.hands_annotated
        )
        return next((found for found in of_units if found), [])

    with ThreadPoolExecutor(_PROBES_AT_ONCE) as pool:
        for (uri, units), found in zip(shards.items(), pool.map(overlaps, shards.values()), strict=True):
            if found and float(np.median(found)) < _SAME_BOX:
                raise ConfigError(
                    f"{uri}: has the name and keys of {units[0].annotated.input} as it was annotated, but its hands "
                    "lie elsewhere: it holds other pictures; annotate it"
                )


def _overlaps(predictions: str, unit: Unit, part: Part) -> list[float]:
    """Returns how much each labelled box, or that of the labelled joints, has in common with the annotated one."""
    table = read_table(predictions, "annotations", part, ("key", "hand_index", "bbox"))
    names = zip(table["key"].to_pylist(), table["hand_index"].to_pylist(), strict=True)
    annotated = dict(zip(names, numbers(table, "bbox", 4), strict=True))
    found = []
    for sample in SOURCES[unit.source].read(unit, load_keys(predictions, unit)):
        try:
            hands = [
                hand_label(sample.key, sample.label, index)
                for index in range(hand_count(sample.key, sample.label))
            ]
        except DataError:
            continue  # measuring says what is wrong with it
        for index, hand in enumerate(hands):
            box = annotated.get((sample.key, index))
            if box is not None:
                round_joints = bbox_of_joints(hand.joints_2d) if hand.has_joints_2d else hand.bbox
                labelled = np.stack([hand.bbox, round_joints]).astype(np.float64)
                found.append(float(overlap(box, labelled).max()))
    return found


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
