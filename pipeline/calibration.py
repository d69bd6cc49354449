"""What an annotation's quality columns say of its error, learnt where the truth is known.

N hands; errors are PA-MPJPE in millimetres. A calibration belongs to the weights, network and hand model whose
annotations it was learnt on, and to boxes of one origin: a hand that was found may be cut wrongly, or be taken for one
of the other side.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit, logit

from pipeline.columns import numbers
from pipeline.errors import ConfigError

Floats = NDArray[np.float64]

CALIBRATED: Final = "calibrated"  # how `describe` begins
GIVEN: Final = "given"
DETECTED: Final = "detect"
_ORIGINS: Final = {GIVEN: "boxes that were given", DETECTED: "boxes that the detector found"}
FEWEST_HANDS: Final = 100
FEWEST_OF_A_KIND: Final = 20
MOST_KNOTS: Final = 20
HANDS_PER_KNOT: Final = 25
_RIDGE: Final = 10.0  # of the standardised weights: about as much doubt as ten hands


def peak_mass(annotations: pa.Table) -> Floats:
    """Returns the confidence (N,) of an annotation that is not calibrated: the mean of `joint_confidence`."""
    return np.asarray(numbers(annotations, "joint_confidence", 21).mean(axis=1))


def _logarithm(column: str, floor: float) -> Callable[[pa.Table], Floats]:
    return lambda annotations: np.log(np.maximum(_values(annotations, column), floor))


def _as_it_is(column: str) -> Callable[[pa.Table], Floats]:
    return lambda annotations: _values(annotations, column)


def _values(annotations: pa.Table, column: str) -> Floats:
    return np.asarray(annotations[column].to_numpy(), np.float64)


# Each is about evenly spread; a hand's side, its place and the image's name are none of their business.
_ALWAYS: Final[dict[str, Callable[[pa.Table], Floats]]] = {
    "peak_mass": lambda annotations: logit(np.clip(peak_mass(annotations), 1e-4, 1 - 1e-4)),
    "weakest_joints": lambda annotations: np.log(
        np.sort(numbers(annotations, "joint_confidence", 21), axis=1)[:, :5].mean(axis=1) + 1e-3
    ),
    "heatmap_entropy": _as_it_is("heatmap_entropy"),
    "reprojection_error": _logarithm("reprojection_error", 1e-3),
    "bone_deviation": _as_it_is("bone_deviation"),
    "joint_limit_excess": _as_it_is("joint_limit_excess"),
    "crop_outside": _as_it_is("crop_outside"),
    "sharpness": _logarithm("sharpness", 1e-3),
    "hand_size_px": lambda annotations: np.log(
        np.maximum(numbers(annotations, "bbox", 4)[:, 2:].max(axis=1), 1)
    ),
}
_BY_HEAD: Final[dict[str, Callable[[pa.Table], Floats]]] = {
    "predicted_error_mm": _logarithm("predicted_error_mm", 0.1),
}
_BY_DETECTOR: Final[dict[str, Callable[[pa.Table], Floats]]] = {
    # MediaPipe's certainty of the side, of most hands all but 1: what is lacking to it counts, by its logarithm.
    "bbox_score": lambda annotations: -np.log1p(-np.clip(_values(annotations, "bbox_score"), 0, 1 - 1e-4)),
}
_BY_TTA: Final[dict[str, Callable[[pa.Table], Floats]]] = {
    "flip_error_mm": _logarithm("flip_error_mm", 0.1),
    "shift_error_mm": _logarithm("shift_error_mm", 0.1),
}
FEATURES: Final = _ALWAYS | _BY_HEAD | _BY_DETECTOR | _BY_TTA


def origin_of(boxes_identity: str) -> str:
    """Returns where boxes come from: GIVEN, by whomever, or DETECTED."""
    return DETECTED if boxes_identity.startswith(DETECTED) else GIVEN


def feature_names(*, error_head: bool, origin: str, tta: bool) -> tuple[str, ...]:
    """Returns what a calibration can look at: more by an error head, of found boxes, and by a second look (--tta)."""
    more = ((_BY_HEAD, error_head), (_BY_DETECTOR, origin == DETECTED), (_BY_TTA, tta))
    return (*_ALWAYS, *(name for names, there in more if there for name in names))


def features_of(annotations: pa.Table, names: Sequence[str]) -> Floats:
    """Returns what a calibration looks at (N, len(names)), from the columns of annotations."""
    columns = [FEATURES[name](annotations) for name in names]
    return np.stack(columns, axis=1) if columns else np.zeros((annotations.num_rows, 0))


@dataclass(frozen=True)
class Curve:
    """From features to a confidence, and from that to an error: a logistic model and a falling line of knots.

    lows, highs, means, scales, weights: one per feature; bias: of the logistic model. What lies outside of what was
    learnt on counts as its border: a line that goes on would call a bone of twice its length a sure sign of quality.
    knots_confidence rises, knots_error_mm does not; the expected error is linear in between and constant beyond.
    """

    features: tuple[str, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    knots_confidence: tuple[float, ...]
    knots_error_mm: tuple[float, ...]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Curve":
        """Reads one of the curves of `Calibration.to_json`.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        features = tuple(content["features"])
        if unknown := set(features) - FEATURES.keys():
            raise ValueError(f"features {', '.join(sorted(unknown))}")

        def line(name: str, count: int) -> tuple[float, ...]:
            values = tuple(float(value) for value in content[name])
            if len(values) != count or not np.isfinite(values).all():
                raise ValueError(f"{name} must be {count} finite numbers")
            return values

        lows, highs, means, scales, weights = (
            line(name, len(features)) for name in ("lows", "highs", "means", "scales", "weights")
        )
        knots = max(1, len(content["knots_confidence"]))
        bias = float(content["bias"])
        if not np.isfinite(bias):
            raise ValueError("bias must be a finite number")
        return cls(
            features=features,
            lows=lows,
            highs=highs,
            means=means,
            scales=scales,
            weights=weights,
            bias=bias,
            knots_confidence=line("knots_confidence", knots),
            knots_error_mm=line("knots_error_mm", knots),
        )

    def confidence(self, features_NF: Floats) -> Floats:
        """Returns the probability (N,) that the error is below the threshold."""
        inside = np.clip(features_NF, self.lows, self.highs)
        standard = (inside - np.array(self.means)) / np.array(self.scales)
        return np.asarray(expit(standard @ np.array(self.weights) + self.bias))

    def expected_error_mm(self, confidence_N: Floats) -> Floats:
        """Returns the error (N,) that hands of this confidence have on average; never rising with it."""
        return np.asarray(np.interp(confidence_N, self.knots_confidence, self.knots_error_mm))


