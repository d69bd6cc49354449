"""`handocc calibrate`: what a confidence is worth, learnt from annotations of labelled shards."""

import sys
from dataclasses import dataclass

from jobs import evaluate, record
from jobs.console import say, some
from jobs.evaluate import annotated_parts, labelled_shards
from jobs.model_choice import SHIPPED, read_weights, weights_of
from jobs.options import option, require_least
from jobs.predictions import Predicted, stored
from model.config import preset
from model.weights import LoadedWeights, add_calibration
from pipeline import lease, storage
from pipeline.calibration import (
    DETECTED,
    Calibration,
    beside,
    feature_names,
    fit_curve,
    held_out,
    origin_of,
    require_learnable,
)
from pipeline.errors import ConfigError
from pipeline.evaluation.graded import GradedHands, read_graded
from pipeline.evaluation.matching import match_units
from pipeline.evaluation.reliability import HeldOut, coverage_chart, judge, reliability_chart
from pipeline.fingerprint import fingerprint_of
from pipeline.render import png

EVALUATION = "evaluation"


@dataclass(frozen=True)
class Options:
    """Learns from labelled shards what an annotation's quality columns say of its error, and how well they say it."""

    predictions: str = option(
        help="an output of annotate of these shards; with --tta it learns a second curve, and what it learns in given "
        "boxes and in those of --boxes detect stands side by side in the weights"
    )
    data: tuple[str, ...] = option(help="the labelled shards: what prepare or synthesize wrote")
    output: str = option(
        help="folder or URI that takes calibration.json, metrics.json, the diagrams and the weights"
    )
    weights: str | None = option(
        None, help="the weights that annotated: a copy with the calibration inside goes to the output"
    )
    model: str | None = option(None, help="of --weights, where they do not say it: paper, release or tiny")
    threshold_mm: float = option(10.0, help="a hand is good if its PA-MPJPE is below this")
    hands: int = option(200_000, help="learn from so many at most, drawn by picture")
    folds: int = option(5, help="what the figures hold for is learnt without the fold that it is measured on")
    seed: int = option(0, help="of drawing pictures and dealing them to folds")
    overwrite: bool = option(False, help="do anew what another job left in the output")
    address: str | None = option(None, help="a Ray cluster; default: RAY_ADDRESS, else this machine")


def run(options: Options) -> int:
    """Measures the annotations, learns from their errors, and shows on held-out pictures what that is worth."""
    _check(options)
    output = storage.canonical(options.output)
    predicted = _predicted(options)
    weights = _weights(options, predicted, output)
    content = {
        "predictions": predicted.uri,
        "predictions_fingerprint": predicted.job["fingerprint"],
        "data": sorted(storage.redacted(storage.canonical(uri)) for uri in options.data),
        "weights_sha256": None if weights is None else weights.loaded.sha256,
        **{name: getattr(options, name) for name in ("threshold_mm", "hands", "folds", "seed")},
    }
    fingerprint = fingerprint_of(content)
    record.require_same(output, "calibrate", content, fingerprint, overwrite=options.overwrite)
    storage.require_writable(output)
    with lease.hold(output):
        storage.sweep(output)
        status = evaluate.run(
            evaluate.Options(
                data=options.data,
                dataset="shards",
                output=storage.join(output, EVALUATION),
                predictions=options.predictions,
                worst=0,
                overwrite=options.overwrite,
                address=options.address,
            )
        )
        graded = _graded(options, predicted, output)
        # Only then is the request the output's: what is refused for its threshold may come again with another.
        require_learnable(graded.errors_mm, graded.folds, options.threshold_mm)
        record.write(output, "job.json", record.job("calibrate", options, content))
        calibration, shown = _learn(options, predicted, graded)
        _write(output, calibration, shown, graded, weights)
    for line in _lines(calibration, shown, graded):
        print(line)
    print(f"results: {output}")
    return status


def _check(options: Options) -> None:
    require_least(options, "hands", least=100)
    require_least(options, "folds", least=2)
    require_least(options, "seed", least=0)
    if not options.threshold_mm > 0:
        raise ConfigError(f"--threshold-mm {options.threshold_mm:g}: must be more than 0")


def _predicted(options: Options) -> Predicted:
    predicted = stored(options.predictions, None)
    if "tta" not in predicted.job["content"]:
        raise ConfigError(
            f"--predictions {options.predictions}: annotated by a version without the quality columns; annotate anew"
        )
    boxes = predicted.job["content"]["boxes"]
    if not predicted.boxes_given and origin_of(boxes) != DETECTED:
        raise ConfigError(
            f"--predictions {options.predictions}: annotated with boxes of {boxes.split()[0]}, and what is learnt of "
            "somebody's boxes holds for no others; annotate with --boxes given or detect"
        )
    return predicted


@dataclass(frozen=True)
class _Weights:
    """A weights file, and where its copy goes."""

    data: bytes
    loaded: LoadedWeights
    uri: str


