"""A film's rows come together from all its units, wherever they lie, and are tracked when all are there."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import track
from model.mano.synthetic import synthetic_hand
from pipeline import compact, lease, local
from pipeline.columns import fixed_lists, numbers
from pipeline.errors import ConfigError
from pipeline.plan import load_plan
from pipeline.records import UnitRecord
from pipeline.sinks.parts import committed, read_table
from pipeline.synthesis.films import FilmMaker, FilmSpec, plan_films, truth_uri, write_boxes
from pipeline.tracking.accuracy import measure_film, read_truth
from pipeline.tracking.films import Films, find_films, read_film, read_tracks
from pipeline.tracking.stage import Tracking, forget_tracks, tracked, tracking_flow, withdraw_others
from pipeline.tracking.tracks import Settings
from tests.pipeline.tracking.annotated import FINGERPRINT, Noise, annotate, write

ERRING = Noise(turns=0.08, betas=0.3, pixels=2.0, lost=0.1, flipped=0.05)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small films: one hand, and a left and a right one that cross."""
    folder = tmp_path_factory.mktemp("films")
    make = FilmMaker(str(folder), 2, FilmSpec(size=64, frames=30), synthetic_hand())()
    units = plan_films(str(folder), count=2, seed=2, frames=30)
    for unit in units:
        make(UnitRecord(unit))
    write_boxes(str(folder), units)
    return folder


@pytest.fixture
def output(tmp_path: Path, films: Path) -> Path:
    (tmp_path / "out").mkdir()
    return annotate(films, tmp_path / "out", ERRING, rows=12)


def test_a_film_of_one_frame_shows_where_its_hands_start(tmp_path: Path) -> None:
    make = FilmMaker(str(tmp_path), 2, FilmSpec(size=64, frames=1), synthetic_hand())()
    for unit in plan_films(str(tmp_path), count=2, seed=2, frames=1):
        make(UnitRecord(unit))
        joints = numbers(read_truth(truth_uri(str(tmp_path), unit)), "joints_3d", 21, 3)
        assert np.isfinite(joints).all()


def find(output: Path) -> Films:
    units = load_plan(str(output))
    return find_films(units, committed(str(output), units, FINGERPRINT))


def tracking(output: Path, films: Films, min_frames: int) -> Tracking:
    parts = {film.unit.unit_id: film.parts for film in films.whole}
    settings = Settings(min_frames=min_frames)
    return Tracking(str(output), settings, synthetic_hand(), parts, {"units": "metres"}, "tracking")


def run(output: Path, min_frames: int = 1) -> dict[str, bytes]:
    films = find(output)
    list(local.run(tracking_flow(tracking(output, films, min_frames)), [film.unit for film in films.whole]))
    return {path.name: path.read_bytes() for path in sorted((output / "tracks").glob("*.parquet"))}


def test_a_film_and_its_truth_say_the_same_in_every_run(films: Path, tmp_path: Path) -> None:
    make = FilmMaker(str(tmp_path), 2, FilmSpec(size=64, frames=30), synthetic_hand())()
    (unit,) = plan_films(str(tmp_path), count=2, seed=2, frames=30)[1:]
    make(UnitRecord(unit))
    for place in ("films/film-2-000001.mp4", "truth/film-2-000001.parquet"):
        assert (tmp_path / place).read_bytes() == (films / place).read_bytes()
    boxes = pq.read_table(films / "boxes.parquet").to_pylist()
    assert len(boxes) == 90
    assert {row["key"] for row in boxes} == {"film-2-000000.mp4", "film-2-000001.mp4"}
    truth = pq.read_table(films / "truth" / "film-2-000001.parquet")
    joints = np.array(truth["joints_3d"].to_pylist())
    first = joints[np.array(truth["hand"].to_pylist()) == 0]
    # Smooth: nothing moves by more than a few centimetres in a thirtieth of a second, nor jumps in its speed.
    assert np.linalg.norm(np.diff(first, axis=0), axis=-1).max() < 0.06
    assert np.linalg.norm(np.diff(first, n=2, axis=0), axis=-1).max() < 0.02
    wrist = {hand: joints[np.array(truth["hand"].to_pylist()) == hand][:, 0, 0] for hand in (0, 1)}
    assert (wrist[0] - wrist[1])[0] * (wrist[0] - wrist[1])[-1] < 0, "the hands change sides"
    assert len(set(truth["hand"].to_pylist()[::2])) == 2, "who comes first among the boxes says nothing"


def test_all_units_of_a_film_make_one_part_and_no_hand_is_in_two_tracks(output: Path) -> None:
    run(output)
    units = load_plan(str(output))
    done = committed(str(output), units, FINGERPRINT)
    assert len(done) == 6
    annotated = pa.concat_tables(
        read_table(str(output), "annotations", part, ["instance_id"]).replace_schema_metadata(None)
        for part in done.values()
    )
    films = find(output)
    tables = [read_tracks(str(output), film.unit) for film in films.whole]
    named = [name for table in tables for name in table["instance_id"].to_pylist() if name is not None]
    assert sorted(named) == sorted(annotated["instance_id"].to_pylist())
    ids = [set(table["track_id"].to_pylist()) for table in tables]
    assert ids[0].isdisjoint(ids[1])
    tallies = tracked(str(output), films.whole, "tracking")
    assert sum(tally.frames for tally in tallies.values()) == 60
    assert sum(tally.filled for tally in tallies.values()) > 0
    assert pq.read_schema(next((output / "tracks").iterdir())).metadata[b"units"] == b"metres"


