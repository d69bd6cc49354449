"""The stage that tracks: one film, all its annotations together, to its part of `OUTPUT/tracks`."""

import json
import re
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from model.mano.asset import HandModel
from pipeline import storage
from pipeline.evaluation.hands import HandPoser
from pipeline.flow import Flow, Stage
from pipeline.records import Counts, UnitRecord
from pipeline.sinks.parts import Part, footers, part_uri, write_part
from pipeline.tracking.films import Film, read_film
from pipeline.tracking.tracks import Settings, Tally, track_film

FOLDER = "tracks"
SUMMARY = "tracks.json"
ROWS_PER_GROUP = 16384
_OF_A_FILM = re.compile(r"[A-Za-z0-9-]+-[0-9a-f]{16}\.parquet")


@dataclass(frozen=True)
class Tracking:
    """A job of tracking. parts: each film's annotations, by its unit's id. metadata: what every part says of itself."""

    output: str
    settings: Settings
    hand_model: HandModel
    parts: Mapping[str, tuple[Part, ...]]
    metadata: Mapping[str, str]
    fingerprint: str

    def __call__(self) -> "TrackFilm":
        return TrackFilm(self)


class TrackFilm:
    """Tracks a film and writes its part, which commits it."""

    def __init__(self, job: Tracking) -> None:
        torch.set_num_threads(1)
        self.job, self.poser = job, HandPoser(job.hand_model)

    def __call__(self, record: UnitRecord) -> UnitRecord:
        started = time.perf_counter()
        job, unit = self.job, record.unit
        parts = job.parts[unit.unit_id]
        hands, frames = read_film(job.output, parts)
        table, tally = track_film(hands, frames, job.settings, self.poser)
        metadata = {
            **job.metadata,
            "fingerprint": job.fingerprint,
            "unit_id": unit.unit_id,
            "unit_version": unit.version,
            "tally": json.dumps(vars(tally)),
        }
        write_part(part_uri(job.output, FOLDER, unit.unit_id), table, metadata, ROWS_PER_GROUP)
        counts = sum((part.counts for part in parts), Counts())
        return replace(record, counts=counts).timed("track", time.perf_counter() - started)


def tracking_flow(job: Tracking) -> Flow:
    """Returns the one stage that tracks."""
    return Flow("track", (Stage("track", job, cpus=1.0),))


def tracked(output: str, films: Sequence[Film], fingerprint: str) -> dict[str, Tally]:
    """Returns what came of those films that are tracked: with this fingerprint, of the annotations that are there."""
    found = {}
    for unit, said in footers(output, FOLDER, [film.unit for film in films]):
        try:
            if (said["fingerprint"], said["unit_version"]) == (fingerprint, unit.version):
                found[unit.unit_id] = Tally(**json.loads(said["tally"]))
        except (KeyError, TypeError, ValueError):
            pass  # a footer that says something else is no commit
    return found


def withdraw_others(output: str, staying: Mapping[str, Tally]) -> None:
    """Removes the tracks of all other films: of other annotations or settings, or of films that are gone."""
    storage.delete_all(uri for film, uri in _parts(output).items() if film not in staying)


def forget_tracks(output: str, films: Container[str] | None = None) -> None:
    """Removes the tracks of films, or all: the annotations that they were made of are about to be replaced.

    films: their units' ids.
    """
    gone = [uri for film, uri in _parts(output).items() if films is None or film in films]
    if gone or films is None:
        storage.delete(storage.join(output, SUMMARY))
    storage.delete_all(gone)


def _parts(output: str) -> dict[str, str]:
    """Returns where the tracks of films lie, by their units' ids; files of other names are somebody else's."""
    names = {storage.name_of(file.uri): file.uri for file in storage.list_files(storage.join(output, FOLDER))}
    return {name.removesuffix(".parquet"): uri for name, uri in names.items() if _OF_A_FILM.fullmatch(name)}
