"""How good a network is on samples that it does not learn from, and what its predictions look like."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.distributed as distributed
from numpy.typing import NDArray

from jobs.training import stream
from jobs.training.task import Task
from model.handoccnet.network import HandOccNet
from model.mano.layer import ManoLayer, wrist_relative
from model.predictor import Predictions, Predictor
from model.rotations import axis_angle_to_rotation
from pipeline import render
from pipeline.metrics import PROTOCOLS, MetricSums
from pipeline.render import Tile
from pipeline.training.samples import TrainingSamples
from pipeline.training.windows import Supervision, TrainingDataError

SHOWN = 12
ENLARGED = 384
BATCH = 32


@dataclass(frozen=True)
class Validation:
    """The metrics over all validation samples, on the first worker a sheet of predictions, and what of its share
    this worker passed over."""

    metrics: Mapping[str, float]
    sheet: NDArray[np.uint8] | None
    skipped: Sequence[str]


def validate(
    task: Task, network: HandOccNet, mano: ManoLayer, device: torch.device, rank: int, world: int
) -> Validation:
    """Measures a network on the validation samples.

    Each worker measures its share; every worker has to come here. Crops as in training, without augmentation.
    """
    predict = Predictor(network, mano, device=str(device), batch_size=BATCH)
    sums = MetricSums(PROTOCOLS["shards"])
    rows: list[list[Tile]] = []
    skipped: list[str] = []
    for read in stream.in_order(task, rank, world):
        samples = read.samples
        skipped += read.skipped
        if not len(samples):
            continue
        predicted = predict(samples.crops, np.zeros(len(samples), np.bool_))
        _measure(sums, samples, predicted, mano, device, task.supervise)
        if rank == 0 and len(rows) < SHOWN:
            shown = range(min(SHOWN - len(rows), len(samples)))
            rows += [_drawn(samples, predicted, index, task.hand_model.faces) for index in shown]
    if world > 1:
        shares: list[Any] = [None] * world
        distributed.all_gather_object(shares, sums)
        sums = MetricSums(PROTOCOLS["shards"])
        for share in shares:
            sums.merge(share)
    if task.validation and not sums.samples:
        why = f"; the first: {skipped[0]}" if skipped else ""
        raise TrainingDataError(f"--validation: not one of its samples can be used{why}")
    sheet = render.sheet(_folded(rows), tile=192) if rows else None
    return Validation(_chosen(sums.result()), sheet, skipped)


def _measure(
    sums: MetricSums,
    samples: TrainingSamples,
    predicted: Predictions,
    mano: ManoLayer,
    device: torch.device,
    supervise: Supervision,
) -> None:
    """Adds what a hand model's own joints and vertices say, where pose and shape are labelled; else the joints.

    supervise: with `joints`, pose and shape may belong to another hand model, and are not asked.
    """
    has_mano = samples.has_mano[:, None, None] & (supervise == "all")
    with torch.inference_mode():
        pose = torch.from_numpy(samples.pose.copy()).to(device)
        posed = mano(axis_angle_to_rotation(pose), torch.from_numpy(samples.betas.copy()).to(device))
        vertices, joints = (points.cpu().numpy() for points in wrist_relative(posed))
    measured = np.where(samples.has_joints_3d[:, None, None], samples.joints_3d, np.nan)
    sums.add(
        joints=torch.from_numpy(predicted.joints),
        true_joints=torch.from_numpy(np.where(has_mano, joints, measured)),
        vertices=torch.from_numpy(predicted.vertices),
        true_vertices=torch.from_numpy(np.where(has_mano, vertices, np.nan)),
    )


def _chosen(result: Mapping[str, float]) -> dict[str, float]:
    names = ("mpjpe_mm", "pa_mpjpe_mm", "mpvpe_mm", "pa_mpvpe_mm", "f5", "f15", "pa_f5", "pa_f15", "samples")
    return {name: result[name] for name in names if name in result}


def _drawn(samples: TrainingSamples, predicted: Predictions, index: int, faces: Any) -> list[Tile]:
    crop = samples.crops[index]
    size = crop.shape[0]
    picture = np.asarray(cv2.resize(crop, (ENLARGED, ENLARGED), interpolation=cv2.INTER_CUBIC), np.uint8)
    # Pixel centres are at integers in the crop and in its enlargement.
    found, truth = (
        (joints[index] * size + 0.5) * ENLARGED / size - 0.5
        for joints in (predicted.joints_2d, samples.joints_2d)
    )
    camera = render.weak_perspective(predicted.joints[index], found)
    vertices = predicted.vertices[index]
    mesh = render.draw_mesh(picture, vertices, camera.project(vertices), faces)
    labelled = render.draw_skeleton(picture, truth, visible=samples.visible[index])
    return [
        Tile(labelled, f"{samples.keys[index]}: label"),
        Tile(render.draw_skeleton(picture, found), "joints"),
        Tile(mesh, "mesh"),
    ]


def _folded(rows: list[list[Tile]]) -> list[list[Tile]]:
    """Two samples beside each other."""
    half = -(-len(rows) // 2)
    return [first + second for first, second in zip(rows[:half], [*rows[half:], []], strict=False)]
