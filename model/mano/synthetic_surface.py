"""The skin of the procedural hand: 778 vertices laid over its body in rings, and the faces between them.

The mesh is a tube from the wrist (rows of 16 vertices) that splits beyond the middle of the palm into rows of 28 and
then into four finger tubes of 10; the thumb's tube leaves a hole in the side of the 16-rows. Every ring runs from the
thumb side over the back of the hand to the little finger's side and back over the palm.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.mano.joints import FINGERTIP_VERTICES
from model.mano.synthetic_body import body_distance, body_gradient, finger_distance, profile
from model.mano.synthetic_skeleton import FINGERS, MM, Array, Finger, fingers, from_wrist

Indices = NDArray[np.int64]

_RING: Final = 10  # vertices around a finger: one on each side, four above, four below
_ROW: Final = ("index", "middle", "ring", "little")

# Stations of a finger's rings beyond the web: (bone, share of its length). The last ring sits on the round tip.
_TIP_RINGS: Final = ((2, 0.13), (2, 0.42), (2, 0.70), (2, 0.90))
_STATIONS: Final = {
    "thumb": ((0, 0.98), (1, 0.15), (1, 0.38), (1, 0.62), (1, 0.86), *_TIP_RINGS),
    "index": ((0, 0.67), (0, 0.81), (0, 0.94), (1, 0.10), (1, 0.48), (1, 0.85), *_TIP_RINGS),
    "middle": ((0, 0.65), (0, 0.79), (0, 0.92), (1, 0.09), (1, 0.37), (1, 0.64), (1, 0.88), *_TIP_RINGS),
    "ring": ((0, 0.67), (0, 0.81), (0, 0.94), (1, 0.10), (1, 0.48), (1, 0.85), *_TIP_RINGS),
    "little": ((0, 0.70), (0, 0.82), (0, 0.94), (1, 0.13), (1, 0.50), (1, 0.84), *_TIP_RINGS),
}
_THUMB_ROOT_RINGS: Final = 2  # between the hole in the palm and the thumb's first ring above

# Rows of 28: distances along the fingers (for a first bone of 45 mm) from the web back into the palm. Millimetres.
_KNUCKLE_ROWS: Final = (-25.0, -14.0, -4.0, 7.0, 18.5)
# Rows of 16: thumb-side end and little-side end as (distal, dorsal, radial) of the wrist, and half the thickness.
_PALM_ROWS: Final = (
    ((-1, -2, 28), (-1, -4, -29), 17),
    ((18, -6, 34), (15, -7, -32), 17),
    ((30, -8, 31), (25, -8, -37), 17),
    ((42, -9, 33), (34, -8, -41), 16),
    ((58, -17, 43), (43, -8, -43), 15),
    ((69, -12.0, 40.0), (51, -7, -44), 14),
)
# Where the first two rows of 28 begin, on the edge of the first web.
_WEB_EDGE: Final = ((77, -10, 39.5), (85, -7, 38.5))
_WRIST_EDGE: Final = -16.0  # where the skin ends, distal of the wrist
_THUMB_ROWS: Final = (2, 5)  # the rows between which the thumb leaves
_RELAXATIONS: Final = 24


@dataclass(frozen=True)
class Skin:
    """The mesh at rest, and which vertices make the rings of each finger."""

    vertices: Array  # (778, 3)
    faces: Indices  # (1538, 3), counter-clockwise from outside
    rings: dict[str, Indices]  # (R, 10) by finger, from its root loop to the tip
    tips: dict[str, int]
    wrist: Indices  # (16,), the open edge


class _Builder:
    """Collects vertices and quads; a vertex is named by the number under which it was added."""

    def __init__(self) -> None:
        self.points: list[Array] = []
        self.held: list[bool] = []
        self.quads: list[list[int]] = []
        self.triangles: list[list[int]] = []

    def add(self, points: Array, *, held: bool = False) -> Indices:
        first = len(self.points)
        self.points.extend(points)
        self.held.extend([held] * len(points))
        return np.arange(first, len(self.points))

    def join(self, ring: Indices, following: Indices) -> None:
        """Quads between two rings of equal length; negative entries leave a hole."""
        for a, b, c, d in zip(ring, np.roll(ring, -1), np.roll(following, -1), following, strict=True):
            if min(a, b, c, d) >= 0:
                self.quads.append([a, b, c, d])


def _ring_directions(finger: Finger) -> Array:
    # The thumb's rings start 1.5 steps nearer to its nail: its nail looks sideways, its root loop does not.
    turn = 1.5 if finger.name == "thumb" else 0.0
    angles = (np.arange(_RING) + turn) * 2 * np.pi / _RING
    return np.cos(angles)[:, None] * finger.radial + np.sin(angles)[:, None] * finger.dorsal


def _cast(centre: Array, directions: Array, distance_to: Callable[[Array], Array]) -> Array:
    """Where rays from inside a body first leave it, (N, 3)."""
    reach = np.linspace(0, 45 * MM, 136)
    rays = centre + reach[:, None, None] * directions
    distance = distance_to(rays.reshape(-1, 3)).reshape(len(reach), len(directions))
    last = np.argmax(distance > 0, axis=0)
    assert last.all(), "a ray starts outside the body, or never leaves it"
    column = np.arange(len(directions))
    inside, outside = distance[last - 1, column], distance[last, column]
    length = reach[last - 1] + inside / (inside - outside) * reach[1]
    return np.asarray(centre + length[:, None] * directions)


def _finger_ring(finger: Finger, s: float) -> Array:
    """The ring (10, 3) around a finger's own body at distance s along its axis."""
    _, above, below = profile(finger, np.array(s))
    centre = finger.point(np.array(s)) + (above - below) / 2 * finger.dorsal
    return _cast(centre, _ring_directions(finger), lambda points: finger_distance(finger, points))


