"""What a run leaves for people: metrics.jsonl, TensorBoard logs, weights, and pictures of its predictions."""

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from jobs.training.checkpoints import SCORE
from jobs.training.task import Task
from model.weights import save_weights
from pipeline import storage

SAY_EVERY_S = 15.0


class Journal:
    """Kept by the first worker. Its state lies in every checkpoint, so that a resumed run has no line twice."""

    def __init__(self, task: Task, state: Mapping[str, Any] | None) -> None:
        self._task = task
        self._rows: list[dict[str, Any]] = []
        self._sums: dict[str, float] = {}
        self._steps = 0
        self._seconds = self._waited = 0.0
        self._said = time.monotonic()
        self._logs = tempfile.TemporaryDirectory()
        self._board = SummaryWriter(self._logs.name)
        if state is not None:
            for row in state["rows"]:
                self._note(row)
            self._sums, self._steps = dict(state["sums"]), state["steps"]
            self._seconds, self._waited = state["seconds"], state["waited"]

    def state(self) -> dict[str, Any]:
        """All that a journal needs to go on from here, as JSON values."""
        begun = {"sums": self._sums, "steps": self._steps, "seconds": self._seconds, "waited": self._waited}
        return {"rows": self._rows, **begun}

    def step(
        self, done: int, values: Mapping[str, float], rate: float, *, seconds: float, waited: float
    ) -> None:
        """Notes one step: its loss terms and the like, learning rate, seconds, and those spent waiting for data."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._steps += 1
        self._seconds += seconds
        self._waited += waited
        if done % self._task.log_steps and done != self._task.last_step:
            return
        row = {"step": done, "epoch": (done - 1) // self._task.order.steps, "learning_rate": rate}
        row["samples_per_second"] = round(self._steps * self._task.order.batch / self._seconds, 2)
        row["waited_for_data"] = round(self._waited / self._seconds, 3)
        row |= {name: total / self._steps for name, total in self._sums.items()}
        self._note(row)
        self._sums, self._steps, self._seconds, self._waited = {}, 0, 0.0, 0.0

    def epoch(self, done: int, epoch: float, metrics: Mapping[str, float]) -> None:
        """Notes a validation."""
        if metrics:
            self._note({"step": done, "epoch": epoch, **{f"validation/{k}": v for k, v in metrics.items()}})

    def _note(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        for name, value in row.items():
            if name not in ("step", "epoch"):
                self._board.add_scalar(name, value, row["step"])

    def line(self) -> str | None:
        """Says how far the run is, now and then."""
        last = next((row for row in reversed(self._rows) if "loss/total" in row), None)
        if last is None or time.monotonic() - self._said < SAY_EVERY_S:
            return None
        self._said = time.monotonic()
        left_s = (self._task.last_step - last["step"]) * self._task.order.batch / last["samples_per_second"]
        terms = ", ".join(
            f"{k.removeprefix('loss/')} {v:.3g}" for k, v in last.items() if k.startswith("loss/")
        )
        return (
            f"step {last['step']}/{self._task.last_step}, epoch {last['epoch'] + 1}/{self._task.epochs}: {terms}; "
            f"{last['samples_per_second']:.1f} samples/s ({last['waited_for_data']:.0%} waiting for data), "
            f"{_duration(left_s)} left"
        )

    def epoch_line(self, epoch: float, metrics: Mapping[str, float]) -> str:
        """Says what a validation found."""
        found = ", ".join(f"{name} {value:.3g}" for name, value in metrics.items())
        return f"after epoch {epoch:.3g}: {found or 'no --validation, nothing was measured'}"

    def pictures(self, done: int, sheet: NDArray[np.uint8] | None) -> None:
        """Keeps the drawn predictions on the fixed validation samples."""
        if sheet is None:
            return
        written, data = cv2.imencode(".jpg", sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
        assert written, "OpenCV could not encode a picture of our own"
        storage.put(storage.join(self._task.output, "pictures", f"step-{done:08d}.jpg"), data.tobytes())

    def publish(self, network: nn.Module, done: int) -> None:
        """Puts everything where people look for it, as it stands at the checkpoint of so many steps."""
        output = self._task.output
        # The untrained network is measured, but kept by nothing.
        validations = [row for row in self._rows if f"validation/{SCORE}" in row and row["step"]]
        measured = validations[-1] if validations and validations[-1]["step"] == done else {}
        notes = self._task.notes | {"step": str(done)}
        notes |= {
            name.replace("/", " "): f"{value:.4g}"
            for name, value in measured.items()
            if name.startswith("validation/")
        }
        weights = save_weights(
            network,
            self._task.config,
            hand_model_name=self._task.hand_model.name,
            notes=notes,
            half=self._task.half,
        )
        storage.put(storage.join(output, "weights", "last.safetensors"), weights)
        scores = [row[f"validation/{SCORE}"] for row in validations]
        if measured and scores[-1] <= min(scores):
            storage.put(storage.join(output, "weights", "best.safetensors"), weights)
        self._publish_logs()
        text = "".join(json.dumps(row) + "\n" for row in self._rows)
        storage.put(storage.join(output, "metrics.jsonl"), text.encode())

    def _publish_logs(self) -> None:
        """Puts the TensorBoard logs, in place of those of the time before the run was resumed, which they hold."""
        self._board.flush()
        folder = storage.join(self._task.output, "tensorboard")
        earlier = {file.uri for file in storage.list_files(folder)}
        for file in Path(self._logs.name).iterdir():
            uri = storage.join(folder, file.name)
            storage.put(uri, file.read_bytes())
            earlier.discard(uri)
        for uri in earlier:
            storage.delete(uri)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
