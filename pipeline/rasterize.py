"""Which triangle each pixel sees: a z-buffer in plain numpy, for pictures and for occlusion labels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEAR_M = 0.01  # triangles that reach nearer to the camera than this are left out: there is no clipping

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Fragments:
    """The covered pixels of one rendering, in row order; every array has one entry per covered pixel.

    pixel: index into the flattened image. face: row of `faces`. weights: (N, 3) perspective-correct
    barycentric weights of that face's corners, float32. depth: float32, unit of the depths given.
    """

    pixel: Ints
    face: Ints
    weights: NDArray[np.float32]
    depth: NDArray[np.float32]
    height: int
    width: int

    def interpolate(self, faces: Ints, values: Floats) -> NDArray[np.float32]:
        """Values per vertex (V, C) become values per covered pixel (N, C)."""
        corners = faces[self.face]
        table = values.astype(np.float32)
        mixed = table[corners[:, 0]] * self.weights[:, :1]
        mixed += table[corners[:, 1]] * self.weights[:, 1:2]
        mixed += table[corners[:, 2]] * self.weights[:, 2:]
        return mixed

    def image(self, values: NDArray[np.generic], background: float = 0.0) -> NDArray[np.generic]:
        """Values per covered pixel, (N,) or (N, C), laid out as an image (H, W) or (H, W, C)."""
        flat = np.full((self.height * self.width, *values.shape[1:]), background, values.dtype)
        flat[self.pixel] = values
        return flat.reshape(self.height, self.width, *values.shape[1:])


def rasterize(points: Floats, depth: Floats, faces: Ints, *, height: int, width: int) -> Fragments:
    """Find the nearest triangle at every pixel centre.

    points: (V, 2) pixels, centres at integers; depth: (V,) positive, along the optical axis; faces: (F, 3),
    both sides are seen. Neighbouring triangles neither overlap nor leave gaps: a pixel on an edge belongs
    to the triangle on its right (or below). Of two equally near triangles the earlier one wins.
    """
    corners = points.astype(np.float64)[faces]
    depths = depth.astype(np.float64)[faces]
    side_b, side_c = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = side_b[:, 0] * side_c[:, 1] - side_b[:, 1] * side_c[:, 0]
    usable = np.flatnonzero((depths > NEAR_M).all(axis=1) & (np.abs(area) > 1e-12))
    corners, planes = corners[usable], _planes(corners[usable], depths[usable], area[usable])

    row_face, row_y, row_left, row_length = _spans(corners, height, width)
    gradient = planes.sum(axis=1)[row_face]  # 1/depth is affine in the picture
    at_left = gradient[:, 0] * row_left + gradient[:, 1] * row_y + gradient[:, 2]
    row, step = _runs(row_length)
    inverse_depth = (at_left[row] + gradient[row, 0] * step).astype(np.float32)
    pixel = (row_y * width + row_left)[row] + step

    # Positive floats sort like their bits, so one integer maximum settles depth and, below it, the order.
    candidate = np.uint64(0xFFFFFFFF) - np.arange(len(row), dtype=np.uint64)
    key = inverse_depth.view(np.uint32).astype(np.uint64) << np.uint64(32) | candidate
    nearest = np.zeros(height * width, np.uint64)
    np.maximum.at(nearest, pixel, key)
    covered = np.flatnonzero(nearest)
    winner = (np.uint64(0xFFFFFFFF) - (nearest[covered] & np.uint64(0xFFFFFFFF))).astype(np.int64)

    face = row_face[row[winner]]
    x, y = (covered % width).astype(np.float64), (covered // width).astype(np.float64)
    plane = planes[face]
    weights = plane[:, :, 0] * x[:, None] + plane[:, :, 1] * y[:, None] + plane[:, :, 2]
    total = weights.sum(axis=1)
    return Fragments(
        pixel=covered,
        face=usable[face],
        weights=(weights / total[:, None]).astype(np.float32),
        depth=(1.0 / total).astype(np.float32),
        height=height,
        width=width,
    )


def vertex_normals(vertices: Floats, faces: Ints) -> Floats:
    """(V, 3) unit normals, each the mean of the faces around it weighted by area; 0 where no face is."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    across = np.repeat(np.cross(b - a, c - a), 3, axis=0)
    total = np.stack(
        [np.bincount(faces.ravel(), across[:, axis], minlength=len(vertices)) for axis in range(3)], axis=1
    )
    normals: Floats = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
    return normals


def _planes(corners: Floats, depths: Floats, area: Floats) -> Floats:
    """(F, 3, 3): for corner i, the (x, y, 1) coefficients of its barycentric weight divided by its depth."""
    following, last = np.roll(corners, -1, axis=1), np.roll(corners, -2, axis=1)
    along_x = following[..., 1] - last[..., 1]
    along_y = last[..., 0] - following[..., 0]
    constant = following[..., 0] * last[..., 1] - last[..., 0] * following[..., 1]
    scale = 1.0 / (area[:, None] * depths)
    return np.stack([along_x, along_y, constant], axis=-1) * scale[..., None]


def _spans(corners: Floats, height: int, width: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Cut triangles into runs of pixels: face, y, first x and length of each run inside the picture.

    Corners are sorted (by y, then x) before an edge is walked, so that both owners of an edge compute
    the same crossing to the last bit.
    """
    order = np.lexsort((corners[..., 0], corners[..., 1]))
    x, y = np.moveaxis(np.take_along_axis(corners, order[..., None], axis=1), -1, 0)
    first = np.clip(np.ceil(y[:, 0]), 0, height).astype(np.int64)
    end = np.clip(np.ceil(y[:, 2]), 0, height).astype(np.int64)
    face, step = _runs(end - first)
    row = first[face] + step

    (x0, x1, x2), (y0, y1, y2) = x[face].T, y[face].T
    long_edge = _crossing(x0, y0, x2, y2, row)
    short_edge = np.where(row < y1, _crossing(x0, y0, x1, y1, row), _crossing(x1, y1, x2, y2, row))
    left = np.clip(np.ceil(np.minimum(long_edge, short_edge)), 0, width).astype(np.int64)
    right = np.clip(np.ceil(np.maximum(long_edge, short_edge)), 0, width).astype(np.int64)
    inside = right > left
    return face[inside], row[inside], left[inside], (right - left)[inside]


def _crossing(x_a: Floats, y_a: Floats, x_b: Floats, y_b: Floats, row: Ints) -> Floats:
    """Where the edge a-b meets a row; a level edge, which no row asks about, gives its x_a."""
    rise = y_b - y_a
    return x_a + (row - y_a) * ((x_b - x_a) / np.where(rise > 0, rise, np.inf))


def _runs(lengths: Ints) -> tuple[Ints, Ints]:
    """For runs of the given lengths laid end to end: each element's run, and its place in the run."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.cumsum(lengths) - lengths
    return owner, np.arange(len(owner)) - starts[owner]
