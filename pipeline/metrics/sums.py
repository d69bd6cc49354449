"""Means over any number of samples, kept as sums."""

import torch
from torch import Tensor

from pipeline.metrics.per_sample import sample_errors
from pipeline.metrics.protocols import Protocol


class MetricSums:
    """The means of what a protocol measures, from batches; those of several workers are merged by sums."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.samples = 0
        # The sum and the number of the samples that have the metric, by its name.
        self._sums: dict[str, tuple[float, int]] = {}

    def add(
        self,
        *,
        joints: Tensor,
        true_joints: Tensor,
        vertices: Tensor | None = None,
        true_vertices: Tensor | None = None,
        joint_valid: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Adds a batch and returns its `sample_errors`, whose arguments these are."""
        errors = sample_errors(
            self.protocol,
            joints=joints,
            true_joints=true_joints,
            vertices=vertices,
            true_vertices=true_vertices,
            joint_valid=joint_valid,
        )
        self.add_errors(errors)
        return errors

    def add_errors(self, errors: dict[str, Tensor]) -> None:
        """Adds the errors of a batch: tensors (N,) by name, NaN where a sample has none."""
        for name, error_N in errors.items():
            total, count = torch.stack((error_N.nansum(), (~error_N.isnan()).sum())).tolist()
            self._add(name, total, int(count))
        self.samples += len(next(iter(errors.values())))

    def merge(self, other: "MetricSums") -> None:
        """Adds what another worker has summed by the same protocol."""
        assert other.protocol == self.protocol
        for name, (total, count) in other._sums.items():
            self._add(name, total, count)
        self.samples += other.samples

    def result(self) -> dict[str, float]:
        """Returns the mean of each metric over the samples that have it, and `samples`, the number of all.

        `failed` is the share of predictions that are not finite: distances are means over the others. A
        metric that no sample has is NaN.
        """
        means = {
            name: total / count if count else float("nan") for name, (total, count) in self._sums.items()
        }
        return {"samples": float(self.samples), **means}

    def _add(self, name: str, total: float, count: int) -> None:
        total_before, count_before = self._sums.get(name, (0.0, 0))
        self._sums[name] = (total_before + total, count_before + count)
