"""The z-buffer against geometry that has a formula, and pictures against what they must show."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.rasterize import rasterize
from pipeline.render import (
    Tile,
    draw_bbox,
    draw_mesh,
    draw_skeleton,
    sheet,
    side_view,
    stamp,
    weak_perspective,
)

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]

TRIANGLE = np.array([[0, 1, 2]])
SQUARE = np.array([[0, 1, 2], [2, 1, 3]])


def sphere(rings: int = 24, segments: int = 48) -> tuple[Floats, Ints]:
    """A unit sphere: vertices (V, 3) and faces."""
    polar = np.linspace(0, np.pi, rings)[:, None]
    around = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    grid = np.stack(
        [np.sin(polar) * np.cos(around), np.cos(polar) + 0 * around, np.sin(polar) * np.sin(around)], -1
    )
    place = np.arange(rings * segments).reshape(rings, segments)
    beside = np.roll(place, -1, axis=1)
    lower = np.stack([place[:-1], place[1:], beside[:-1]], -1).reshape(-1, 3)
    upper = np.stack([place[1:], beside[1:], beside[:-1]], -1).reshape(-1, 3)
    return grid.reshape(-1, 3), np.concatenate([lower, upper])


def test_a_triangle_covers_the_pixel_centres_inside_it() -> None:
    points = np.array([[1.0, 1.0], [6.0, 1.0], [1.0, 6.0]])
    covered = np.zeros((8, 8), bool)
    covered.flat[rasterize(points, np.ones(3), TRIANGLE, height=8, width=8).pixel] = True
    y, x = np.mgrid[0:8, 0:8]
    assert np.array_equal(covered, (x >= 1) & (y >= 1) & (x + y < 7))


def test_neighbours_share_no_pixel_and_leave_no_gap() -> None:
    rng = np.random.default_rng(3)
    step = np.arange(9) * 5.0
    grid = np.stack(np.meshgrid(step, step), -1)
    grid[1:-1, 1:-1] += rng.uniform(-2, 2, (7, 7, 2))
    place = np.arange(81).reshape(9, 9)
    corners = [part.ravel() for part in (place[:-1, :-1], place[1:, :-1], place[:-1, 1:], place[1:, 1:])]
    faces = np.concatenate([np.stack(corners[:3], -1), np.stack([corners[2], corners[1], corners[3]], -1)])
    points = grid.reshape(-1, 2)
    together = rasterize(points, np.ones(81), faces, height=45, width=45)
    alone = [rasterize(points, np.ones(81), face[None], height=45, width=45).pixel for face in faces]
    assert np.array_equal(together.pixel, np.flatnonzero(np.pad(np.ones((40, 40)), ((0, 5), (0, 5)))))
    assert np.array_equal(np.sort(np.concatenate(alone)), together.pixel)


def test_a_sphere_has_the_depth_of_its_formula() -> None:
    vertices, faces = sphere(64, 128)
    centre, focal = np.array([0.0, 0.0, 5.0]), 200.0
    vertices = vertices + centre
    points = focal * vertices[:, :2] / vertices[:, 2:] + 50
    fragments = rasterize(points, vertices[:, 2], faces, height=101, width=101)
    rays = np.stack(
        [
            (fragments.pixel % 101 - 50) / focal,
            (fragments.pixel // 101 - 50) / focal,
            np.ones_like(fragments.depth),
        ],
        -1,
    )
    square, along = (rays**2).sum(1), rays @ centre
    exact = (along - np.sqrt(np.maximum(along**2 - square * (centre @ centre - 1), 0))) / square
    inner = np.hypot(*(rays[:, :2].T)) < 0.18  # the silhouette is at 0.204
    assert inner.sum() > 3000
    assert np.abs(fragments.depth - exact)[inner].max() < 3e-3


def test_crossing_triangles_change_places_at_their_intersection() -> None:
    points = np.array([[0, 0], [40, 0], [0, 40], [40, 40]] * 2, float)
    depth = np.array([1, 2, 1, 2, 2, 1, 2, 1], float)
    faces = np.concatenate([SQUARE, SQUARE + 4])
    fragments = rasterize(points, depth, faces, height=40, width=40)
    front = fragments.image(fragments.face // 2, -1)
    assert (front[:, :20] == 0).all()
    assert (front[:, 21:] == 1).all()


def test_weights_are_perspective_correct() -> None:
    corners = np.array([[-1.0, -0.5, 2.0], [1.5, -0.7, 6.0], [0.2, 1.2, 3.0]])
    points = 60 * corners[:, :2] / corners[:, 2:] + 32
    fragments = rasterize(points, corners[:, 2], TRIANGLE, height=64, width=64)
    assert len(fragments.pixel) > 200
    rebuilt = fragments.interpolate(TRIANGLE, corners)
    assert rebuilt[:, 2] == pytest.approx(fragments.depth, rel=1e-5)
    landed = 60 * rebuilt[:, :2] / rebuilt[:, 2:] + 32
    assert landed[:, 0] == pytest.approx(fragments.pixel % 64, abs=1e-3)
    assert landed[:, 1] == pytest.approx(fragments.pixel // 64, abs=1e-3)


def test_what_is_behind_the_camera_or_off_the_picture_is_not_drawn() -> None:
    points = np.array([[-1e6, -1e6], [1e6, -1e6], [0, 1e6]])
    assert len(rasterize(points, np.array([1.0, 1, -1]), TRIANGLE, height=4, width=4).pixel) == 0
    assert len(rasterize(points + 1e7, np.ones(3), TRIANGLE, height=4, width=4).pixel) == 0
    assert len(rasterize(points, np.ones(3), TRIANGLE, height=4, width=4).pixel) == 16


def test_weak_perspective_finds_the_camera_that_made_the_points() -> None:
    joints = np.random.default_rng(0).normal(size=(21, 3)) * 0.1
    found = weak_perspective(joints, joints[:, :2] * 830 + (120, 75))
    assert (found.scale, found.tx, found.ty) == pytest.approx((830, 120, 75))
    assert found.project(joints) == pytest.approx(joints[:, :2] * 830 + (120, 75))


def test_a_mesh_is_drawn_where_it_lands_and_nowhere_else() -> None:
    image = np.full((80, 120, 3), 200, np.uint8)
    vertices, faces = sphere()
    drawn = draw_mesh(image, vertices, vertices[:, :2] * 20 + (70, 30), faces, colour=(250, 40, 40))
    assert (image == 200).all()
    y, x = np.mgrid[0:80, 0:120]
    away = np.hypot(x - 70, y - 30)
    assert (drawn[away > 22] == 200).all()
    inside = drawn[away < 17].astype(int)
    assert (inside[:, 0] > inside[:, 1] + 20).all()
    # Lit from above: the upper half is brighter than the lower.
    assert drawn[15:25, 70].mean() > drawn[36:46, 70].mean() + 10


def test_a_mesh_off_the_picture_leaves_it_as_it_was() -> None:
    image = np.full((20, 20, 3), 9, np.uint8)
    vertices, faces = sphere()
    assert np.array_equal(draw_mesh(image, vertices, vertices[:, :2] * 5 - 50, faces), image)


def test_the_side_view_shows_depth_as_width() -> None:
    vertices, faces = sphere()
    picture = side_view(vertices * (0.1, 0.5, 1.0), faces, size=100)
    shown = (picture != 255).any(axis=2)
    assert np.ptp(np.flatnonzero(shown.any(axis=0))) == pytest.approx(88, abs=2)
    assert np.ptp(np.flatnonzero(shown.any(axis=1))) == pytest.approx(44, abs=2)


def test_skeletons_and_boxes_are_drawn_at_their_coordinates() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    joints = np.stack([[6.0, *np.linspace(30, 90, 20)], np.full(21, 40.0)], -1)
    rows = np.flatnonzero(draw_skeleton(image, joints).any(axis=(1, 2)))
    assert rows.mean() == pytest.approx(40, abs=0.5)
    wrist_hidden = draw_skeleton(image, joints, visible=np.arange(21) > 0)
    assert draw_skeleton(image, joints)[40, 6].min() > 200
    assert wrist_hidden[40, 6].max() < 60
    boxed = draw_bbox(image, (10, 20, 50, 60)).any(axis=2)
    assert boxed[20, 10:61].all()
    assert boxed[20:81, 60].all()
    assert not boxed[30:70, 20:50].any()
    # Coordinates far outside are no reason to fail.
    assert draw_skeleton(image, joints + 1e9).shape == image.shape


def test_a_stamp_is_readable_across_the_picture() -> None:
    image = np.full((90, 160, 3), 128, np.uint8)
    stamped = stamp(image, "UNTRAINED")
    white = (stamped > 240).all(axis=2)
    assert np.ptp(np.flatnonzero(white.any(axis=0))) > 60
    assert (stamped[:60] == 128).all()


def test_a_sheet_has_a_place_for_every_picture_and_its_caption() -> None:
    tall, wide = np.full((40, 20, 3), (255, 0, 0), np.uint8), np.full((20, 40, 3), (0, 0, 255), np.uint8)
    made = sheet(
        [[Tile(tall, "tall"), Tile(wide, "a caption much too long for its tile")], [Tile(wide, "")]], tile=64
    )
    red, blue = (made == (255, 0, 0)).all(2), (made == (0, 0, 255)).all(2)
    assert red.sum() == 64 * 32
    assert blue.sum() == 2 * 64 * 32
    assert (made[:, :72].min(axis=2)[66:84] < 120).any()  # "tall" is written below its picture