def test_tracks_are_nearer_to_the_truth_and_far_steadier(output: Path, films: Path) -> None:
    # A wrong side in the first or last frame of a hand is a track of its own.
    run(output, min_frames=3)
    for film in find(output).whole:
        hands, _ = read_film(str(output), film.parts)
        truth = read_truth(str(films / "truth" / film.unit.name.replace(".mp4", ".parquet")))
        accuracy = measure_film(hands, read_tracks(str(output), film.unit), truth)
        assert (accuracy.tracks, accuracy.mistaken) == (accuracy.hands, 0)
        for metric, share in (
            ("acceleration_mm_per_frame2", 0.35),
            ("mpjpe_mm", 0.9),
            ("pa_mpjpe_mm", 0.9),
            ("joints_2d_px", 0.9),
        ):
            raw, smoothed = (accuracy.mean(state, metric) for state in ("raw", "smoothed"))
            assert raw is not None
            assert smoothed is not None
            assert smoothed < share * raw, metric


def test_merged_parts_and_another_run_give_the_same_bytes(output: Path) -> None:
    before = run(output)
    units = load_plan(str(output))
    groups = compact.choose(str(output), units, committed(str(output), units, FINGERPRINT), 1 << 27)
    list(compact.merge(str(output), groups))
    assert len(list((output / "annotations").iterdir())) == 1
    assert find(output).whole[0].unit == find(output).whole[0].unit
    assert run(output) == before


def test_a_film_is_tracked_anew_when_its_annotations_are_others(output: Path, films: Path) -> None:
    run(output)
    known = find(output)
    assert set(tracked(str(output), known.whole, "tracking")) == {film.unit.unit_id for film in known.whole}
    assert tracked(str(output), known.whole, "other settings") == {}
    unit = load_plan(str(output))[0]
    part = committed(str(output), [unit], FINGERPRINT)[unit.unit_id]
    table = read_table(str(output), "annotations", part)
    write(output, unit, table.slice(1))
    changed = find(output)
    left = tracked(str(output), changed.whole, "tracking")
    assert set(left) == {changed.whole[1].unit.unit_id}
    withdraw_others(str(output), left)
    assert [path.stem for path in (output / "tracks").iterdir()] == list(left)


def test_a_film_that_is_not_annotated_to_the_end_waits(
    tmp_path: Path, films: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    output = annotate(films, tmp_path / "out", rows=12, leave=[4])
    found = find(output)
    assert [film.unit.name for film in found.whole] == ["film-2-000000.mp4"]
    assert [uri.rsplit("/", 1)[1] for uri in found.incomplete] == ["film-2-000001.mp4"]
    job = json.loads((output / "job.json").read_text())
    job["plan"]["given_up"] = list(found.incomplete)  # which leaves it as incomplete as it was
    given_up = job
    limited = job | {"plan": job["plan"] | {"given_up": []}, "options": {"limit": 9}}
    for path in (output / "annotations").glob("film-2-000000*"):
        path.unlink()
    for job, way_out in ((given_up, "name them again"), (limited, "ended at its --limit: give it none")):
        (output / "job.json").write_text(json.dumps(job))
        with pytest.raises(ConfigError, match=f"no film is annotated to the end; .*{way_out}"):
            track.run(track.Options(output=str(output)))
        assert "film-2-000001.mp4" in capsys.readouterr().err


def test_a_truth_whose_boxes_are_others_is_refused(output: Path, films: Path) -> None:
    run(output)
    film = find(output).whole[0]
    hands, _ = read_film(str(output), film.parts)
    truth = read_truth(str(films / "truth" / "film-2-000000.parquet"))
    measure_film(hands, read_tracks(str(output), film.unit), truth)
    boxes = numbers(hands, "bbox", 4) + np.array([0, 0, 5, 0])
    column = hands.column_names.index("bbox")
    others = hands.set_column(column, "bbox", fixed_lists(boxes, hands.schema.field("bbox").type))
    with pytest.raises(ConfigError, match=r"the boxes of .*film-2-000000.mp4 are others"):
        measure_film(others, read_tracks(str(output), film.unit), truth)


def test_tracks_go_with_the_annotations_that_they_were_made_of(output: Path) -> None:
    made = run(output)
    (output / "tracks.json").write_text("{}")
    forget_tracks(str(output), {"another-film"})
    assert (output / "tracks.json").exists()
    first, second = made
    forget_tracks(str(output), {first.removesuffix(".parquet")})
    assert [path.name for path in (output / "tracks").iterdir()] == [second]
    assert not (output / "tracks.json").exists()


def test_what_cannot_be_tracked_is_said_in_one_line(output: Path, tmp_path: Path) -> None:
    def refused(**options: object) -> str:
        with pytest.raises(ConfigError) as caught:
            track.run(replace(track.Options(output=str(output)), **options))
        return str(caught.value)

    assert "no output of `handocc annotate`" in refused(output=str(tmp_path / "nowhere"))
    assert "--gap -1" in refused(gap=-1.0)
    assert "--min-frames 0" in refused(min_frames=0)
    assert "holds no film-2-000000.parquet" in refused(truth=str(tmp_path / "nowhere"))
    with lease.hold(str(output)):
        assert "is writing there" in refused()
    job = json.loads((output / "job.json").read_text())
    (output / "job.json").write_text(json.dumps(job | {"hand_model": "1234"}))
    assert "needs --mano" in refused()
    assert "is hand model synthetic" in refused(mano="synthetic")
    (output / "job.json").write_text(json.dumps(job))
    for path in (output / "plan").glob("*.parquet"):
        path.unlink()
    assert "holds no films" in refused()
