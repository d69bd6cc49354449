"""What a sample is measured to be, against loops over the benchmarks' descriptions and against geometry."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from pipeline.metrics import PROTOCOLS, MetricSums, Protocol, absolute_errors, sample_errors
from tests.pipeline.metrics.hands import Hands, predicted, true_hands
from tests.pipeline.metrics.reference import Points, area_under_curve, distances, evaluate

every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=list(PROTOCOLS))
# One of each alignment: SciPy's with its bone, root and epsilons, and the authors'.
KINDS = ("ho3d-v2", "freihand", "dexycb", "dexycb-paper")
# The official alignments add 1e-8 m to norms of some 0.3 m: a perfect hand stays this far from the truth.
ALIGNED_MM = 1e-5
MIRROR = np.diag([-1.0, 1.0, 1.0])
TURN = Rotation.from_rotvec([0.5, -1.0, 2.0]).as_matrix()


def measured(protocol: Protocol, prediction: Hands, truth: Hands) -> dict[str, Tensor]:
    return sample_errors(
        protocol,
        joints=prediction.joints,
        true_joints=truth.joints,
        vertices=prediction.vertices,
        true_vertices=truth.vertices,
    )


def looped(protocol: Protocol, prediction: Hands, truth: Hands) -> tuple[dict[str, Points], dict[str, float]]:
    pairs = zip(prediction, truth, strict=True)
    return evaluate(protocol, *(part.numpy() for pair in pairs for part in pair))


def flattened(points: Tensor, dimensions: int) -> Tensor:
    """The points with what they extend beyond some dimensions removed: a plane, a line, a point."""
    mean = points.mean(dim=1, keepdim=True)
    U, size, Vh = torch.linalg.svd(points - mean, full_matrices=False)
    size[:, dimensions:] = 0
    return U * size[:, None] @ Vh + mean


def each(change: Callable[[Tensor], Tensor], hands: Hands) -> Hands:
    return Hands(change(hands.joints), change(hands.vertices))


@every_protocol
@pytest.mark.parametrize("error_m", [0.001, 0.01, 0.05])
def test_errors_equal_the_loops(protocol: Protocol, error_m: float) -> None:
    truth = true_hands(4)
    prediction = predicted(truth, error_m=error_m)
    expected, areas = looped(protocol, prediction, truth)
    errors = measured(protocol, prediction, truth)
    assert set(errors) == {*expected, *areas, "failed"}
    for name, values in expected.items():
        np.testing.assert_allclose(errors[name].numpy(), values, rtol=0, atol=1e-6, err_msg=name)
    for name, area in areas.items():
        assert errors[name].mean().item() == pytest.approx(area, abs=1e-6), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda points: flattened(points, 2), id="in a plane"),
        pytest.param(lambda points: flattened(points, 1), id="on a line"),
        pytest.param(lambda points: points * 1e-5, id="tiny"),
        pytest.param(lambda points: -points, id="mirrored"),
        pytest.param(lambda points: points + 30, id="far away"),
    ],
)
@pytest.mark.parametrize("side", ["prediction", "truth"])
def test_errors_of_degenerate_hands_equal_the_loops(
    kind: str, change: Callable[[Tensor], Tensor], side: str
) -> None:
    truth = true_hands(2)
    prediction = predicted(truth)
    if side == "truth":
        truth = each(change, truth)
    else:
        prediction = each(change, prediction)
    expected, _ = looped(PROTOCOLS[kind], prediction, truth)
    errors = measured(PROTOCOLS[kind], prediction, truth)
    for name, values in expected.items():
        np.testing.assert_allclose(errors[name].numpy(), values, rtol=0, atol=1e-6, err_msg=name)


@every_protocol
def test_a_prediction_that_is_one_point_is_laid_on_the_centroid(protocol: Protocol) -> None:
    truth = true_hands(2)
    errors = measured(protocol, each(torch.zeros_like, truth), truth)
    spread = 1000 * (truth.joints - truth.joints.mean(1, keepdim=True)).norm(dim=-1).mean(1)
    torch.testing.assert_close(errors["pa_mpjpe_mm"], spread, rtol=0, atol=1e-6)
    assert errors["pa_mpvpe_mm"].isfinite().all()


@every_protocol
def test_the_truth_as_prediction_is_without_error(protocol: Protocol) -> None:
    truth = true_hands(4)
    errors = measured(protocol, truth, truth)
    for name, error in errors.items():
        perfect = 0.0 if name == "failed" or name.endswith("_mm") else 1.0
        # Rounding in an alignment misses the first limit of the curve, 0 mm, as in the official tools.
        tolerance = 0.006 if name in ("pa_auc", "pa_mesh_auc") else ALIGNED_MM
        assert error.tolist() == pytest.approx([perfect] * 4, abs=tolerance), name


@every_protocol
def test_a_similarity_motion_changes_only_what_is_not_aligned_by_it(protocol: Protocol) -> None:
    truth = true_hands(4)
    errors = measured(protocol, truth.moved(TURN, np.array([0.1, 0.2, 0.3]), scale=1.3), truth)
    assert errors["mpjpe_mm"].min() > 20
    assert errors["mpvpe_mm"].min() > 20
    assert errors["f5"].max() < 0.6
    assert errors["pa_mpjpe_mm"].max() < ALIGNED_MM
    assert errors["pa_mpvpe_mm"].max() < ALIGNED_MM
    assert errors["pa_f5"].tolist() == [1.0] * 4


@every_protocol
def test_a_shift_changes_absolute_errors_only(protocol: Protocol) -> None:
    truth = true_hands(2)
    shifted = truth.moved(np.eye(3), np.array([0.03, 0.0, 0.04]))
    assert measured(protocol, shifted, truth)["mpjpe_mm"].max() < 1e-9
    absolute = absolute_errors(protocol, joints=shifted.joints, true_joints=truth.joints)
    assert absolute["absolute_mpjpe_mm"].tolist() == pytest.approx([50.0, 50.0])


@pytest.mark.parametrize(
    ("name", "forgiven"),
    [
        ("ho3d-v2", True),
        ("ho3d-v3", True),
        ("freihand", True),
        ("dexycb", True),
        ("dexycb-paper", False),
        ("fpha", False),
        ("shards", False),
    ],
)
def test_the_official_tools_forgive_a_mirrored_hand_and_the_authors_do_not(name: str, forgiven: bool) -> None:
    truth = true_hands(4)
    errors = measured(PROTOCOLS[name], truth.moved(MIRROR @ TURN, np.zeros(3)), truth)
    if forgiven:
        assert errors["pa_mpjpe_mm"].max() < ALIGNED_MM
        assert errors["pa_f5"].tolist() == [1.0] * 4
    else:
        assert errors["pa_mpjpe_mm"].min() > 1
        assert errors["pa_mpvpe_mm"].min() > 1


def test_only_ho3d_aligns_by_the_middle_finger() -> None:
    truth = true_hands(2)
    errors = measured(PROTOCOLS["ho3d-v3"], truth.moved(np.eye(3), np.ones(3), scale=1.7), truth)
    assert errors["st_mpjpe_mm"].max() < 1e-6
    assert "st_mpjpe_mm" not in measured(PROTOCOLS["dexycb"], truth, truth)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_prediction_that_is_no_number_fails_alone(bad: float) -> None:
    truth = true_hands(3)
    prediction = predicted(truth)
    alone = measured(PROTOCOLS["ho3d-v2"], prediction, truth)
    prediction.vertices[1, 100, 2] = bad
    errors = measured(PROTOCOLS["ho3d-v2"], prediction, truth)
    for name, error in errors.items():
        assert torch.equal(error[[0, 2]], alone[name][[0, 2]]), name
        failing = 1.0 if name == "failed" else float("nan") if name.endswith("_mm") else 0.0
        assert error[1].item() == pytest.approx(failing, nan_ok=True), name


def test_joints_without_truth_do_not_count() -> None:
    truth = true_hands(2)
    prediction = predicted(truth)
    valid = torch.ones(2, 21)
    valid[:, [4, 8, 12]] = 0
    seen = valid[0] == 1
    expected = sample_errors(
        PROTOCOLS["shards"], joints=prediction.joints[:, seen], true_joints=truth.joints[:, seen]
    )
    unknown = truth.joints.masked_fill(valid[..., None] == 0, torch.nan)
    for given in (
        {"true_joints": truth.joints, "joint_valid": valid},
        {"true_joints": unknown, "joint_valid": None},
    ):
        errors = sample_errors(PROTOCOLS["shards"], joints=prediction.joints, **given)
        for name, error in errors.items():
            torch.testing.assert_close(error, expected[name], msg=name)


def test_what_the_truth_does_not_allow_is_not_a_number() -> None:
    truth = true_hands(3)
    prediction = predicted(truth)
    valid = torch.ones(3, 21)
    valid[0, 0] = 0  # no root
    valid[1, 2:] = 0  # two joints lie exactly on any two others
    truth.vertices[2] = torch.nan
    errors = sample_errors(
        PROTOCOLS["shards"],
        joints=prediction.joints,
        true_joints=truth.joints,
        vertices=prediction.vertices,
        true_vertices=truth.vertices,
        joint_valid=valid,
    )
    known = {
        **dict.fromkeys(("failed",), (True, True, True)),
        **dict.fromkeys(("mpjpe_mm", "auc"), (False, True, True)),
        **dict.fromkeys(("pa_mpjpe_mm", "pa_auc"), (True, False, True)),
        **dict.fromkeys(("mpvpe_mm", "mesh_auc", "f5", "f15"), (False, True, False)),
        **dict.fromkeys(("pa_mpvpe_mm", "pa_mesh_auc", "pa_f5", "pa_f15"), (True, True, False)),
    }
    assert {name: tuple(error.isfinite().tolist()) for name, error in errors.items()} == known


def test_the_sums_give_the_areas_under_the_official_curves() -> None:
    truth = true_hands(40)
    prediction = predicted(truth, error_m=0.02)
    sums = MetricSums(PROTOCOLS["freihand"])
    for part in (slice(0, 7), slice(7, 40)):
        sums.add(joints=prediction.joints[part], true_joints=truth.joints[part])
    root = PROTOCOLS["freihand"].root
    far = [
        distances(joints - joints[root], true - true[root])
        for joints, true in zip(prediction.joints.numpy(), truth.joints.numpy(), strict=True)
    ]
    result = sums.result()
    assert 0.1 < result["auc"] < 0.9
    assert result["auc"] == pytest.approx(area_under_curve(np.array(far)), abs=1e-9)
    assert result["mpjpe_mm"] == pytest.approx(1000 * np.mean(far), abs=1e-9)
