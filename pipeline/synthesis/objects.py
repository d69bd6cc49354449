"""Things that hands hold or that stand before them: boxes, mugs, bottles, balls, rods, cards, cut-outs."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.synthesis.surfaces import Surface, grid_faces, join_faces, unit
from pipeline.synthesis.textures import pattern

Floats = NDArray[np.floating]
Patches = list[Floats]  # each (R, C, 3): a grid of points that is smooth inside and sharp at its border

SEGMENTS = 24


def random_object(rng: np.random.Generator) -> Surface:
    """An object of random kind, size and material, its centre at 0 and its long axis along y; metres."""
    patches = SHAPES[rng.choice(list(SHAPES))](rng)
    normals = [_patch_normals(patch) for patch in patches]
    repeat = rng.uniform(0.5, 2.0, 2)
    uv = [
        np.stack(np.meshgrid(np.linspace(0, 1, patch.shape[1]), np.linspace(0, 1, patch.shape[0])), axis=-1)
        for patch in patches
    ]
    counts = [patch.shape[0] * patch.shape[1] for patch in patches]
    vertices = np.concatenate([patch.reshape(-1, 3) for patch in patches])
    return Surface(
        vertices=vertices,
        normals=np.concatenate([normal.reshape(-1, 3) for normal in normals]),
        faces=join_faces(counts, [grid_faces(*patch.shape[:2]) for patch in patches]),
        uv=np.concatenate([grid.reshape(-1, 2) for grid in uv]) * repeat,
        colours=np.ones_like(vertices),
        texture=pattern(rng),
        specular=float(rng.choice([0.0, 0.1, 0.5], p=[0.4, 0.35, 0.25])),
        shininess=float(rng.uniform(8, 80)),
    )


def _box(rng: np.random.Generator) -> Patches:
    return _cuboid(rng.uniform(0.02, 0.05), rng.uniform(0.03, 0.10), rng.uniform(0.015, 0.04))


def _card(rng: np.random.Generator) -> Patches:
    return _cuboid(rng.uniform(0.025, 0.06), rng.uniform(0.04, 0.09), rng.uniform(0.0005, 0.006))


def _can(rng: np.random.Generator) -> Patches:
    radius, half = rng.uniform(0.02, 0.045), rng.uniform(0.03, 0.10)
    return _revolved(
        [(1e-4, -half), (radius, -half)], [(radius, -half), (radius, half)], [(radius, half), (1e-4, half)]
    )


def _mug(rng: np.random.Generator) -> Patches:
    """An open cup with an inside and, at its side, half a ring."""
    radius, half, wall = rng.uniform(0.03, 0.045), rng.uniform(0.035, 0.055), 0.003
    cup = _revolved(
        [(1e-4, -half), (radius, -half)],
        [(radius, -half), (radius, half)],
        [(radius, half), (radius - wall, half)],
        [(radius - wall, half), (radius - wall, wall - half), (1e-4, wall - half)],
    )
    turn = np.linspace(-np.pi / 2, np.pi / 2, SEGMENTS // 2)
    handle = _tube(radius * np.array([1.0, 0, 0]) + 0.6 * half * _ring(turn), 0.006)
    return [*cup, handle]


def _bottle(rng: np.random.Generator) -> Patches:
    radius, half = rng.uniform(0.025, 0.04), rng.uniform(0.08, 0.12)
    neck, shoulder = radius * rng.uniform(0.25, 0.5), half * rng.uniform(0.1, 0.5)
    drop = np.linspace(0, np.pi, 8)
    shoulders = list(
        zip(neck + (radius - neck) * (1 + np.cos(drop)) / 2, shoulder + drop / np.pi * 0.04, strict=True)
    )
    top = shoulders[-1][1]
    body = [(1e-4, -half), (radius, -half)], [(radius, -half), *shoulders, (neck, max(half, top + 0.01))]
    lid = [(neck * 1.2, max(half, top + 0.01) - 0.01), (neck * 1.2, max(half, top + 0.01) + 0.01)]
    return _revolved(*body, lid, [lid[-1], (1e-4, lid[-1][1])])


def _ball(rng: np.random.Generator) -> Patches:
    return _spheroid(np.full(3, rng.uniform(0.02, 0.06)))


def _ellipsoid(rng: np.random.Generator) -> Patches:
    return _spheroid(rng.uniform(0.015, 0.06, 3))


def _lump(rng: np.random.Generator) -> Patches:
    """A fruit-like or stone-like body: an ellipsoid with waves on it."""
    (grid,) = _spheroid(rng.uniform(0.025, 0.05, 3))
    waves = rng.normal(0, 45, (3, 3))
    bumps = np.sin(grid @ waves.T + rng.uniform(0, 6, 3)).sum(axis=-1, keepdims=True)
    return [grid * (1 + rng.uniform(0.02, 0.09) * bumps)]


def _torus(rng: np.random.Generator) -> Patches:
    ring = _ring(np.linspace(0, 2 * np.pi, SEGMENTS + 1)) * rng.uniform(0.025, 0.06)
    return [_tube(ring, rng.uniform(0.006, 0.018))]


def _rod(rng: np.random.Generator) -> Patches:
    """A pen, a stick, a tool's handle: thin, with a pointed or a blunt end."""
    radius, half = rng.uniform(0.003, 0.014), rng.uniform(0.06, 0.14)
    tip = half + radius * rng.uniform(0, 4)
    return _revolved(
        [(1e-4, -half), (radius, -half)], [(radius, -half), (radius, half)], [(radius, half), (1e-4, tip)]
    )


