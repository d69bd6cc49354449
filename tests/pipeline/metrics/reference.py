"""The evaluations as loops over samples, written from what the benchmarks' own tools are said to do.

Everything in metres until the last line of each; joints in the simple order, where HO-3D's joint 4 is joint 9.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import cKDTree

from pipeline.metrics import Protocol

Points = NDArray[np.float64]


def orthogonal_fit(points: Points, truth: Points, *, unit_m: float) -> Points:
    """FreiHAND, HO-3D and DexYCB's toolkit: SciPy's solution, which may mirror; 1e-8 of their unit is added."""
    centred, true_centred = points - points.mean(0), truth - truth.mean(0)
    norm, true_norm = (np.linalg.norm(part) + 1e-8 * unit_m for part in (centred, true_centred))
    turn, scale = orthogonal_procrustes(true_centred / true_norm, centred / norm)
    return scale * true_norm * (centred / norm) @ turn.T + truth.mean(0)


def proper_fit(points: Points, truth: Points) -> Points:
    """HandOccNet: Kabsch's rotation, never a reflection, then the scale of least squares."""
    centred, true_centred = points - points.mean(0), truth - truth.mean(0)
    left, _, right = np.linalg.svd(centred.T @ true_centred)
    handedness = np.linalg.det(left) * np.linalg.det(right)
    turned = centred @ left @ np.diag([1.0, 1.0, np.sign(handedness)]) @ right
    return turned * np.sum(turned * true_centred) / np.sum(centred**2) + truth.mean(0)


def fit(protocol: Protocol, points: Points, truth: Points) -> Points:
    if protocol.name in ("dexycb-paper", "fpha", "shards"):
        return proper_fit(points, truth)
    return orthogonal_fit(points, truth, unit_m=0.001 if protocol.name == "dexycb" else 1.0)


def scale_translation_fit(joints: Points, truth: Points) -> Points:
    length = np.linalg.norm(joints[9] - joints[0])
    scaled = joints / (length or 1) * np.linalg.norm(truth[9] - truth[0])
    return scaled - scaled[0] + truth[0]


def f_score(points: Points, truth: Points, limit: float) -> float:
    near_truth = np.mean(cKDTree(truth).query(points)[0] < limit)
    near_points = np.mean(cKDTree(points).query(truth)[0] < limit)
    both = near_truth + near_points
    return float(2 * near_truth * near_points / both) if both else 0.0


def area_under_curve(far: Points) -> float:
    """Of distances (N, P): for every point of the hand the share within 100 limits up to 50 mm, by trapezoids."""
    limits = np.linspace(0, 0.05, 100)
    shares = np.array([np.mean(far <= limit, axis=0) for limit in limits])
    return float(np.mean(np.trapezoid(shares, limits, axis=0) / 0.05))


def distances(points: Points, truth: Points) -> Points:
    return np.sqrt(np.sum((points - truth) ** 2, axis=1))


def evaluate(
    protocol: Protocol, joints: Points, true_joints: Points, vertices: Points, true_vertices: Points
) -> tuple[dict[str, Points], dict[str, float]]:
    """Returns the errors (N,) of the samples, and the areas under the curves of all together."""
    far: dict[str, list[Points]] = {}
    errors: dict[str, list[float]] = {}
    for joint, true_joint, vertex, true_vertex in zip(
        joints, true_joints, vertices, true_vertices, strict=True
    ):
        root, true_root = joint[protocol.root], true_joint[protocol.root]
        meshes = {"": vertex - root + true_root, "pa_": fit(protocol, vertex, true_vertex)}
        hands = {"": joint - root + true_root, "pa_": fit(protocol, joint, true_joint)}
        if protocol.scale_bone:
            hands["st_"] = scale_translation_fit(joint, true_joint)
        for prefix, points in hands.items():
            far.setdefault(prefix + "auc", []).append(distances(points, true_joint))
            errors.setdefault(prefix + "mpjpe_mm", []).append(1000 * distances(points, true_joint).mean())
        for prefix, points in meshes.items():
            far.setdefault(prefix + "mesh_auc", []).append(distances(points, true_vertex))
            errors.setdefault(prefix + "mpvpe_mm", []).append(1000 * distances(points, true_vertex).mean())
            for name, limit in (("f5", 0.005), ("f15", 0.015)):
                errors.setdefault(prefix + name, []).append(f_score(points, true_vertex, limit))
    return (
        {name: np.array(values) for name, values in errors.items()},
        {name: area_under_curve(np.array(values)) for name, values in far.items()},
    )
