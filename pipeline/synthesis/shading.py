"""Draw surfaces with light on them: who is seen at each pixel, and in which colour."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.rasterize import Fragments, rasterize
from pipeline.synthesis.surfaces import Surface, join_faces, unit
from pipeline.synthesis.textures import TEXTURE_SIZE, Image

Floats = NDArray[np.floating]

SUPERSAMPLE = 2  # edges are drawn at this many times the resolution and averaged down
OPEN_DEPTH_M = 0.06  # a pixel this far behind its surroundings is fully in their ambient shade
GAMMA = 2.0  # close to sRGB's 2.2, and a square root is cheap


@dataclass(frozen=True)
class Light:
    """Ambient light, and lamps at infinity; linear intensities."""

    ambient: Floats  # (3,)
    directions: Floats  # (L, 3) unit, towards the lamp, camera axes
    colours: Floats  # (L, 3)


@dataclass(frozen=True)
class Drawing:
    """What the camera sees of the surfaces, without a background."""

    colour: Image  # (H, W, 3) linear, multiplied by alpha
    alpha: Image  # (H, W) coverage 0..1
    depth: Image  # (H, W) metres, inf where nothing is
    owner: NDArray[np.int64]  # (H, W) which surface, -1 where none


def random_light(rng: np.random.Generator) -> Light:
    """One or two lamps, mostly from above or from behind the camera, tinted from candle to sky."""
    lamps = int(rng.integers(1, 3))
    directions = rng.normal(size=(lamps, 3)) + np.array([0.0, -0.6, -0.9])
    warmth = rng.normal(0, 0.12, (lamps + 1, 1))
    tint = np.clip(1 + warmth * (1.0, 0.1, -1.0) + rng.normal(0, 0.03, (lamps + 1, 3)), 0.3, 1.7)
    ambient = rng.uniform(0.15, 0.6)
    strength = rng.dirichlet(np.full(lamps, 2.0)) * (1.15 - ambient)
    return Light(ambient * tint[0], unit(directions), strength[:, None] * tint[1:])


def draw(surfaces: list[Surface], camera: Floats, light: Light, *, height: int, width: int) -> Drawing:
    """Rasterise and shade surfaces in camera space; camera: (fx, fy, cx, cy) of the final picture."""
    vertices = np.concatenate([surface.vertices for surface in surfaces])
    counts = [len(surface.vertices) for surface in surfaces]
    faces = join_faces(counts, [surface.faces for surface in surfaces])
    face_owner = np.repeat(np.arange(len(surfaces)), [len(surface.faces) for surface in surfaces])
    depth = vertices[:, 2]
    points = camera[:2] * vertices[:, :2] / np.maximum(depth, 1e-6)[:, None] + camera[2:]
    fragments = rasterize(
        (points + 0.5) * SUPERSAMPLE - 0.5,
        depth,
        faces,
        height=height * SUPERSAMPLE,
        width=width * SUPERSAMPLE,
    )
    owner = face_owner[fragments.face]
    lit = _lit(surfaces, fragments, faces, owner, camera, light)
    layers = fragments.image(np.concatenate([lit, np.ones((len(lit), 1), np.float32)], axis=1))
    mean = cv2.resize(layers, (width, height), interpolation=cv2.INTER_AREA)

    # One of each pixel's samples stands for it: depths of two surfaces have no sensible mean.
    middle = slice(SUPERSAMPLE // 2, None, SUPERSAMPLE)
    depth_map = np.asarray(fragments.image(fragments.depth, np.inf)[middle, middle], np.float32)
    return Drawing(
        colour=mean[..., :3] * _openness(depth_map)[..., None],
        alpha=mean[..., 3],
        depth=depth_map,
        owner=np.asarray(fragments.image(owner, -1)[middle, middle], np.int64),
    )


def _lit(
    surfaces: list[Surface],
    fragments: Fragments,
    faces: NDArray[np.int64],
    owner: NDArray[np.int64],
    camera: Floats,
    light: Light,
) -> Image:
    """(N, 3) linear colour of each fragment: wrapped Lambert, and Blinn-Phong highlights."""
    columns = [np.concatenate([surface.normals, surface.colours, surface.uv], axis=1) for surface in surfaces]
    values = fragments.interpolate(faces, np.concatenate(columns))
    normal, colour, uv = values[:, :3], values[:, 3:6], values[:, 6:]

    x = fragments.pixel % fragments.width
    y = fragments.pixel // fragments.width
    towards_camera = np.empty_like(normal)
    towards_camera[:, 0] = ((camera[2] + 0.5) - (x + 0.5) / SUPERSAMPLE) / camera[0]
    towards_camera[:, 1] = ((camera[3] + 0.5) - (y + 0.5) / SUPERSAMPLE) / camera[1]
    towards_camera[:, 2] = -1.0
    towards_camera /= np.sqrt(np.einsum("ij,ij->i", towards_camera, towards_camera))[:, None]
    facing = np.sign(np.einsum("ij,ij->i", normal, towards_camera))
    normal *= (facing / np.sqrt(np.einsum("ij,ij->i", normal, normal) + 1e-12))[:, None]

    texel = (uv % 1.0 * TEXTURE_SIZE).astype(np.int64) % TEXTURE_SIZE
    textures = np.stack([surface.texture for surface in surfaces])
    albedo = colour * textures[owner, texel[:, 1], texel[:, 0]]
    albedo *= albedo  # to linear light

    wrap = np.array([surface.wrap for surface in surfaces], np.float32)[owner]
    specular = np.array([surface.specular for surface in surfaces], np.float32)[owner]
    shininess = np.array([surface.shininess for surface in surfaces], np.float32)[owner]
    diffuse = np.empty_like(normal)
    # Light from above is a little stronger than light from the floor.
    diffuse[:] = (0.85 - 0.15 * normal[:, 1:2]) * light.ambient.astype(np.float32)
    gloss = np.zeros_like(normal)
    for direction, lamp in zip(
        light.directions.astype(np.float32), light.colours.astype(np.float32), strict=True
    ):
        lambert = (normal @ direction)[:, None]
        diffuse += np.maximum(lambert + wrap, 0) / (1 + wrap) * lamp
        halfway = towards_camera + direction
        halfway /= np.sqrt(np.einsum("ij,ij->i", halfway, halfway) + 1e-12)[:, None]
        highlight = np.maximum(np.einsum("ij,ij->i", normal, halfway), 0) ** shininess * specular
        gloss += (highlight * (lambert[:, 0] > 0))[:, None] * lamp
    lit: Image = albedo * diffuse + gloss
    return lit


def _openness(depth: Image) -> Image:
    """1 in the open, less where the neighbourhood is nearer to the camera: cheap ambient occlusion.

    (Luft, Colditz and Deussen 2006, "Image enhancement by unsharp masking the depth buffer".)
    """
    seen = np.isfinite(depth)
    if not seen.any():
        return np.ones_like(depth)
    nearest = float(depth[seen].min())
    clipped = np.minimum(depth, nearest + 4 * OPEN_DEPTH_M)
    behind = clipped - cv2.blur(cv2.blur(clipped, (13, 13)), (13, 13))
    shade: Image = 1 - 0.55 * np.clip(behind / OPEN_DEPTH_M, 0, 1)
    return np.where(seen, shade, 1).astype(np.float32)
