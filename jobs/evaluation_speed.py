"""How fast `handocc evaluate` measures stored annotations, beside a plain loop over the same hands in memory."""

import contextlib
import dataclasses
import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import cKDTree

from jobs import evaluate, planning
from jobs.model_choice import choose_model
from jobs.predictions import BY_EVALUATE, Prediction
from model.mano.synthetic import synthetic_hand
from pipeline.columns import fixed_lists
from pipeline.datasets.shards import to_tar
from pipeline.evaluation.crops import EVALUATION_CROPS
from pipeline.evaluation.hands import HandPoser, Hands
from pipeline.inputs import find_inputs
from pipeline.metrics import PROTOCOLS, sample_errors
from pipeline.metrics.per_sample import F_LIMITS_M
from pipeline.records import ANNOTATIONS, LEDGER, Unit, UnitRecord
from pipeline.sources import webdataset
from pipeline.stages.write import Write

DIFFERENT = 64  # hands; further samples repeat them
PER_SHARD = 1000
PER_SEQUENCE = 250
DATASET: Final = "freihand"  # its alignment is SciPy's
PROTOCOL = PROTOCOLS[DATASET]


@dataclasses.dataclass(frozen=True)
class Timed:
    """How long so many samples took, and the means of what was measured of them."""

    samples: int
    seconds: float
    means: Mapping[str, float]

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self.samples / self.seconds


@dataclasses.dataclass(frozen=True)
class Pairs:
    """True hands and predictions of them: the same hands, bent otherwise; wrist at the origin, metres."""

    truth: Hands
    predicted: Hands


def make_pairs() -> Pairs:
    """Returns the different hands, right ones."""
    rng = np.random.default_rng(0)
    poser, right = HandPoser(synthetic_hand()), np.zeros(DIFFERENT, np.bool_)
    pose, betas = rng.normal(0, 0.4, (DIFFERENT, 16, 3)), rng.normal(0, 1, (DIFFERENT, 10))
    predicted = poser(pose + rng.normal(0, 0.15, pose.shape), betas, right)
    # As Parquet keeps them.
    single = Hands(*(points.astype(np.float32).astype(np.float64) for points in predicted))
    return Pairs(poser(pose, betas, right), single)


