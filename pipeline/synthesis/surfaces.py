"""A surface: the mesh of a thing, what it is coloured with, and how it answers light."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.synthesis.textures import Image

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Surface:
    """V vertices and F faces in metres; colours and texture are sRGB 0..1 and multiply each other."""

    vertices: Floats  # (V, 3)
    normals: Floats  # (V, 3) unit; turned towards the camera where they face away
    faces: Ints  # (F, 3)
    uv: Floats  # (V, 2) texture coordinates, repeating every 1
    colours: Floats  # (V, 3)
    texture: Image  # (TEXTURE_SIZE, TEXTURE_SIZE, 3)
    specular: float = 0.05
    shininess: float = 20.0
    wrap: tuple[float, float, float] = (
        0.0,
        0.0,
        0.0,
    )  # how far red, green and blue light creep into the shade

    def moved(self, rotation: Floats, translation: Floats) -> "Surface":
        """The same thing, turned and then shifted."""
        return replace(
            self,
            vertices=self.vertices @ rotation.T + translation,
            normals=self.normals @ rotation.T,
        )

    def triangles(self) -> Floats:
        """(F, 3, 3) corners."""
        return self.vertices[self.faces]


def unit(vectors: Floats) -> Floats:
    """Vectors (..., 3) at length 1; a zero vector stays zero."""
    scaled: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return scaled


def grid_faces(rows: int, columns: int) -> Ints:
    """The two triangles of every cell of a (rows, columns) grid of vertices."""
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).reshape(-1, 1)
    upper = corner + np.array([0, columns, 1])
    lower = corner + np.array([1, columns, columns + 1])
    return np.concatenate([upper, lower])


def join_faces(counts: Sequence[int], faces: Sequence[Ints]) -> Ints:
    """Faces of several meshes as faces of their vertices laid end to end."""
    starts = np.cumsum([0, *counts[:-1]])
    return np.concatenate([part + start for part, start in zip(faces, starts, strict=True)])


def random_rotation(rng: np.random.Generator) -> Floats:
    """(3, 3), uniform over all rotations (a normalised Gaussian quaternion)."""
    quaternion = rng.normal(size=4)
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
