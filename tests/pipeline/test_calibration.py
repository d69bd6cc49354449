"""What is learnt of quality columns: probabilities that are right, errors that fall, and refusals."""

import json
from typing import Any

import numpy as np
import pytest

from pipeline.calibration import (
    DETECTED,
    GIVEN,
    Calibration,
    Floats,
    beside,
    choose,
    feature_names,
    fit_curve,
    held_out,
    origin_of,
    require_learnable,
)
from pipeline.errors import ConfigError

NAMES = ("reprojection_error", "sharpness")


def graded(count: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Features, of which the first tells something of the error and the second nothing; errors around 10 mm."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 2)) * (0.3, 50) + (2, -7)
    return features, 10 * np.exp(1.5 * (features[:, 0] - 2) + rng.normal(0, 0.3, count))


def test_confidence_is_the_share_of_good_hands_and_errors_fall_with_it() -> None:
    curve = fit_curve(*graded(4000), 10.0, NAMES)
    features, errors = graded(20_000, seed=1)
    confidence = curve.confidence(features)
    for low in np.arange(0.05, 0.95, 0.1):
        chosen = (confidence >= low) & (confidence < low + 0.1)
        assert (errors[chosen] < 10).mean() == pytest.approx(confidence[chosen].mean(), abs=0.06)
    expected = curve.expected_error_mm(confidence)
    assert expected.mean() == pytest.approx(errors.mean(), rel=0.05)
    assert (np.diff(curve.expected_error_mm(np.linspace(0, 1, 101))) <= 0).all()
    assert expected[np.argmin(confidence)] > 1.5 * expected[np.argmax(confidence)]
    assert abs(curve.weights[0]) > 10 * abs(curve.weights[1])


def test_the_unit_of_a_feature_and_the_order_of_hands_do_not_matter() -> None:
    features, errors = graded(500)
    plain = fit_curve(features, errors, 10.0, NAMES)
    scaled = fit_curve(features * (1000, 0.01) + 3, errors, 10.0, NAMES)
    turned = fit_curve(features[::-1], errors[::-1], 10.0, NAMES)
    confidence = plain.confidence(features)
    assert scaled.confidence(features * (1000, 0.01) + 3) == pytest.approx(confidence, abs=1e-4)
    assert turned.confidence(features) == pytest.approx(confidence, abs=1e-4)


def test_hands_that_cannot_be_told_apart_share_the_mean() -> None:
    _, errors = graded(300)
    curve = fit_curve(np.ones((300, 2)), errors, 10.0, NAMES)
    confidence = curve.confidence(np.ones((2, 2)))
    assert confidence == pytest.approx((errors < 10).mean(), abs=1e-3)
    assert curve.expected_error_mm(confidence) == pytest.approx(errors.mean())
    assert curve.confidence(np.full((1, 2), 1e3)) == pytest.approx(confidence[:1], abs=1e-3)


def test_features_that_part_good_from_bad_stay_finite() -> None:
    features = np.linspace(-1, 1, 200)[:, None]
    curve = fit_curve(features, np.where(features[:, 0] > 0, 5.0, 20.0), 10.0, NAMES[:1])
    confidence = curve.confidence(features)
    assert np.isfinite(confidence).all()
    assert confidence[0] < 0.05 < 0.95 < confidence[-1]


def test_what_is_held_out_is_not_learnt() -> None:
    rng = np.random.default_rng(0)
    features, errors = rng.normal(size=(200, 60)), rng.uniform(5, 15, 200)
    names = tuple(map(str, range(60)))
    folds = rng.integers(0, 5, 200)
    learnt = fit_curve(features, errors, 10.0, names).confidence(features)
    confidence, expected = held_out(features, errors, folds, 10.0, names)
    # Noise explains what it was fitted to, and nothing else.
    assert np.corrcoef(learnt, errors)[0, 1] < -0.4
    assert abs(np.corrcoef(confidence, errors)[0, 1]) < 0.25
    assert np.isfinite(expected).all()


@pytest.mark.parametrize(
    ("errors", "says"),
    [
        (np.full(3, 5.0), "3 hands are both annotated and labelled: a calibration needs 100"),
        (np.full(200, 5.0), "200 of 200 hands are within 10 mm"),
        (np.linspace(20, 30, 200), "half of the hands are within 25 mm, so give --threshold-mm near that"),
    ],
)
def test_data_that_says_nothing_is_refused(errors: Floats, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        require_learnable(errors, np.arange(len(errors)) % 2, 10.0)


def test_hands_of_one_sequence_alone_are_refused() -> None:
    errors = np.linspace(5, 15, 200)
    require_learnable(errors, np.arange(200) % 2, 10.0)
    with pytest.raises(ConfigError, match=r"all of one sequence.*name shards of several with --data"):
        require_learnable(errors, np.zeros(200, np.int64), 10.0)


PLAIN = feature_names(error_head=True, origin=GIVEN, tta=False)
WITH_TTA = feature_names(error_head=True, origin=GIVEN, tta=True)


def calibration(origin: str = GIVEN) -> Calibration:
    rng = np.random.default_rng(0)
    errors = rng.uniform(5, 15, 200)
    names = [feature_names(error_head=True, origin=origin, tta=tta) for tta in (False, True)]
    curves = tuple(fit_curve(rng.normal(size=(200, len(n))), errors, 10.0, n) for n in names)
    return Calibration(10.0, "a" * 64, "tiny", "synthetic-v1", origin, "demo: x1.25", "shards", 200, curves)


def test_a_calibration_survives_being_written_down() -> None:
    there = calibration()
    assert Calibration.from_json(json.loads(json.dumps(there.to_json()))) == there


def test_what_lies_outside_of_what_was_learnt_on_counts_as_its_border() -> None:
    curve = calibration().curve(tta=False)
    at_border = curve.confidence(np.array([curve.lows, curve.highs]))
    far_out = np.where(np.array([[False], [True]]), 1e6, -1e6) * np.ones(len(curve.features))
    assert np.array_equal(curve.confidence(far_out), at_border)
    assert 0.01 < at_border.min() < at_border.max() < 0.99


def test_a_second_look_is_used_where_there_is_one() -> None:
    assert calibration().curve(tta=False).features == PLAIN
    assert calibration().curve(tta=True).features == WITH_TTA
    assert "PA-MPJPE < 10 mm" in calibration().describe(tta=True)
    assert "flip_error_mm" not in calibration().describe(tta=False)


def test_what_a_network_does_not_say_is_not_asked_for() -> None:
    for tta, names in ((False, PLAIN), (True, WITH_TTA)):
        headless = feature_names(error_head=False, origin=GIVEN, tta=tta)
        assert set(names) - set(headless) == {"predicted_error_mm"}
    of_found = feature_names(error_head=True, origin=DETECTED, tta=True)
    assert set(of_found) - set(WITH_TTA) == {"bbox_score"}


def test_boxes_that_were_given_and_found_have_their_own() -> None:
    assert origin_of("detect max_hands=8 tiles=2 abc") == DETECTED
    assert origin_of("given") == origin_of("whole") == origin_of("file:///detect/boxes.csv 1") == GIVEN
    given, found = calibration(), calibration(DETECTED)
    both = beside(beside({}, given), found)
    assert choose(both, GIVEN) == given
    assert choose(both, DETECTED) == found
    assert choose(beside({}, given), DETECTED) == given
    assert choose(beside({}, found), GIVEN) is None
    assert choose({}, GIVEN) is None
    assert "in boxes that the detector found" in found.describe(tta=False)
    again = calibration(DETECTED)
    assert beside(both, again) == both


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"tensors_sha256": "b" * 64}, "learnt with weights aaaa"),
        ({"model": "paper"}, "learnt with model tiny, this is paper"),
        ({"hand_model": "c" * 64}, "learnt with hand model synthetic-v1"),
    ],
)
def test_a_calibration_of_something_else_is_refused(other: dict[str, str], says: str) -> None:
    own = {"tensors_sha256": "a" * 64, "model": "tiny", "hand_model": "synthetic-v1"}
    calibration().require_for(**own)
    with pytest.raises(ConfigError, match=says):
        calibration().require_for(**own | other)


def test_a_calibration_that_cannot_be_read_is_one_line() -> None:
    content = calibration().to_json()
    plain, second_look = content["curves"]
    content["curves"] = [{**plain, "features": ["colour"]}]
    with pytest.raises(ConfigError, match="did not tell given boxes from found ones"):
        choose(calibration().to_json(), GIVEN)
    curves: list[list[dict[str, Any]]] = [
        [],
        [second_look],
        [{**plain, "knots_confidence": [], "knots_error_mm": []}],
        [{**plain, "weights": plain["weights"][1:]}],
        [{**plain, "bias": float("nan")}],
    ]
    others = [{**content, "curves": of_these} for of_these in curves]
    for broken in (content, *others, {}, {"curves": 3}, {**calibration().to_json(), "boxes": "dreamt"}):
        with pytest.raises(ConfigError, match="run `handocc calibrate` anew"):
            Calibration.from_json(broken)