def store(pairs: Pairs, folder: Path, count: int) -> tuple[str, str]:
    """Writes `count` labelled samples and their annotations, as `annotate` would; returns where they are.

    Of many shards the plan is made on Ray, which must be connected to.
    """
    shards, output = folder / "shards", str(folder / "annotated")
    shards.mkdir(parents=True)
    labels = _labels(pairs.truth)
    picture = cv2.imencode(".jpg", np.full((32, 32, 3), 128, np.uint8))[1].tobytes()
    for first in range(0, count, PER_SHARD):
        members = []
        for number in range(first, min(first + PER_SHARD, count)):
            label = labels[number % DIFFERENT].replace(b"SEQUENCE", b"%08d" % (number // PER_SEQUENCE))
            members += [(f"{number:08d}.jpg", picture), (f"{number:08d}.json", label)]
        (shards / f"{first:08d}.tar").write_bytes(to_tar(members))
    inputs, _ = find_inputs([str(shards)])
    choice = choose_model("tiny", "random:0", None)
    how = Prediction("fp32", PER_SHARD, None, None, None, None)
    job = dataclasses.replace(how.annotation(choice, EVALUATION_CROPS[DATASET]), vertices=True)
    settled = planning.plan(job, inputs, output, connect=lambda: None)
    planning.describe(output, choice, job, settled, inputs, BY_EVALUATE)
    write = Write(output, meshes="none", vertices=True, metadata=job.metadata, faces={})
    for unit in settled.units:
        write(_annotated(unit, pairs.predicted))
    return str(shards), output


def _labels(truth: Hands) -> list[bytes]:
    """The labels of the different hands; SEQUENCE stands for the name of a sequence."""
    wrist = np.array([0.0, 0.0, 0.6])
    about = {"dataset": DATASET, "sequence": "SEQUENCE", "hand_model": synthetic_hand().name}
    box = {"bbox": [4, 4, 24, 24], "side": "right"}
    rng = np.random.default_rng(1)
    return [
        json.dumps(
            {
                **about,
                "hands": [
                    {
                        **box,
                        "joints_3d": (joints + wrist).tolist(),
                        "vertices": np.round(vertices + wrist, 7).tolist(),
                        "visible": (rng.random(21) < 0.7).astype(int).tolist(),
                    }
                ],
            }
        ).encode()
        for joints, vertices in zip(*truth, strict=True)
    ]


def _annotated(unit: Unit, predicted: Hands) -> UnitRecord:
    """A unit as it leaves the network."""
    keys = [sample.key for sample in webdataset.read_as_named(unit)]
    places = np.array([int(key) % DIFFERENT for key in keys])
    row = {"source": unit.input, "hand_index": 0, "side": "right", "side_source": "given"}
    row |= {"image_width": 32, "image_height": 32, "bbox": [4.0, 4.0, 24.0, 24.0], "bbox_source": "given"}
    row["confidence"] = 0.5
    arrays = []
    for field in ANNOTATIONS:
        if field.name in ("joints", "vertices"):
            arrays.append(fixed_lists(getattr(predicted, field.name)[places], field.type))
        elif field.name == "key":
            arrays.append(pa.array(keys))
        elif field.name == "instance_id":
            arrays.append(pa.array([f"{unit.input}#{key}#0" for key in keys]))
        elif field.name in row or field.nullable:
            arrays.append(pa.array([row.get(field.name)] * len(keys), field.type))
        else:
            arrays.append(_zeros(len(keys), field.type))
    ledger = [{"source": unit.input, "key": key, "hand_index": 0, "status": "annotated"} for key in keys]
    return UnitRecord(
        unit,
        ledger=pa.Table.from_pylist(ledger, LEDGER),
        hands=pa.Table.from_arrays(arrays, schema=ANNOTATIONS),
    )


def _zeros(count: int, kind: pa.DataType) -> pa.Array:
    numbers = count
    inner = kind
    while pa.types.is_fixed_size_list(inner):
        numbers *= inner.list_size
        inner = inner.value_type
    return fixed_lists(np.zeros(numbers), kind)


def of_command(shards: str, annotated: str, folder: Path, address: str | None) -> Timed:
    """Times `handocc evaluate` on stored annotations."""
    options = evaluate.Options(
        data=(shards,), dataset=DATASET, output=str(folder), predictions=annotated, worst=0, address=address
    )
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        evaluate.run(options)
    seconds = time.perf_counter() - started
    metrics = json.loads((folder / "metrics.json").read_text())
    means = {name: row["mean"] for name, row in metrics["metrics"].items()}
    return Timed(metrics["hands"]["measured"], seconds, means)


def of_batches(pairs: Pairs, count: int) -> Timed:
    """Times the metrics alone, on one thread; `count` is rounded up to a multiple of the different hands."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    joints, vertices = map(torch.from_numpy, pairs.predicted)
    true_joints, true_vertices = map(torch.from_numpy, pairs.truth)
    rounds = -(-count // DIFFERENT)
    started = time.perf_counter()
    for _ in range(rounds):
        errors = sample_errors(
            PROTOCOL, joints=joints, true_joints=true_joints, vertices=vertices, true_vertices=true_vertices
        )
    seconds = time.perf_counter() - started
    torch.set_num_threads(threads)
    means = {name: float(error.mean()) for name, error in errors.items()}
    return Timed(rounds * DIFFERENT, seconds, means)


def of_loop(pairs: Pairs, count: int) -> Timed:
    """Times a plain loop; `count` is rounded up as in `of_batches`."""
    rounds = -(-count // DIFFERENT)
    started = time.perf_counter()
    for _ in range(rounds):
        rows = [_errors_of_one(*of_one) for of_one in zip(*pairs.predicted, *pairs.truth, strict=True)]
    seconds = time.perf_counter() - started
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return Timed(rounds * DIFFERENT, seconds, means)


Points = NDArray[np.float64]


def _errors_of_one(
    joints: Points, vertices: Points, true_joints: Points, true_vertices: Points
) -> Mapping[str, float]:
    """What FreiHAND's protocol measures of one hand, written as one writes it for one hand."""
    root, true_root = joints[PROTOCOL.root], true_joints[PROTOCOL.root]
    tree = cKDTree(true_vertices)
    errors: dict[str, float] = {}
    for prefix, hand, mesh in (
        ("", joints - root + true_root, vertices - root + true_root),
        ("pa_", _aligned(joints, true_joints), _aligned(vertices, true_vertices)),
    ):
        for name, area, points, truth in (
            ("mpjpe_mm", "auc", hand, true_joints),
            ("mpvpe_mm", "mesh_auc", mesh, true_vertices),
        ):
            far_mm = 1000 * np.linalg.norm(points - truth, axis=1)
            errors[prefix + name], errors[prefix + area] = float(far_mm.mean()), _area(far_mm)
        to_truth, to_points = tree.query(mesh)[0], cKDTree(mesh).query(true_vertices)[0]
        for name, limit in F_LIMITS_M.items():
            shares = float(np.mean(to_truth < limit)), float(np.mean(to_points < limit))
            errors[prefix + name] = 2 * shares[0] * shares[1] / sum(shares) if sum(shares) else 0.0
    return errors


def _aligned(points: Points, truth: Points) -> Points:
    centred, true_centred = points - points.mean(0), truth - truth.mean(0)
    norm, true_norm = (float(np.linalg.norm(part)) + PROTOCOL.epsilon for part in (centred, true_centred))
    turn, scale = orthogonal_procrustes(true_centred / true_norm, centred / norm)
    aligned: Points = scale * true_norm * (centred / norm) @ turn.T + truth.mean(0)
    return aligned


def _area(far_mm: Points) -> float:
    limits = np.linspace(0, PROTOCOL.auc_limit_mm, PROTOCOL.auc_steps)
    shares: Sequence[Any] = (far_mm[:, None] <= limits).mean(0)
    return float(np.trapezoid(shares, limits) / PROTOCOL.auc_limit_mm)
