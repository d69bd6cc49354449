"""Hands of single frames become tracks: who is who, which side, one shape, smooth, gaps filled and never more."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from model.mano.synthetic import synthetic_hand
from pipeline.columns import numbers
from pipeline.evaluation.hands import HandPoser
from pipeline.tracking.smoothing import AT_ONCE, smooth, smooth_points, smooth_rotations, windows
from pipeline.tracking.tracks import TRACKS, Settings, track_film
from tests.pipeline.tracking.sightings import LAYOUT, RATE, SIZE, Seen, frames, hands

AS_THEY_ARE = Settings(smoothing_s=0)


@pytest.fixture(scope="module")
def poser() -> HandPoser:
    return HandPoser(synthetic_hand())


def by_track(table: pa.Table) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        found.setdefault(row["track_id"], []).append(row)
    return found


@pytest.mark.parametrize("sides", [("right", "left"), ("right", "right")])
@pytest.mark.parametrize("offset", [0, 12])
def test_two_hands_that_cross_keep_their_tracks(
    poser: HandPoser, sides: tuple[str, str], offset: int
) -> None:
    rng = np.random.default_rng(0)
    seen = []
    for frame in range(60):
        pair = [
            Seen(frame, (100 + 5 * frame, 100), sides[0], 1.0),
            Seen(frame, (400 - 5 * frame, 100 + offset), sides[1], 2.0),
        ]
        for one in pair:
            one.centre = tuple(np.array(one.centre) + rng.normal(0, 1.5, 2))
        seen += [pair[number] for number in rng.permutation(2)]
    table, tally = track_film(hands(seen), frames(60), AS_THEY_ARE, poser)
    tracks = by_track(table)
    assert [len(rows) for rows in tracks.values()] == [60, 60]
    assert {round(rows[0]["betas"][0]) for rows in tracks.values()} == {1, 2}
    assert (tally.tracks, tally.tracked, tally.filled) == (2, 120, 0)
    # The one shape of a track that mixed both would lie between theirs.
    assert all(abs(rows[0]["betas"][0] - round(rows[0]["betas"][0])) < 1e-6 for rows in tracks.values())


def test_every_hand_of_a_crowd_has_its_own_track(poser: HandPoser) -> None:
    seen = [
        Seen(frame, (100 + 90 * place + 3 * frame, 80 + 40 * (place % 2)), "right", float(place))
        for frame in range(20)
        for place in range(6)
    ]
    table, tally = track_film(hands(seen), frames(20), AS_THEY_ARE, poser)
    assert tally.tracks == 6
    assert Counter(len(rows) for rows in by_track(table).values()) == {20: 6}
    assert len(set(table["instance_id"].to_pylist())) == 120


def test_a_lost_hand_is_picked_up_and_what_lies_between_is_filled_and_marked(poser: HandPoser) -> None:
    turn = np.zeros((16, 3))
    turn[3] = 0.02, 0.01, -0.03
    missing = range(20, 26)
    seen = [
        Seen(frame, (100 + 4 * frame, 100), rotations=turn * frame, translation=[0.01 * frame, 0, 0.5])
        for frame in range(5, 40)
        if frame not in missing
    ]
    table, tally = track_film(hands(seen), frames(50), Settings(gap_s=0.3), poser)
    (rows,) = by_track(table).values()
    assert [row["frame_index"] for row in rows] == list(range(5, 40)), (
        "no row before the first hand or behind the last"
    )
    assert [row["frame_index"] for row in rows if row["filled"]] == list(missing)
    assert all((row["instance_id"] is None) == row["filled"] == (row["confidence"] is None) for row in rows)
    for row in rows:
        assert np.array(row["hand_pose"])[6:9] == pytest.approx(turn[3] * row["frame_index"], abs=1e-6)
        assert row["translation"] == pytest.approx([0.01 * row["frame_index"], 0, 0.5], abs=1e-6)
        assert row["timestamp"] == row["frame_index"] / RATE
    assert (tally.filled, tally.tracked, tally.hands, tally.frames) == (6, 29, 29, 50)
    _, broken = track_film(hands(seen), frames(50), Settings(gap_s=0.2), poser)
    assert (broken.tracks, broken.filled) == (2, 0)


@pytest.mark.parametrize("bad", [[20], [20, 21], [39], [0, 1], [38, 39], [0, 2]])
@pytest.mark.parametrize("metres", [1.0, 100.0])
def test_joints_and_wrists_far_off_bend_none_of_their_neighbours(
    poser: HandPoser, bad: list[int], metres: float
) -> None:
    seen = []
    for frame in range(40):
        centre = np.array([100.0 + 4 * frame, 100.0])
        points, wrist = centre + SIZE * LAYOUT, [0.01 * frame, 0.0, 0.5]
        if frame in bad:
            points[7] += SIZE
            wrist[2] += metres
        seen.append(Seen(frame, (centre[0], centre[1]), joints_2d=points, translation=wrist))
    table, _ = track_film(hands(seen), frames(40), Settings(), poser)
    (rows,) = by_track(table).values()
    for frame in set(range(40)) - set(bad):
        centre = np.array([100.0 + 4 * frame, 100.0])
        assert np.array(rows[frame]["joints_2d"]) == pytest.approx(centre + SIZE * LAYOUT, abs=0.1)
        assert rows[frame]["translation"] == pytest.approx([0.01 * frame, 0, 0.5], abs=1e-3)


def test_a_side_that_flickers_is_outvoted_and_its_pose_is_not_used(poser: HandPoser) -> None:
    wrong = {7, 8, 15}
    pose = np.zeros((16, 3))
    pose[0] = 0.3, 0.2, 0.1
    seen = [
        Seen(
            frame,
            (100, 100),
            "left" if frame in wrong else "right",
            rotations=-pose if frame in wrong else pose,
            who=-3.0 if frame in wrong else 1.0,
        )
        for frame in range(20)
    ]
    table, tally = track_film(hands(seen), frames(20), Settings(), poser)
    (rows,) = by_track(table).values()
    assert {row["side"] for row in rows} == {"right"}
    assert [row["frame_index"] for row in rows if row["side_changed"]] == sorted(wrong)
    assert not any(row["filled"] for row in rows)
    assert all(row["instance_id"] is not None for row in rows)
    assert rows[0]["side_votes"] == pytest.approx(17 / 20)
    for row in rows:
        assert row["global_orient"] == pytest.approx(pose[0], abs=1e-6)
        assert row["betas"][0] == pytest.approx(1.0)
    assert tally.side_changed == 3


def test_a_side_that_changes_for_good_begins_another_track(poser: HandPoser) -> None:
    seen = [Seen(frame, (100, 100), "right" if frame < 30 else "left") for frame in range(50)]
    table, tally = track_film(hands(seen), frames(50), Settings(gap_s=0.5), poser)
    assert sorted((rows[0]["side"], len(rows)) for rows in by_track(table).values()) == [
        ("left", 20),
        ("right", 30),
    ]
    assert (tally.side_changed, tally.tracked) == (0, 50)
    # In the middle, for longer than a gap: three tracks, and none is filled over the other.
    seen = [Seen(frame, (100, 100), "left" if 20 <= frame < 40 else "right") for frame in range(70)]
    table, tally = track_film(hands(seen), frames(70), Settings(gap_s=0.5), poser)
    assert sorted(len(rows) for rows in by_track(table).values()) == [20, 20, 30]
    assert (tally.filled, tally.side_changed) == (0, 0)


def test_all_frames_of_a_track_have_one_shape_which_an_outlier_hardly_moves(poser: HandPoser) -> None:
    rng = np.random.default_rng(1)
    shapes = rng.normal(0.5, 0.1, 40)
    shapes[11] = 50.0
    seen = [Seen(frame, (100, 100), who=float(shape)) for frame, shape in enumerate(shapes)]
    table, _ = track_film(hands(seen), frames(40), Settings(), poser)
    betas = numbers(table, "betas", 10)
    assert (betas == betas[0]).all()
    assert betas[0, 0] == pytest.approx(0.5, abs=0.05)


def test_joints_are_those_of_the_hand_model_and_left_hands_are_mirrored(poser: HandPoser) -> None:
    rng = np.random.default_rng(2)
    pose = rng.normal(0, 0.2, (16, 3))
    flip = np.array([1.0, -1.0, -1.0])
    right = [Seen(frame, (100, 100), "right", 0.7, pose) for frame in range(3)]
    left = [Seen(frame, (400, 100), "left", 0.7, pose * flip) for frame in range(3)]
    table, _ = track_film(hands([*right, *left]), frames(3), Settings(), poser)
    joints = {rows[0]["side"]: np.array([row["joints"] for row in rows]) for rows in by_track(table).values()}
    expected = poser(pose[None], np.r_[0.7, np.zeros(9)][None], np.array([False])).joints
    assert joints["right"] == pytest.approx(np.repeat(expected, 3, axis=0), abs=1e-6)
    assert joints["left"] == pytest.approx(joints["right"] * [-1, 1, 1], abs=1e-6)


def test_time_comes_from_timestamps_whatever_frames_are_looked_at(poser: HandPoser) -> None:
    """Every tenth frame of a film, 0.4 s apart: a gap of 0.1 s does not part frames that follow each other."""
    index = np.arange(0, 200, 10)
    seen = [Seen(int(frame), (100 + frame, 100)) for frame in index]
    looked_at = frames(200)
    sampled = type(looked_at)(index, looked_at.timestamp[index])
    table, tally = track_film(hands(seen), sampled, Settings(gap_s=0.1), poser)
    assert (tally.tracks, tally.filled) == (1, 0)
    assert table["frame_index"].to_pylist() == index.tolist()
    # A film that stands still for a second: the same number of missing frames, but too long a time.
    times = [*np.arange(10) / RATE, *(2.0 + np.arange(10) / RATE)]
    seen = [Seen(frame, (100, 100)) for frame in range(20) if frame not in (9, 10)]
    _, tally = track_film(hands(seen, times), frames(20, times), Settings(gap_s=0.5), poser)
    assert (tally.tracks, tally.filled) == (2, 0)
    # Nor does a frame that follows a hole of a minute go on with what was before it.
    times = [*np.arange(10) / RATE, *(60.0 + np.arange(10) / RATE)]
    seen = [Seen(frame, (100, 100)) for frame in range(20)]
    _, tally = track_film(hands(seen, times), frames(20, times), Settings(gap_s=0.5), poser)
    assert (tally.tracks, tally.filled) == (2, 0)


def test_frames_of_a_burst_tear_no_track_apart_and_draw_no_line_to_far_away(poser: HandPoser) -> None:
    """As webcams record: the film stands still, then comes what was lost, a millisecond apart."""
    rng = np.random.default_rng(2)
    times = [0.0, 0.001]
    while len(times) < 300:
        stall = len(times) % 60 == 0
        times += [times[-1] + 0.3 + 0.001 * late for late in range(3)] if stall else [times[-1] + 1 / 30]
    seen = [Seen(frame, tuple(100 + rng.normal(0, 2, 2))) for frame in range(len(times))]
    _, tally = track_film(hands(seen, times), frames(len(times), times), Settings(), poser)
    assert tally.tracks == 1
    # A first sample that is far off is drawn to where the others are, and no farther than they are apart.
    times = [0.0, 0.1, 0.101, 0.25, 0.28]
    places = np.array([[200.0], [0.0], [1.0], [0.0], [1.0]])
    assert smooth_points(places, np.array(times), np.ones(5), 0.05, 30.0)[0] == pytest.approx(0.5, abs=1.0)


def test_hands_that_are_too_far_apart_in_time_to_be_smoothed_are_counted(poser: HandPoser) -> None:
    times = [*np.arange(10) / 2, *(5.0 + np.arange(10) / 30)]
    seen = [Seen(frame, (100, 100)) for frame in range(20)]
    _, tally = track_film(hands(seen, times), frames(20, times), Settings(gap_s=1.0), poser)
    assert (tally.tracks, tally.tracked, tally.alone) == (1, 20, 10)
    assert tally.plain()["alone"] == 10
    assert track_film(hands(seen, times), frames(20, times), AS_THEY_ARE, poser)[1].alone == 0


def test_a_wrist_in_space_is_smoothed_where_it_is_known_and_null_elsewhere(poser: HandPoser) -> None:
    known = {*range(5, 12), *range(14, 20), *range(40, 50)}
    seen = [
        Seen(frame, (100, 100), translation=[0.1, 0.2, 0.5 + 0.01 * frame] if frame in known else None)
        for frame in range(55)
    ]
    table, _ = track_film(hands(seen), frames(55), Settings(gap_s=0.5), poser)
    given = {
        row["frame_index"]: row["translation"] for row in table.to_pylist() if row["translation"] is not None
    }
    assert set(given) == known | {12, 13}
    assert all(
        value == pytest.approx([0.1, 0.2, 0.5 + 0.01 * frame], abs=1e-6) for frame, value in given.items()
    )
    table, _ = track_film(hands([Seen(0, (1, 1)), Seen(1, (1, 1))]), frames(2), Settings(), poser)
    assert table["translation"].null_count == 2


def test_a_long_track_is_posed_in_pieces(poser: HandPoser, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [Seen(frame, (100 + frame, 100), "left") for frame in range(30)]
    whole, _ = track_film(hands(seen), frames(30), Settings(), poser)
    monkeypatch.setattr("pipeline.tracking.tracks.POSED_AT_ONCE", 8)
    pieces, _ = track_film(hands(seen), frames(30), Settings(), poser)
    assert pieces.equals(whole)


def test_films_without_hands_and_tracks_of_one_frame_are_no_exception(poser: HandPoser) -> None:
    table, tally = track_film(hands([]), frames(30), Settings(), poser)
    assert table.schema.equals(TRACKS)
    assert (table.num_rows, tally.frames, tally.tracks) == (0, 30, 0)
    assert track_film(hands([]), frames(0), Settings(), poser)[0].num_rows == 0
    pose = np.full((16, 3), 0.1)
    table, tally = track_film(hands([Seen(4, (100, 100), rotations=pose)]), frames(30), Settings(), poser)
    (row,) = table.to_pylist()
    assert row["track_id"] == "film#track#4#0"
    assert row["hand_pose"] == pytest.approx([0.1] * 45, abs=1e-6)
    few, tally = track_film(hands([Seen(4, (100, 100))]), frames(30), Settings(min_frames=2), poser)
    assert (few.num_rows, tally.hands, tally.tracked) == (0, 1, 0)


def test_the_order_of_rows_changes_nothing(poser: HandPoser) -> None:
    seen = [Seen(frame, (100 + 300 * hand, 100), who=hand) for frame in range(20) for hand in (0, 1)]
    table = hands(seen)
    mixed = table.take(np.random.default_rng(3).permutation(40))
    first, _ = track_film(table, frames(20), Settings(), poser)
    assert first.equals(track_film(mixed, frames(20), Settings(), poser)[0])


def uneven(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    return np.cumsum(rng.uniform(0.01, 0.08, count))


def test_smoothing_has_no_lag() -> None:
    times = np.arange(81) / 30
    bump = np.exp(-((np.arange(81) - 40) ** 2) / 18)[:, None]
    smoothed = smooth(bump, windows(times, np.ones(81), 0.06))
    assert smoothed == pytest.approx(smoothed[::-1], abs=1e-12)
    assert smoothed.argmax() == 40
    assert smoothed.max() < 0.95
    turns = Rotation.from_rotvec(bump * [[0.5, 1.0, -0.3]]).as_rotvec()[:, None]
    turned = smooth_rotations(turns, times, np.ones(81), 0.06)
    assert turned == pytest.approx(turned[::-1], abs=1e-9)
    assert np.linalg.norm(turned, axis=-1).argmax() == 40


def test_steady_motion_stays_where_it_is_at_the_ends_and_with_uneven_times_and_weights() -> None:
    rng = np.random.default_rng(4)
    times = uneven(rng, 60)
    weights = rng.uniform(0.1, 1, 60)
    line = times[:, None] * [3.0, -2.0] + [1.0, 5.0]
    assert smooth(line, windows(times, weights, 0.1)) == pytest.approx(line, abs=1e-9)
    start = Rotation.from_rotvec([0.4, -1.0, 2.0])
    turning = start * Rotation.from_rotvec(times[:, None] * [[2.0, 4.0, -3.0]])
    smoothed = Rotation.from_rotvec(smooth_rotations(turning.as_rotvec()[:, None], times, weights, 0.1)[:, 0])
    assert (smoothed.inv() * turning).magnitude().max() < 1e-9


def test_rotations_are_smoothed_through_half_a_turn() -> None:
    """Axis-angle vectors flip their sign at π: their mean would be no rotation at all."""
    rng = np.random.default_rng(5)
    times = np.arange(120) / 30
    truth = Rotation.from_rotvec((np.pi - 0.6 + 0.01 * np.arange(120))[:, None] * [[0.0, 0.6, 0.8]])
    noisy = truth * Rotation.from_rotvec(rng.normal(0, 0.05, (120, 3)))
    assert (np.linalg.norm(np.diff(noisy.as_rotvec(), axis=0), axis=1) > 5).any(), "the vectors must flip"
    vectors = smooth_rotations(noisy.as_rotvec()[:, None], times, np.ones(120), 0.1)[:, 0]
    smoothed = Rotation.from_rotvec(vectors)
    before = (truth.inv() * noisy).magnitude()
    after = (truth.inv() * smoothed).magnitude()
    assert after.mean() < 0.5 * before.mean()
    assert after.max() < before.max()
    # The same rotations, written with angles beyond π.
    beyond = noisy.as_rotvec()
    beyond *= 1 + 2 * np.pi / np.linalg.norm(beyond, axis=1, keepdims=True)
    again = smooth_rotations(beyond[:, None], times, np.ones(120), 0.1)[:, 0]
    assert (Rotation.from_rotvec(again).inv() * smoothed).magnitude().max() < 1e-9


@pytest.mark.parametrize("wrong_by_deg", [90.0, 166.0, 180.0])
@pytest.mark.parametrize("wrong", [[30], [0], [59], [0, 1], [35], [36]])
def test_a_frame_seen_the_wrong_way_round_bends_none_of_its_neighbours(
    wrong: list[int], wrong_by_deg: float
) -> None:
    """Not at a track's ends either, nor beside a gap (behind the 36th), where a line has few neighbours to go by."""
    times = np.arange(60) / 30 + np.where(np.arange(60) < 36, 0, 0.3)
    truth = Rotation.from_rotvec(np.sin(2 * times)[:, None] * [[0.3, 1.0, -0.2]])
    flip = Rotation.from_rotvec(np.radians(wrong_by_deg) * np.array([0.0, 0.0, 1.0]))
    for seed in range(10):
        noise = np.random.default_rng(seed).normal(0, 0.03, (60, 3))
        seen = (truth * Rotation.from_rotvec(noise)).as_rotvec()
        seen[wrong] = (Rotation.from_rotvec(seen[wrong]) * flip).as_rotvec()
        smoothed = Rotation.from_rotvec(smooth_rotations(seen[:, None], times, np.ones(60), 0.06)[:, 0])
        off = np.degrees((truth.inv() * smoothed).magnitude())
        assert np.delete(off, wrong).max() < 5
        assert off.max() < 20, "what was wrong itself is where its neighbours lead to"


def test_windows_that_hold_every_sample_are_taken_some_at_a_time() -> None:
    times = np.arange(2000) * 1e-6
    window = windows(times, np.ones(2000), 1e-2)
    assert max(index.size for _, index, _ in window.chunks()) <= AT_ONCE
    assert smooth(times[:, None], window)[:, 0] == pytest.approx(times, abs=1e-6)


def test_what_is_trusted_less_moves_the_result_less() -> None:
    times = np.arange(41) / 30
    values = np.zeros((41, 1))
    values[20] = 1.0
    weights = np.ones(41)
    trusted = smooth(values, windows(times, weights, 0.1))[20, 0]
    weights[20] = 0.1
    assert smooth(values, windows(times, weights, 0.1))[20, 0] < 0.3 * trusted