def _weights(options: Options, predicted: Predicted, output: str) -> _Weights | None:
    """Returns the weights that annotated.

    Raises:
        ConfigError: they are others, or the copy would lie where they do.
    """
    if options.weights is None:
        return None
    if options.weights.startswith("random:"):
        raise ConfigError(
            f"--weights {options.weights}: an untrained network has no file to keep a calibration in"
        )
    data = read_weights(options.weights)
    loaded = weights_of(data, options.weights, None if options.model is None else preset(options.model))
    if loaded.tensors_sha256 != predicted.job["conventions"]["weights_tensors_sha256"]:
        raise ConfigError(
            f"--weights {options.weights}: the predictions were made with other weights, sha256 "
            f"{predicted.job['weights']['sha256'][:8]}; annotate with these, or name those"
        )
    name = storage.name_of(storage.canonical(options.weights.removeprefix(SHIPPED))).rpartition(".")
    uri = storage.join(output, f"{name[0] or name[2]}.safetensors")
    if storage.resolved(uri) == storage.resolved(options.weights):
        raise ConfigError(
            f"--output {options.output}: the calibrated copy would replace --weights; use another"
        )
    return _Weights(data, loaded, uri)


def _graded(options: Options, predicted: Predicted, output: str) -> GradedHands:
    evaluation = storage.join(output, EVALUATION)
    matched = match_units(predicted.uri, labelled_shards(options.data, evaluation))
    return read_graded(
        predicted.uri,
        evaluation,
        [unit.labelled for unit in matched],
        annotated_parts(predicted, matched),
        names=_names(predicted)[-1],
        folds=options.folds,
        most=options.hands,
        seed=options.seed,
    )


def _names(predicted: Predicted) -> list[tuple[str, ...]]:
    """Returns the features of each curve that can be learnt; a curve's are the first of the next one's."""
    content = predicted.job["content"]
    head, origin = content["model"].get("error_head", False), origin_of(content["boxes"])
    return [feature_names(error_head=head, origin=origin, tta=tta) for tta in sorted({False, content["tta"]})]


def _learn(options: Options, predicted: Predicted, graded: GradedHands) -> tuple[Calibration, list[HeldOut]]:
    """Returns the calibration by all hands, and what curves learnt in the same way say of hands that they never saw."""
    names = _names(predicted)
    shown = [HeldOut("heatmap peak mass, before", graded.peak_mass, None)]
    curves = []
    for used in names:
        features = graded.features[:, : len(used)]
        curves.append(fit_curve(features, graded.errors_mm, options.threshold_mm, used))
        confidence, expected = held_out(features, graded.errors_mm, graded.folds, options.threshold_mm, used)
        shown.append(
            HeldOut("calibrated" if used is names[0] else "calibrated, with --tta", confidence, expected)
        )
    conventions = predicted.job["conventions"]
    calibration = Calibration(
        threshold_mm=options.threshold_mm,
        tensors_sha256=conventions["weights_tensors_sha256"],
        model=conventions["model"],
        hand_model=predicted.job["hand_model"],
        boxes=origin_of(predicted.job["content"]["boxes"]),
        crop_rule=conventions["crop_rule"],
        learnt_on=some(sorted(storage.redacted(uri) for uri in options.data)),
        hands=len(graded.errors_mm),
        curves=tuple(curves),
    )
    return calibration, shown


def _write(
    output: str,
    calibration: Calibration,
    shown: list[HeldOut],
    graded: GradedHands,
    weights: _Weights | None,
) -> None:
    """Writes the diagrams, the figures and the calibration, and last the weights that carry it."""
    errors, threshold = graded.errors_mm, calibration.threshold_mm
    for name, picture in {
        "reliability.png": reliability_chart(shown, errors, threshold),
        "coverage.png": coverage_chart(shown, errors),
    }.items():
        storage.put(storage.join(output, name), png(picture))
    metrics = {
        "threshold_mm": threshold,
        "boxes": calibration.boxes,
        "hands": {"measured": graded.measured, "used": len(errors)},
        "good": float((errors < threshold).mean()),
        "pa_mpjpe_mm": float(errors.mean()),
        "held_out": {each.name: judge(each, errors, threshold) for each in shown},
    }
    record.write(output, "metrics.json", metrics)
    record.write(output, "calibration.json", beside({}, calibration))
    if weights is not None:
        content = beside(weights.loaded.calibration or {}, calibration)
        data = add_calibration(
            weights.data, content, config=weights.loaded.config, hand_model_name=calibration.hand_model
        )
        storage.put(weights.uri, data)
        say(f"weights with the calibration inside: {weights.uri}")


def _lines(calibration: Calibration, shown: list[HeldOut], graded: GradedHands) -> list[str]:
    errors, threshold = graded.errors_mm, calibration.threshold_mm
    lines = [
        f"{len(errors)} hands, PA-MPJPE {errors.mean():.2f} mm, {(errors < threshold).mean():.0%} below "
        f"{threshold:g} mm; by confidence, each hand's learnt without its fold:",
        f"{'':<28}    ECE  AUROC   AURC  best half  random half",
    ]
    for each in shown:
        found = judge(each, errors, threshold)
        lines.append(
            f"{each.name:<28} {found['ece']:6.3f} {found['auroc']:6.3f} {found['aurc_mm']:6.2f} "
            f"{found['best_half_mm']:7.2f} mm {found['random_half_mm']['mean']:9.2f} mm "
            f"({-found['best_half_is_lower_by']:+.0%})"
        )
    return lines


if __name__ == "__main__":
    from jobs.cli import command

    command(["calibrate", *sys.argv[1:]])