@dataclass(frozen=True)
class Calibration:
    """What was learnt, and what it holds for.

    threshold_mm: a hand is good below this error. tensors_sha256, model, hand_model: whose annotations it was learnt
    on; boxes: their origin, GIVEN or DETECTED; crop_rule: how they were cut, in the words of `CropRule.describe`;
    learnt_on: which data, in words; hands: how many. curves: one without the columns of a second look (--tta), and one
    with them where the annotations had them.
    """

    threshold_mm: float
    tensors_sha256: str
    model: str
    hand_model: str
    boxes: str
    crop_rule: str
    learnt_on: str
    hands: int
    curves: tuple[Curve, ...]

    def curve(self, tta: bool) -> Curve:
        """Returns the curve that uses most of what an annotation has."""
        usable = [curve for curve in self.curves if tta or not set(curve.features) & set(_BY_TTA)]
        return max(usable, key=lambda curve: len(curve.features))

    def describe(self, tta: bool) -> str:
        """Says what the confidence of an annotation means, for its metadata."""
        curve = self.curve(tta)
        # Of what was learnt on: no group of hands was surer or less sure.
        least, surest = curve.knots_confidence[0], curve.knots_confidence[-1]
        worst, best = curve.expected_error_mm(np.array([least, surest]))
        return (
            f"{CALIBRATED}: probability that PA-MPJPE < {self.threshold_mm:g} mm; {least:.2f} stands for {worst:.1f} "
            f"mm on average, {surest:.2f} for {best:.1f} mm; learnt on {self.hands} hands of {self.learnt_on}, in "
            f"{_ORIGINS[self.boxes]}; from {', '.join(curve.features)}"
        )

    def require_for(self, *, tensors_sha256: str, model: str, hand_model: str) -> None:
        """Holds the calibration against what it is to be used with.

        Raises:
            ConfigError: it was learnt on annotations of another network or hand model.
        """
        used = {"weights": tensors_sha256, "model": model, "hand model": hand_model}
        learnt = {"weights": self.tensors_sha256, "model": self.model, "hand model": self.hand_model}
        for what, name in used.items():
            if learnt[what] != name:
                raise ConfigError(
                    f"the calibration inside the weights was learnt with {what} {learnt[what][:20]}, this is "
                    f"{name[:20]}; run `handocc calibrate` for these"
                )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Calibration":
        """Reads what `to_json` gave.

        Raises:
            ConfigError: it is something else, or uses what this version does not know.
        """
        try:
            curves = tuple(Curve.from_json(curve) for curve in content["curves"])
            if all(set(curve.features) & set(_BY_TTA) for curve in curves):
                raise ValueError("no curve without --tta")
            if content["boxes"] not in _ORIGINS:
                raise ValueError(f"boxes {content['boxes']}")
            known = {"threshold_mm": float(content["threshold_mm"]), "hands": int(content["hands"])}
            return cls(**{**content, **known, "curves": curves})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"the calibration inside the weights cannot be read ({error}); run `handocc calibrate` anew"
            ) from error


def choose(stored: Mapping[str, Any], origin: str) -> Calibration | None:
    """Returns what weights carry for boxes of an origin, of what they carry by origin.

    What was learnt in given boxes serves hands that were found too, where there is no other, and says so; what was
    learnt of found ones serves no others, whose boxes have no score.

    Raises:
        ConfigError: what they carry cannot be read.
    """
    if stored and not stored.keys() & _ORIGINS.keys():
        raise ConfigError(
            "the calibration inside the weights is of a version that did not tell given boxes from found ones; run "
            "`handocc calibrate` anew with weights that have none"
        )
    content = stored.get(origin, stored.get(GIVEN))
    return None if content is None else Calibration.from_json(content)


