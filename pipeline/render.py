"""Pictures for people: mesh overlays, side views, skeletons, boxes, stamps and contact sheets.

Every function takes and gives RGB uint8 and leaves its input as it is. Pixel centres are integers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from model.mano.joints import BONES
from pipeline.rasterize import rasterize, vertex_normals

Picture = NDArray[np.uint8]  # (H, W, 3)
Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
Colour = tuple[int, int, int]

SKIN: Colour = (214, 176, 152)
STEEL: Colour = (150, 178, 214)
PAPER: Colour = (255, 255, 255)
# Thumb red, then yellow, green, blue, purple: the usual order of OpenPose and MediaPipe drawings.
FINGER_COLOURS: tuple[Colour, ...] = (
    (230, 60, 50),
    (240, 180, 30),
    (70, 190, 70),
    (50, 130, 240),
    (170, 70, 210),
)
WRIST_COLOUR: Colour = (245, 245, 245)

SUPERSAMPLE = 2
_LIGHTS = (((-0.4, -0.7, -0.6), 0.45), ((0.3, 0.1, -1.0), 0.45))  # direction to the lamp, strength
_AMBIENT = 0.25


@dataclass(frozen=True)
class WeakPerspective:
    """An orthographic camera: pixels = scale * (x, y) + (tx, ty); scale in pixels per metre."""

    scale: float
    tx: float
    ty: float

    def project(self, points: Floats) -> Floats:
        """(N, 3) metres to (N, 2) pixels."""
        pixels: Floats = self.scale * points[:, :2] + (self.tx, self.ty)
        return pixels


def weak_perspective(joints: Floats, joints_2d: Floats) -> WeakPerspective:
    """The camera that lays joints (N, 3) on joints_2d (N, 2), for hands without a camera.

    Centre on centre and spread on spread: unlike least squares it does not shrink a hand whose joints disagree.
    """
    flat, target = joints[:, :2].astype(np.float64), joints_2d.astype(np.float64)
    spread, landed = flat - flat.mean(axis=0), target - target.mean(axis=0)
    scale = float(np.sqrt((landed**2).sum() / max(float((spread**2).sum()), 1e-12)))
    shift = target.mean(axis=0) - scale * flat.mean(axis=0)
    return WeakPerspective(scale, float(shift[0]), float(shift[1]))


def draw_mesh(
    image: Picture,
    vertices: Floats,
    points: Floats,
    faces: Ints,
    *,
    colour: Colour = STEEL,
    alpha: float = 0.85,
) -> Picture:
    """Lay a shaded mesh over the image.

    vertices: (V, 3) metres in camera axes, for shading and for what hides what; points: (V, 2) pixels.
    """
    height, width = image.shape[:2]
    left, top = np.clip(np.floor(points.min(axis=0)).astype(int) - 1, 0, (width, height))
    right, bottom = np.clip(np.ceil(points.max(axis=0)).astype(int) + 2, 0, (width, height))
    drawn = image.copy()
    if right <= left or bottom <= top:
        return drawn
    window = drawn[top:bottom, left:right]
    layer = _shaded(vertices, points - (left, top), faces, colour, height=bottom - top, width=right - left)
    cover = layer[..., 3:] * alpha
    drawn[top:bottom, left:right] = np.rint(window * (1 - cover) + layer[..., :3] * alpha).astype(np.uint8)
    return drawn


def side_view(vertices: Floats, faces: Ints, *, size: int = 256, colour: Colour = STEEL) -> Picture:
    """The mesh seen from its side, turned by 90 degrees about the vertical axis, filling a white square."""
    turned = vertices @ np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    low, high = turned[:, :2].min(axis=0), turned[:, :2].max(axis=0)
    scale = 0.88 * size / max(float((high - low).max()), 1e-9)
    points = scale * (turned[:, :2] - (low + high) / 2) + (size - 1) / 2
    return draw_mesh(
        np.full((size, size, 3), PAPER, np.uint8), turned, points, faces, colour=colour, alpha=1.0
    )


def draw_skeleton(
    image: Picture, joints_2d: Floats, *, visible: Sequence[int] | NDArray[np.generic] | None = None
) -> Picture:
    """Draw (21, 2) joints and their bones, one colour per finger; joints known to be hidden are hollow."""
    drawn = image.copy()
    reach = float(np.ptp(joints_2d, axis=0).max())
    thick = max(1, round(reach / 90))
    at = [_subpixel(joint) for joint in joints_2d]
    for parent, child in BONES:
        cv2.line(drawn, at[parent], at[child], FINGER_COLOURS[(child - 1) // 4], thick, cv2.LINE_AA, _SHIFT)
    for joint, centre in enumerate(at):
        colour = WRIST_COLOUR if joint == 0 else FINGER_COLOURS[(joint - 1) // 4]
        hidden = visible is not None and not visible[joint]
        radius = round((1.5 * thick + 1.5) * 2**_SHIFT)
        cv2.circle(drawn, centre, radius, (20, 20, 20) if hidden else colour, -1, cv2.LINE_AA, _SHIFT)
        cv2.circle(drawn, centre, radius, colour if hidden else (20, 20, 20), 1, cv2.LINE_AA, _SHIFT)
    return drawn


def draw_bbox(image: Picture, bbox: Sequence[float] | Floats, *, colour: Colour = (60, 220, 120)) -> Picture:
    """Outline a box (x, y, w, h) in pixels."""
    drawn = image.copy()
    x, y, w, h = (float(value) for value in bbox)
    thick = max(1, round(max(image.shape[:2]) / 400))
    corner, opposite = _subpixel(np.array([x, y])), _subpixel(np.array([x + w, y + h]))
    cv2.rectangle(drawn, corner, opposite, colour, thick, cv2.LINE_AA, _SHIFT)
    return drawn


def stamp(image: Picture, text: str) -> Picture:
    """Write a word on a bar across the picture's foot, so that nobody takes the picture for more."""
    height, width = image.shape[:2]
    probe = _font(100).getbbox(text)
    font = _font(min(0.8 * width * 100 / max(probe[2] - probe[0], 1), 0.14 * height))
    bar = max(1, round(font.size * 1.4))
    shaded = image.copy()
    shaded[-bar:] = (shaded[-bar:] * 0.35 + np.array((150, 10, 10)) * 0.65).astype(np.uint8)
    canvas = Image.fromarray(shaded)
    ImageDraw.Draw(canvas).text((width / 2, height - bar / 2), text, fill=PAPER, font=font, anchor="mm")
    return np.array(canvas)


