"""Predictions against truths, many at once: every error that a benchmark's evaluation needs.

N hands; metres, camera axes, wrist at the origin; numpy, float64.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from model.mano.asset import HandModel
from pipeline.columns import numbers
from pipeline.evaluation.hands import Floats, HandPoser, predicted_vertices, translations
from pipeline.evaluation.truth import TrueHand
from pipeline.metrics import PROTOCOLS, absolute_errors, sample_errors
from pipeline.sinks.parts import Part

# Before the names of metrics: those of the hand at rest, and those as the paper's authors align.
BASELINE = "baseline_"
PAPER = "paper_"
# Of the wrist in camera space: how far off it is, how far in depth, and what share of its depth that is.
PLACEMENT = ("translation_error_mm", "depth_error_mm", "depth_error_percent")


@dataclass(frozen=True)
class Measurement:
    """What decides which errors are measured.

    predictions: the output of annotate that is measured; parts: where its units' rows lie. hand_model: that of the
    predictions where it is at hand; hand_model_name, fingertips: what they say theirs are. has_vertices: whether
    they hold vertices. boxes_given: their boxes were the labels', so that a hand's index names it; others are known by
    their place. baseline: measures the hand at rest beside them.
    """

    dataset: str
    predictions: str
    parts: Mapping[str, Part]
    hand_model: HandModel | None
    hand_model_name: str
    fingertips: tuple[int, ...]
    has_vertices: bool
    boxes_given: bool
    baseline: bool
    fingerprint: str

    @property
    def with_meshes(self) -> bool:
        """Says whether meshes can be measured: from stored vertices, or posed by the hand model."""
        return self.has_vertices or self.hand_model is not None


@dataclass(frozen=True)
class Pair:
    """A true hand and the row of its annotation, None where it was not predicted."""

    truth: TrueHand
    row: int | None
    reason: str | None


def comparable(job: Measurement, truth: TrueHand) -> bool:
    """Says whether vertices and parameters of both belong to one hand model.

    A benchmark that does not name its hand model has MANO's; the procedural hand is always named.
    """
    if truth.hand_model is None:
        return not job.hand_model_name.startswith("synthetic")
    return truth.hand_model == job.hand_model_name


def measure(
    job: Measurement, poser: HandPoser | None, annotations: pa.Table, pairs: Sequence[Pair]
) -> dict[str, Floats]:
    """Returns the errors (N,) of pairs by metric: `metric_names`, NaN where a hand has none."""
    count, protocol = len(pairs), PROTOCOLS[job.dataset]
    where = np.array([number for number, pair in enumerate(pairs) if pair.row is not None], np.int64)
    # Of none at all pyarrow would not know the type.
    rows = annotations.take(pa.array([pair.row for pair in pairs if pair.row is not None], pa.int64()))
    joints, wrists = np.full((count, 21, 3), np.nan), np.full((count, 3), np.nan)
    joints[where], wrists[where] = numbers(rows, "joints", 21, 3), translations(rows)
    vertices = None
    if job.with_meshes:
        vertices = np.full((count, 778, 3), np.nan)
        found = predicted_vertices(rows, poser)
        assert found is not None
        vertices[where] = found
    truth = _true_points(job, poser, [pair.truth for pair in pairs])
    errors = _errors(job.dataset, joints, truth, vertices)
    roots = np.array([[np.nan] * 3 if pair.truth.root is None else pair.truth.root for pair in pairs])
    # What has no place in camera space on one side has no absolute error, and no score of 0 either.
    placed = np.where(np.isfinite(wrists).all(axis=1)[:, None, None], truth.joints + roots[:, None], np.nan)
    absolute = absolute_errors(
        protocol,
        joints=torch.from_numpy(np.nan_to_num(joints + wrists[:, None])),
        true_joints=torch.from_numpy(placed),
    )
    errors |= {name: value.numpy() for name, value in absolute.items()}
    off, depths = 1000 * (wrists - roots), np.where(roots[:, 2] > 0, roots[:, 2], np.nan)
    in_depth = np.abs(off[:, 2])
    placement = np.linalg.norm(off, axis=1), in_depth, in_depth / (10 * depths)
    errors |= dict(zip(PLACEMENT, placement, strict=True))
    if job.baseline:
        assert poser is not None
        rest = poser.at_rest(np.array([pair.truth.left for pair in pairs]))
        at_rest = _errors(job.dataset, rest.joints, truth, rest.vertices)
        errors |= {BASELINE + name: values for name, values in at_rest.items()}
    return errors


@dataclass(frozen=True)
class _TruePoints:
    joints: Floats  # (N, 21, 3), NaN where there are none
    vertices: Floats  # (N, 778, 3), likewise


def _true_points(job: Measurement, poser: HandPoser | None, hands: Sequence[TrueHand]) -> _TruePoints:
    """The labelled joints; the labelled vertices, or those of the labelled parameters."""
    joints = np.array([np.full((21, 3), np.nan) if hand.joints is None else hand.joints for hand in hands])
    vertices = np.full((len(hands), 778, 3), np.nan)
    posed: list[int] = []
    for number, hand in enumerate(hands):
        if not comparable(job, hand):
            continue
        if hand.vertices is not None:
            vertices[number] = hand.vertices
        elif hand.pose is not None:
            posed.append(number)
    if posed and poser is not None:
        pose, betas = (
            np.array([getattr(hands[number], name) for number in posed]) for name in ("pose", "betas")
        )
        made = poser(pose, betas, np.array([hands[number].left for number in posed]))
        vertices[posed] = made.vertices
        lacking = np.isnan(joints[posed]).all(axis=(1, 2))
        joints[np.array(posed)[lacking]] = made.joints[lacking]
    return _TruePoints(joints, vertices)


def _errors(dataset: str, joints: Floats, truth: _TruePoints, vertices: Floats | None) -> dict[str, Floats]:
    """The protocol's errors; meshes are measured where there are true ones."""
    protocol = PROTOCOLS[dataset]
    predicted, true = torch.from_numpy(joints), torch.from_numpy(truth.joints)
    errors = {
        name: value.numpy()
        for name, value in sample_errors(protocol, joints=predicted, true_joints=true).items()
    }
    if vertices is not None:
        meshed = np.flatnonzero(np.isfinite(truth.vertices).all(axis=(1, 2)))
        of_meshes = sample_errors(
            protocol,
            joints=predicted[meshed],
            true_joints=true[meshed],
            vertices=torch.from_numpy(vertices[meshed]),
            true_vertices=torch.from_numpy(truth.vertices[meshed]),
        )
        for name, value in of_meshes.items():
            if name not in errors:
                errors[name] = np.full(len(joints), np.nan)
                errors[name][meshed] = value.numpy()
    if dataset == "dexycb":
        # The paper's table is by the authors' own alignment, not by the toolkit's.
        by_authors = sample_errors(PROTOCOLS["dexycb-paper"], joints=predicted, true_joints=true)
        errors |= {PAPER + name: by_authors[name].numpy() for name in ("mpjpe_mm", "pa_mpjpe_mm")}
    return errors


def metric_names(job: Measurement) -> list[str]:
    """Returns the names of all errors that are measured, in the order of their columns."""
    nothing = np.full((1, 21, 3), np.nan)
    mesh = np.full((1, 778, 3), np.nan)
    truth = _TruePoints(nothing, mesh)
    names = [*_errors(job.dataset, nothing, truth, mesh if job.with_meshes else None)]
    names += ["absolute_mpjpe_mm", "absolute_auc", *PLACEMENT]
    if job.baseline:
        names += [BASELINE + name for name in _errors(job.dataset, nothing, truth, mesh)]
    return names
