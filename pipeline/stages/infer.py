"""The second stage: holds the model and turns crops into annotations."""

import socket
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from model.crop import joints_to_image
from model.mano.asset import HandModel
from model.mano.layer import ManoLayer
from model.predictor import Precision, Predictions, Predictor
from model.weights import LoadedWeights
from pipeline.columns import fixed_lists
from pipeline.errors import ConfigError, DataError, Interrupted
from pipeline.records import ANNOTATIONS, HANDS, Counts, UnitRecord, no_crops


class Infer:
    """Runs the predictor over a unit's crops; a hand whose numbers are not finite is rejected."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def __call__(self, record: UnitRecord) -> UnitRecord:
        started = time.perf_counter()
        size = record.crops.shape[1]
        annotations, ledger = ANNOTATIONS.empty_table(), record.ledger
        if record.hands.num_rows:
            mirrored = record.hands.column("mirrored").to_numpy()
            predictions = self._predict(record.crops, mirrored)
            finite = predictions.finite()
            annotations = annotate(record.hands, predictions, size).filter(pa.array(finite))
            ledger = _reject(ledger, record.hands.column("ledger_row").to_numpy()[~finite])
        done = replace(
            record, hands=annotations, ledger=ledger, crops=no_crops(size), counts=Counts.of_ledger(ledger)
        )
        return done.timed("infer", time.perf_counter() - started)

    def _predict(self, crops: NDArray[np.uint8], mirrored: NDArray[np.bool_]) -> Predictions:
        try:
            return self.predictor(crops, mirrored)
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"a GPU's memory does not hold a batch of {self.predictor.batch_size} crops: lower --batch-size"
            ) from error
        except torch.AcceleratorError as error:
            # A broken device, which a run on other machines will not have.
            raise Interrupted(
                f"the accelerator of {socket.gethostname()} failed: {str(error).splitlines()[0]}"
            ) from error


def make_infer(
    weights: LoadedWeights,
    hand_model: HandModel,
    *,
    device: str,
    precision: Precision,
    batch_size: int,
    threads: int,
    tta: bool,
) -> Infer:
    """Builds the stage that holds the model, in the worker where it will run."""
    torch.set_num_threads(threads)
    layer = ManoLayer(hand_model)
    predictor = Predictor(
        weights.network, layer, device=device, precision=precision, batch_size=batch_size, tta=tta
    )
    return Infer(predictor)


def annotate(hands: pa.Table, predictions: Predictions, crop_size: int) -> pa.Table:
    """Joins what is known of each hand with what was predicted; returns an ANNOTATIONS table."""
    in_crop = predictions.joints_2d * crop_size
    affines = np.array(hands.column("crop_to_image").to_pylist(), np.float64).reshape(-1, 2, 3)
    joints_2d = np.stack(
        [joints_to_image(joints, affine) for joints, affine in zip(in_crop, affines, strict=True)]
    )
    columns: dict[str, NDArray[Any]] = {
        "global_orient": predictions.global_orient,
        "hand_pose": predictions.hand_pose,
        "betas": predictions.betas,
        "joints": predictions.joints,
        "joints_2d": joints_2d,
        "vertices": predictions.vertices,
        "confidence": predictions.confidence,
        "joint_confidence": predictions.joint_confidence,
        "heatmap_entropy": predictions.heatmap_entropy,
    }
    optional = ("predicted_error_mm", "predicted_joint_errors_mm", "flip_error_mm", "shift_error_mm")
    columns |= {name: values for name in optional if (values := getattr(predictions, name)) is not None}
    arrays = []
    for item in ANNOTATIONS:
        if item.name in columns and pa.types.is_list(item.type):
            arrays.append(pa.array(list(columns[item.name]), item.type))
        elif item.name in columns:
            arrays.append(fixed_lists(columns[item.name], item.type))
        elif item.name in HANDS.names:
            arrays.append(hands.column(item.name).combine_chunks())
        else:
            arrays.append(pa.nulls(hands.num_rows, item.type))
    return pa.Table.from_arrays(arrays, schema=ANNOTATIONS)


def _reject(ledger: pa.Table, rows: NDArray[np.int32]) -> pa.Table:
    if not len(rows):
        return ledger
    entries = ledger.to_pylist()
    for row in rows:
        reason = str(DataError("non-finite prediction", "the network gave NaN or infinity for this crop"))
        entries[row] |= {"status": "rejected", "stage": "infer", "reason": reason}
    return pa.Table.from_pylist(entries, schema=ledger.schema)
