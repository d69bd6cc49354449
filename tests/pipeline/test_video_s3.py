"""Films on S3: read by ranges, and the same as from a disk, whatever fails on the way."""

from pathlib import Path

import pytest

from pipeline import storage
from pipeline.errors import StorageError
from pipeline.inputs import find_inputs
from pipeline.sources import SOURCES
from pipeline.units import cut
from tests.films import FRAMES, identity, probe, read
from tests.s3_faults import Service
from tests.s3_objects import MANY


@pytest.mark.parametrize("name", ["plain.mp4", "table-last.mov", "fragments.mp4", "open.mkv", "plain.avi"])
def test_a_film_there_is_the_same_as_here(films: Path, s3: Service, name: str) -> None:
    uri = f"{s3.bucket}/films/{name}"
    storage.put(uri, (films / name).read_bytes())
    here, there = probe(films / name), probe(uri)
    assert (there.keys, there.timestamps, there.seams) == (here.keys, here.timestamps, here.seams)
    assert there.damage is None
    s3.faults.rates = MANY
    samples = read(uri, 7)
    assert list(map(identity, samples)) == list(map(identity, read(films / name, 1000)))
    assert s3.faults.injected.total() > 0


def test_an_mp4_is_planned_without_its_pictures(films: Path, s3: Service) -> None:
    whole = (films / "table-last.mov").read_bytes()
    # Much that is no table stands between the header and the tables.
    place = whole.index(b"mdat") - 4
    padding = 20 << 20
    padded = whole[:place] + padding.to_bytes(4, "big") + b"free" + bytes(padding - 8) + whole[place:]
    uri = f"{s3.bucket}/padded.mov"
    storage.put(uri, padded)
    s3.faults.requests.clear()
    assert len(probe(uri).keys) == FRAMES
    assert s3.faults.requests.total() <= 6


def test_a_storage_that_gives_out_is_not_damage_of_the_film(
    films: Path, s3: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    uri = f"{s3.bucket}/film.mkv"
    storage.put(uri, (films / "matroska.mkv").read_bytes())
    ((film,), _) = find_inputs([uri])
    (planned,) = cut(film, probe(uri), 1000)
    s3.faults.rates = {"internal_error": 1.0}
    with pytest.raises(StorageError):
        SOURCES["video"].probe(film)
    with pytest.raises(StorageError):
        list(SOURCES["video"].read(planned.unit, planned.keys))