def beside(stored: Mapping[str, Any], calibration: Calibration) -> dict[str, Any]:
    """Returns what weights carry, by origin of boxes, with a calibration among it."""
    others = {name: stored[name] for name in _ORIGINS if name in stored}
    return others | {calibration.boxes: calibration.to_json()}


def fit_curve(features_NF: Floats, errors_mm_N: Floats, threshold_mm: float, names: Sequence[str]) -> Curve:
    """Learns a curve from hands whose errors are known: `require_learnable` says which do."""
    means, scales = features_NF.mean(axis=0), features_NF.std(axis=0)
    # What does not vary says nothing: its weight stays 0.
    scales = np.where(scales > 1e-9 * np.maximum(np.abs(means), 1), scales, 1e9)
    standard = (features_NF - means) / scales
    weights, bias = _logistic(standard, errors_mm_N < threshold_mm)
    places, falling = _falling_knots(expit(standard @ weights + bias), errors_mm_N)
    return Curve(
        features=tuple(names),
        lows=tuple(features_NF.min(axis=0).tolist()),
        highs=tuple(features_NF.max(axis=0).tolist()),
        means=tuple(means.tolist()),
        scales=tuple(scales.tolist()),
        weights=tuple(weights.tolist()),
        bias=bias,
        knots_confidence=places,
        knots_error_mm=falling,
    )


def held_out(
    features_NF: Floats,
    errors_mm_N: Floats,
    folds_N: NDArray[np.int64],
    threshold_mm: float,
    names: Sequence[str],
) -> tuple[Floats, Floats]:
    """Returns each hand's confidence and expected error (N,) by a curve learnt on the other folds alone."""
    confidence, expected = np.empty(len(errors_mm_N)), np.empty(len(errors_mm_N))
    for fold in np.unique(folds_N):
        of_fold = folds_N == fold
        curve = fit_curve(features_NF[~of_fold], errors_mm_N[~of_fold], threshold_mm, names)
        confidence[of_fold] = curve.confidence(features_NF[of_fold])
        expected[of_fold] = curve.expected_error_mm(confidence[of_fold])
    return confidence, expected


def require_learnable(errors_mm_N: Floats, folds_N: NDArray[np.int64], threshold_mm: float) -> None:
    """Refuses hands from which nothing can be learnt about the threshold.

    Raises:
        ConfigError: there are too few hands, too few on one side of the threshold, or all are of one fold.
    """
    count, good = len(errors_mm_N), int((errors_mm_N < threshold_mm).sum())
    if count < FEWEST_HANDS:
        raise ConfigError(
            f"{count} hands are both annotated and labelled: a calibration needs {FEWEST_HANDS}"
        )
    if not FEWEST_OF_A_KIND <= good <= count - FEWEST_OF_A_KIND:
        middle = float(np.median(errors_mm_N))
        raise ConfigError(
            f"{good} of {count} hands are within {threshold_mm:g} mm: a calibration needs {FEWEST_OF_A_KIND} of each "
            f"kind; half of the hands are within {middle:.3g} mm, so give --threshold-mm near that"
        )
    if len(np.unique(folds_N)) < 2:
        raise ConfigError(
            "the hands are all of one sequence: none can be held out to say what a calibration is worth; name "
            "shards of several with --data"
        )


def _logistic(standard_NF: Floats, good_N: NDArray[np.bool_]) -> tuple[Floats, float]:
    """Returns weights and bias of the most likely logistic model, its weights held back a little."""
    signs = np.where(good_N, 1.0, -1.0)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        weights, bias = parameters[:-1], parameters[-1]
        margins = signs * (standard_NF @ weights + bias)
        slopes = -signs * expit(-margins)
        gradient = np.append(standard_NF.T @ slopes + _RIDGE * weights, slopes.sum())
        return float(np.logaddexp(0, -margins).sum() + _RIDGE / 2 * weights @ weights), gradient

    found = minimize(loss, np.zeros(standard_NF.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return found[:-1], float(found[-1])


def _falling_knots(confidence_N: Floats, errors_mm_N: Floats) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns confidences, rising, and mean errors, never rising, of groups of hands of like confidence."""
    order = np.argsort(confidence_N, kind="stable")
    groups = np.array_split(order, int(np.clip(len(order) // HANDS_PER_KNOT, 1, MOST_KNOTS)))
    places = np.array([confidence_N[group].mean() for group in groups])
    means = np.array([errors_mm_N[group].mean() for group in groups])
    counts = np.array([len(group) for group in groups], np.float64)
    # Groups of one confidence (ties) are one knot.
    places, of = np.unique(places, return_inverse=True)
    together = np.bincount(of, counts)
    means = np.bincount(of, counts * means) / together
    falling = isotonic_regression(means, weights=together, increasing=False).x
    return tuple(places.tolist()), tuple(np.asarray(falling).tolist())
