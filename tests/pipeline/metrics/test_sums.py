import pickle

import pytest
import torch

from pipeline.metrics import PROTOCOLS, MetricSums
from tests.pipeline.metrics.hands import Hands, predicted, true_hands


def summed(prediction: Hands, truth: Hands, part: slice) -> MetricSums:
    sums = MetricSums(PROTOCOLS["ho3d-v2"])
    sums.add(
        joints=prediction.joints[part],
        true_joints=truth.joints[part],
        vertices=prediction.vertices[part],
        true_vertices=truth.vertices[part],
    )
    return sums


def test_any_cut_into_workers_gives_the_same_means() -> None:
    truth = true_hands(11)
    prediction = predicted(truth)
    prediction.joints[3] = torch.nan
    together = summed(prediction, truth, slice(0, 11)).result()
    first, *others = (summed(prediction, truth, part) for part in (slice(0, 2), slice(2, 2), slice(2, 11)))
    for other in others:
        first.merge(pickle.loads(pickle.dumps(other)))
    assert first.result() == pytest.approx(together, rel=1e-12)
    assert together["samples"] == 11
    assert together["failed"] == pytest.approx(1 / 11)


def test_a_metric_that_no_sample_has_is_not_a_number() -> None:
    truth = true_hands(2)
    sums = MetricSums(PROTOCOLS["shards"])
    sums.add(joints=truth.joints, true_joints=truth.joints, joint_valid=torch.zeros(2, 21))
    result = sums.result()
    assert result["samples"] == 2
    assert result["mpjpe_mm"] != result["mpjpe_mm"]


def test_half_precision_input_is_measured_in_full() -> None:
    truth = true_hands(3)
    prediction = Hands(*(part.half() for part in predicted(truth)))
    expected = summed(Hands(*(part.double() for part in prediction)), truth, slice(0, 3)).result()
    with torch.autocast("cpu", torch.bfloat16):
        assert summed(prediction, truth, slice(0, 3)).result() == expected