class Tile(NamedTuple):
    """A picture on a contact sheet and the line below it."""

    image: Picture
    caption: str


def sheet(rows: Sequence[Sequence[Tile]], *, tile: int = 256) -> Picture:
    """A contact sheet: each picture fitted into a square of `tile` pixels, its caption below it."""
    font = _font(max(9, tile / 18))
    line, gap = round(font.size * 1.6), max(2, tile // 64)
    step_x, step_y = tile + gap, tile + line + gap
    columns = max((len(row) for row in rows), default=0)
    canvas = Image.new("RGB", (gap + columns * step_x, gap + len(rows) * step_y), (250, 250, 250))
    pen = ImageDraw.Draw(canvas)
    for place_y, row in enumerate(rows):
        for place_x, (image, caption) in enumerate(row):
            left, top = gap + place_x * step_x, gap + place_y * step_y
            fitted = _fitted(image, tile)
            inset_y, inset_x = (tile - fitted.shape[0]) // 2, (tile - fitted.shape[1]) // 2
            canvas.paste(Image.fromarray(fitted), (left + inset_x, top + inset_y))
            shown = _shortened(caption, font, tile)
            pen.text(
                (left + tile / 2, top + tile + line / 2), shown, fill=(40, 40, 40), font=font, anchor="mm"
            )
    return np.array(canvas)


_SHIFT = 4  # OpenCV draws at sixteenths of a pixel


def png(picture: Picture) -> bytes:
    """A picture as the bytes of a PNG file."""
    done, data = cv2.imencode(".png", picture[..., ::-1])
    assert done, "OpenCV could not encode a picture of our own"
    return data.tobytes()


def _subpixel(point: Floats) -> tuple[int, int]:
    """OpenCV's fixed-point coordinates, kept inside what its drawing code can hold."""
    x, y = np.clip(np.nan_to_num(point), -30000, 30000)
    return round(float(x) * 2**_SHIFT), round(float(y) * 2**_SHIFT)


def _shaded(
    vertices: Floats, points: Floats, faces: Ints, colour: Colour, *, height: int, width: int
) -> NDArray[np.float32]:
    """(H, W, 4) colour times coverage, and coverage 0..1; smooth normals, two lamps beside the camera."""
    fragments = rasterize(
        (points + 0.5) * SUPERSAMPLE - 0.5,
        vertices[:, 2] - vertices[:, 2].min() + 1.0,
        faces,
        height=height * SUPERSAMPLE,
        width=width * SUPERSAMPLE,
    )
    normals = fragments.interpolate(faces, vertex_normals(vertices, faces))
    # A mesh has no agreed winding here; what is seen faces the camera, at negative z.
    normals *= (
        np.where(normals[:, 2:] > 0, -1.0, 1.0) / np.maximum(np.linalg.norm(normals, axis=1), 1e-9)[:, None]
    )
    brightness = np.full(len(normals), _AMBIENT)
    for direction, strength in _LIGHTS:
        unit = np.array(direction) / np.linalg.norm(direction)
        brightness += strength * np.clip(normals @ unit, 0, 1)
    lit = np.clip(brightness[:, None] * np.array(colour), 0, 255)
    layer = fragments.image(np.concatenate([lit, np.ones((len(lit), 1))], axis=1).astype(np.float32))
    return np.asarray(cv2.resize(layer, (width, height), interpolation=cv2.INTER_AREA), np.float32)


def _font(size: float) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=max(6.0, size))
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def _fitted(image: Picture, tile: int) -> Picture:
    height, width = image.shape[:2]
    scale = tile / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=how), np.uint8)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, its end replaced by an ellipsis when it is wider than its tile."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
