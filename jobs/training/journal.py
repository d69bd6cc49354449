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

from jobs.training.task import Task
from model.weights import save_weights
from pipeline import storage

SAY_EVERY_S = 15.0
SCORE = "pa_mpjpe_mm"  # what the best weights are best by


class Journal:
    """Kept by the first worker. Its text lies in every checkpoint, so that a resumed run has no line twice."""

    def __init__(self, task: Task, text: str) -> None:
        self._task = task
        self._rows: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
        self._sums: dict[str, float] = {}
        self._steps = 0
        self._seconds = 0.0
        self._said = time.monotonic()
        self._logs = tempfile.TemporaryDirectory()
        self._board = SummaryWriter(self._logs.name)

    def text(self) -> str:
        """The rows as JSON lines."""
        return "".join(json.dumps(row) + "\n" for row in self._rows)

    def step(self, done: int, epoch: int, values: Mapping[str, float], rate: float, seconds: float) -> None:
        """Notes one step: its loss terms, learning rate, and the seconds it took."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._steps += 1
        self._seconds += seconds
        if done % self._task.log_steps and done != self._task.last_step:
            return
        batch = self._task.lanes * self._task.micro_batch
        row = {"step": done, "epoch": epoch, "learning_rate": rate}
        row["samples_per_second"] = round(self._steps * batch / self._seconds, 2)
        row |= {f"loss/{name}": total / self._steps for name, total in self._sums.items()}
        self._note(row)
        self._sums, self._steps, self._seconds = {}, 0, 0.0

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
        left = (self._task.last_step - last["step"]) * self._task.order.batch / last["samples_per_second"]
        terms = ", ".join(
            f"{k.removeprefix('loss/')} {v:.3g}" for k, v in last.items() if k.startswith("loss/")
        )
        return (
            f"step {last['step']}/{self._task.last_step}, epoch {last['epoch'] + 1}/{self._task.epochs}: {terms}; "
            f"{last['samples_per_second']:.1f} samples/s, {left / 60:.0f} min left"
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

    def publish(self, network: nn.Module, metrics: Mapping[str, float]) -> None:
        """Puts everything where people look for it, beside the checkpoint that was just committed."""
        output = self._task.output
        self._board.flush()
        for file in Path(self._logs.name).iterdir():
            storage.put(storage.join(output, "tensorboard", file.name), file.read_bytes())
        scores = [row[f"validation/{SCORE}"] for row in self._rows if f"validation/{SCORE}" in row]
        notes = self._task.notes | {f"validation {name}": f"{value:.4g}" for name, value in metrics.items()}
        weights = save_weights(
            network, self._task.config, hand_model_name=self._task.hand_model.name, notes=notes
        )
        storage.put(storage.join(output, "weights", "last.safetensors"), weights)
        if metrics.get(SCORE, float("inf")) <= min(scores, default=float("inf")) and metrics:
            storage.put(storage.join(output, "weights", "best.safetensors"), weights)
        storage.put(storage.join(output, "metrics.jsonl"), self.text().encode())