def _bowl(rng: np.random.Generator) -> Patches:
    turn = np.linspace(0.05, np.pi / 2, 8)
    radius = rng.uniform(0.03, 0.07)
    profile = np.stack([np.sin(turn), -np.cos(turn) * rng.uniform(0.4, 1.0)], axis=1) * radius
    return _revolved([tuple(point) for point in profile], [tuple(point) for point in profile * 0.93])


def _cut_out(rng: np.random.Generator) -> Patches:
    """A flat, jagged or leaf-like piece."""
    spokes = int(rng.integers(4, 13))
    reach = rng.uniform(0.3, 1.0, spokes) * rng.uniform(0.03, 0.08)
    turn = np.linspace(0, 2 * np.pi, spokes + 1)
    rim = (
        np.stack([np.cos(turn), np.sin(turn), np.zeros_like(turn)], axis=1)
        * np.append(reach, reach[0])[:, None]
    )
    return [np.stack([rim * 1e-3, rim])]


SHAPES: dict[str, Callable[[np.random.Generator], Patches]] = {
    "box": _box,
    "card": _card,
    "can": _can,
    "mug": _mug,
    "bottle": _bottle,
    "ball": _ball,
    "ellipsoid": _ellipsoid,
    "lump": _lump,
    "torus": _torus,
    "rod": _rod,
    "bowl": _bowl,
    "cut_out": _cut_out,
}


def _cuboid(half_x: float, half_y: float, half_z: float) -> Patches:
    square = np.array([[[-1.0, -1, 1], [1, -1, 1]], [[-1, 1, 1], [1, 1, 1]]])
    half = np.array([half_x, half_y, half_z])
    return [np.roll(square * (1, 1, side), shift, axis=-1) * half for side in (-1, 1) for shift in range(3)]


def _revolved(*profiles: list[tuple[float, float]]) -> Patches:
    """Turn (radius, height) profiles about the y axis, each into a patch of its own."""
    turn = np.linspace(0, 2 * np.pi, SEGMENTS + 1)
    around = np.stack([np.cos(turn), np.zeros_like(turn), np.sin(turn)], axis=1)
    patches = []
    for profile in profiles:
        radius, height = np.array(profile).T
        patches.append(radius[:, None, None] * around + height[:, None, None] * np.array([0.0, 1.0, 0.0]))
    return patches


def _spheroid(radii: Floats) -> Patches:
    turn = np.linspace(0.01, np.pi - 0.01, SEGMENTS // 2)
    (grid,) = _revolved(list(zip(np.sin(turn), -np.cos(turn), strict=True)))
    return [grid * radii]


def _ring(turn: Floats) -> Floats:
    """Points of the unit circle in the x-y plane."""
    return np.stack([np.cos(turn), np.sin(turn), np.zeros_like(turn)], axis=1)


def _tube(path: Floats, radius: float) -> Floats:
    """A pipe around a path that lies in the x-y plane."""
    tangent = unit(np.gradient(path, axis=0))
    upright = np.array([0.0, 0.0, 1.0])
    beside = np.cross(tangent, upright)
    turn = np.linspace(0, 2 * np.pi, 13)
    around = np.cos(turn)[:, None] * beside[:, None] + np.sin(turn)[:, None] * upright
    tube: Floats = path[:, None] + radius * around
    return tube


def _patch_normals(patch: Floats) -> Floats:
    """(R, C, 3) from the grid's own directions; a patch that closes on itself is smooth across the seam."""
    along = np.gradient(patch, axis=0)
    around = np.gradient(patch, axis=1)
    if patch.shape[1] > 2 and np.allclose(patch[:, 0], patch[:, -1]):
        seam = patch[:, 1] - patch[:, -2]
        around[:, 0] = around[:, -1] = seam
    return unit(np.cross(along, around))