def _wrist_ring() -> Array:
    """The open edge (16, 3), square to the forearm."""
    angles = np.arange(16) * 2 * np.pi / 16
    directions = np.stack([0 * angles, np.sin(angles), np.cos(angles)], axis=-1)
    return _cast(
        from_wrist(np.array([_WRIST_EDGE, 0, 0]) * MM), directions, lambda points: body_distance(points, ())
    )


def _knuckle_row(s_mm: float) -> tuple[Array, Array]:
    """A row of 28 across the four fingers, near the skin, and the three points between neighbours."""
    total, weight = np.zeros((28, 3)), np.zeros((28, 1))
    sides = []
    for place, name in enumerate(_ROW):
        finger = fingers()[name]
        s = np.array(s_mm * MM * finger.lengths[0] / (45 * MM))
        width, above, below = profile(finger, s)
        angles = np.arange(_RING) * 2 * np.pi / _RING
        height = np.where(np.sin(angles) > 0, above, below) * np.sin(angles)
        ring = (
            finger.point(s)
            + width * np.cos(angles)[:, None] * finger.radial
            + height[:, None] * finger.dorsal
        )
        columns = [1 + 3 * place + k for k in range(4)] + [24 - 3 * place + k for k in range(4)]
        total[columns] += ring[[1, 2, 3, 4, 6, 7, 8, 9]]
        weight[columns] += 1
        sides.append(ring[[0, 5]])
    total[[0, 14]], weight[[0, 14]] = [sides[0][0], sides[3][1]], 1
    between = np.array([(sides[k][1] + sides[k + 1][0]) / 2 for k in range(3)])
    return total / weight, between


def _palm_row(radial_end: Array, ulnar_end: Array, half_thickness: float) -> Array:
    share = 0.5 - 0.5 * np.cos(np.arange(9) * np.pi / 8)
    share = 0.6 * share + 0.4 * np.arange(9) / 8
    line = radial_end + share[:, None] * (ulnar_end - radial_end)
    lift = half_thickness * np.sin(np.pi * share)[:, None] ** 0.7 * np.array([0.0, 1.0, 0.0])
    return from_wrist(np.concatenate([line + lift, (line - lift)[7:0:-1]]) * MM)


def _finger_tube(builder: _Builder, finger: Finger, root: Indices, between: int) -> tuple[Indices, int]:
    """Add the rings beyond `root`, `between` of them free to settle, and the tip; join them all."""
    stations = finger.stations
    cast = [
        _finger_ring(finger, stations[bone] + share * finger.lengths[bone])
        for bone, share in _STATIONS[finger.name]
    ]
    rings = [root]
    start = np.array([builder.points[k] for k in root])
    for step in range(1, between + 1):
        rings.append(builder.add(start + step / (between + 1) * (cast[0] - start)))
    rings.extend(builder.add(ring, held=True) for ring in cast)
    for ring, following in pairwise(rings):
        builder.join(ring, following)
    (tip,) = builder.add(finger.point(stations[3:]), held=True)
    last = rings[-1]
    builder.triangles.extend([a, b, tip] for a, b in zip(last, np.roll(last, -1), strict=True))
    return np.array(rings), int(tip)


def _build() -> tuple[_Builder, dict[str, Indices], dict[str, int], Indices]:
    builder = _Builder()
    first, last = _THUMB_ROWS
    rows = [builder.add(_wrist_ring(), held=True)]
    for number, (radial_end, ulnar_end, thickness) in enumerate(_PALM_ROWS, start=1):
        points = _palm_row(np.array(radial_end, float), np.array(ulnar_end, float), thickness)
        if first < number < last:
            rows.append(np.concatenate([[-1], builder.add(points[1:])]))
        else:
            rows.append(builder.add(points))
    knuckles = [_knuckle_row(s)[0] for s in _KNUCKLE_ROWS]
    for points, start in zip(knuckles, _WEB_EDGE, strict=False):
        points[0] = from_wrist(np.array(start) * MM)
    wide = [builder.add(points) for points in knuckles]
    # Left free, the thin edge of the first web would be smoothed away.
    for row in (rows[-1], wide[0], wide[1]):
        builder.held[row[0]] = True
    webs = builder.add(_knuckle_row(_KNUCKLE_ROWS[-1])[1])
    for chain in (rows, wide):
        for row, following in pairwise(chain):
            builder.join(row, following)
    _widen(builder, rows[-1], wide[0])

    rings, tips = {}, {}
    hole = [rows[first][0], *(row[1] for row in rows[first : last + 1])]
    hole += [rows[last][0], *(row[15] for row in rows[last : first - 1 : -1])]
    rings["thumb"], tips["thumb"] = _finger_tube(
        builder, fingers()["thumb"], np.array(hole), _THUMB_ROOT_RINGS
    )
    sides = [wide[-1][0], *webs, wide[-1][14]]
    for place, name in enumerate(_ROW):
        above = wide[-1][1 + 3 * place : 5 + 3 * place]
        below = wide[-1][24 - 3 * place : 28 - 3 * place]
        root = np.array([sides[place], *above, sides[place + 1], *below])
        rings[name], tips[name] = _finger_tube(builder, fingers()[name], root, 0)
    return builder, rings, tips, rows[0]


def _widen(builder: _Builder, row: Indices, wide: Indices) -> None:
    """Join a row of 16 to one of 28: the edges beside the seams stay single, the others become two each."""
    fine = 0
    for coarse in range(16):
        a, b = row[coarse], row[(coarse + 1) % 16]
        if coarse in (0, 7, 8, 15):
            builder.quads.append([a, b, wide[(fine + 1) % 28], wide[fine]])
            fine += 1
        else:
            middle = wide[fine + 1]
            far = wide[(fine + 2) % 28]
            builder.triangles += [[a, middle, wide[fine]], [a, b, middle], [b, far, middle]]
            fine += 2


def _settle(points: Array, held: NDArray[np.bool_], edges: Indices) -> Array:
    """Even out the vertices that are not held along the skin, and pull all onto it."""
    points = _on_skin(points, 8)
    degree = np.bincount(edges.ravel(), minlength=len(points))[:, None]
    for _ in range(_RELAXATIONS):
        total = np.zeros_like(points)
        np.add.at(total, edges[:, 0], points[edges[:, 1]])
        np.add.at(total, edges[:, 1], points[edges[:, 0]])
        points = np.where(held[:, None], points, points + 0.4 * (total / degree - points))
        points = _on_skin(points, 1)
    return _on_skin(points, 4)


def _on_skin(points: Array, steps: int) -> Array:
    for _ in range(steps):
        gradient = body_gradient(points)
        slope = np.linalg.norm(gradient, axis=-1, keepdims=True)
        length = np.clip(body_distance(points)[:, None] / np.maximum(slope, 0.3), -4 * MM, 4 * MM)
        points = points - length * gradient / np.maximum(slope, 1e-9)
    return points


def _edges(quads: Indices, triangles: Indices) -> Indices:
    """Undirected edges without the quads' diagonals."""
    pairs = [quads[:, [k, (k + 1) % 4]] for k in range(4)] + [
        triangles[:, [k, (k + 1) % 3]] for k in range(3)
    ]
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)


def _triangulate(points: Array, quads: Indices) -> Indices:
    """Split every quad along its shorter diagonal; where they differ by rounding only, along the first."""
    across = np.linalg.norm(points[quads[:, 0]] - points[quads[:, 2]], axis=1)
    along = np.linalg.norm(points[quads[:, 1]] - points[quads[:, 3]], axis=1)
    shorter = (across <= along + 1e-3 * MM)[:, None]
    first = np.where(shorter, quads[:, [0, 1, 2]], quads[:, [0, 1, 3]])
    second = np.where(shorter, quads[:, [0, 2, 3]], quads[:, [1, 2, 3]])
    return np.concatenate([first, second])


def _numbering(rings: dict[str, Indices], tips: dict[str, int], count: int) -> Indices:
    """New number of every vertex, such that all fingertip conventions name a vertex on the right tip."""
    numbers = np.full(count, -1)
    for place, name in enumerate(FINGERS):
        numbers[tips[name]] = FINGERTIP_VERTICES["manopth"][place]
        others = {vertices[place] for vertices in FINGERTIP_VERTICES.values()}
        if name == "middle":
            others.add(445)  # the middle tip of manopth's left hand
        others.discard(FINGERTIP_VERTICES["manopth"][place])
        # From the middle of the pad outwards.
        for number, vertex in zip(sorted(others), rings[name][-1][[7, 8, 6]], strict=False):
            numbers[vertex] = number
    numbers[numbers < 0] = np.setdiff1d(np.arange(count), numbers)
    return numbers


@cache
def skin() -> Skin:
    """Build the mesh at rest; the same in every process."""
    builder, rings, tips, wrist = _build()
    points = np.array(builder.points)
    quads, triangles = np.array(builder.quads), np.array(builder.triangles)
    held = np.array(builder.held)
    points = _settle(points, held, _edges(quads, triangles))
    numbers = _numbering(rings, tips, len(points))
    faces = numbers[np.concatenate([_triangulate(points, quads), triangles])]
    vertices = np.empty_like(points)
    vertices[numbers] = points
    return Skin(
        vertices=vertices,
        faces=faces,
        rings={name: numbers[ring] for name, ring in rings.items()},
        tips={name: int(numbers[tip]) for name, tip in tips.items()},
        wrist=numbers[wrist],
    )
