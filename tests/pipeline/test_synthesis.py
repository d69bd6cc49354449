"""Synthetic samples: what the label says is what the picture shows, and what the hand model does."""

import json
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from model.mano.layer import ManoLayer, wrist_relative
from model.mano.synthetic import synthetic_hand
from pipeline.synthesis.dress import dress
from pipeline.synthesis.hands import HandKit, PosedHand
from pipeline.synthesis.labels import Label, hand_label, to_json
from pipeline.synthesis.objects import SHAPES, random_object
from pipeline.synthesis.sample import SceneSpec, encode_jpeg, synthesize
from pipeline.synthesis.shading import draw, random_light
from pipeline.synthesis.staging import hidden_by
from pipeline.synthesis.surfaces import Surface

Floats = NDArray[np.floating]

SMALL = SceneSpec(size=96, vertices=True)
CAMERA = np.array([300.0, 300.0, 79.5, 79.5])


@pytest.fixture(scope="module")
def kit() -> HandKit:
    return HandKit(synthetic_hand())


@pytest.fixture(scope="module")
def labels(kit: HandKit) -> list[Label]:
    return [synthesize(5, index, SMALL, kit).label for index in range(24)]


def by_the_layer(layer: ManoLayer, label: Label) -> tuple[Floats, Floats]:
    """Vertices and joints in camera space, from a label's parameters by the annotation contract."""
    mano = label["mano"]
    mirror = np.array([-1.0 if label["side"] == "left" else 1.0, 1.0, 1.0])
    turns = np.array([*mano["global_orient"], *mano["hand_pose"]]).reshape(16, 3)
    # Axis-angle (x, -y, -z) is the mirrored rotation.
    rotations = Rotation.from_rotvec(turns * mirror[0] * mirror).as_matrix()
    with torch.inference_mode():
        output = layer(torch.from_numpy(rotations)[None], torch.tensor([mano["betas"]], dtype=torch.float64))
        vertices, joints = wrist_relative(output)
    there = np.array(mano["translation"])
    return vertices[0].numpy() * mirror + there, joints[0].numpy() * mirror + there


def open_palm(kit: HandKit) -> PosedHand:
    """A flat hand, fingers up, its palm to the camera."""
    source = np.stack([kit.along, kit.palm, np.cross(kit.along, kit.palm)], axis=1)
    along, palm = np.array([0.0, -1.0, 0.0]), np.array([0.0, 0.0, -1.0])
    target = np.stack([along, palm, np.cross(along, palm)], axis=1)
    turn = Rotation.from_matrix(target @ source.T).as_rotvec()
    return kit.posed(turn, np.zeros(45), np.zeros(10), "right")


def visible(kit: HandKit, hand: PosedHand, others: list[Surface]) -> list[int]:
    translation = np.array([0.0, 0.07, 0.45])
    rng = np.random.default_rng(0)
    surfaces = [surface.moved(np.eye(3), translation) for surface in dress(rng, kit, hand)] + others
    drawing = draw(surfaces, CAMERA, random_light(rng), height=160, width=160)
    label = hand_label(kit, hand, translation, CAMERA, drawing, owner=0, vertices=False)
    found: list[int] = label["visible"]
    return found


def board(depth: float, x_from: float = -1.0) -> Surface:
    """A wall at a depth, from an x to the right."""
    corners = np.array([[x_from, -1, depth], [1, -1, depth], [x_from, 1, depth], [1, 1, depth]])
    blank = random_object(np.random.default_rng(0))
    return replace(
        blank,
        vertices=corners,
        normals=np.tile([0.0, 0.0, -1.0], (4, 1)),
        faces=np.array([[0, 1, 2], [2, 1, 3]]),
        uv=np.zeros((4, 2)),
        colours=np.ones((4, 3)),
    )


def test_a_label_has_the_layout_of_a_training_shard(kit: HandKit, labels: list[Label]) -> None:
    label = json.loads(to_json(labels[3]))
    assert label["dataset"] == "synthetic"
    assert (label["split"], label["index"]) == ("train", 3)
    assert label["hand_model"] == kit.hand_model.name
    assert label["fingertip_vertices"] == list(kit.hand_model.fingertip_vertices)
    assert len(label["camera"]) == 4
    hand = label["hands"][0]
    shapes = {
        key: np.shape(hand[key])
        for key in ("bbox", "joints_3d", "joints_2d", "root_3d", "vertices", "visible")
    }
    assert shapes == {
        "bbox": (4,),
        "joints_3d": (21, 3),
        "joints_2d": (21, 2),
        "root_3d": (3,),
        "vertices": (778, 3),
        "visible": (21,),
    }
    assert {key: len(value) for key, value in hand["mano"].items()} == {
        "global_orient": 3,
        "hand_pose": 45,
        "betas": 10,
        "translation": 3,
    }
    assert "vertices" not in synthesize(5, 3, replace(SMALL, vertices=False), kit).label["hands"][0]


def test_the_camera_projects_joints_3d_onto_joints_2d(labels: list[Label]) -> None:
    for label in labels:
        fx, fy, cx, cy = label["camera"]
        for hand in label["hands"]:
            joints = np.array(hand["joints_3d"])
            assert (joints[:, 2] > 0).all()
            landed = joints[:, :2] / joints[:, 2:] * (fx, fy) + (cx, cy)
            assert landed == pytest.approx(np.array(hand["joints_2d"]), abs=0.02)
            assert joints[0] == pytest.approx(hand["root_3d"])


def test_mano_parameters_give_the_joints_and_the_mesh_of_both_sides(labels: list[Label]) -> None:
    layer = ManoLayer(synthetic_hand(), dtype=torch.float64)
    hands = [hand for label in labels for hand in label["hands"]]
    assert {hand["side"] for hand in hands} == {"left", "right"}
    for hand in hands:
        vertices, joints = by_the_layer(layer, hand)
        assert joints == pytest.approx(np.array(hand["joints_3d"]), abs=2e-5)
        assert vertices == pytest.approx(np.array(hand["vertices"]), abs=3e-5)


def test_the_box_holds_the_mesh_inside_the_picture(labels: list[Label]) -> None:
    for label in labels:
        fx, fy, cx, cy = label["camera"]
        for hand in label["hands"]:
            mesh = np.array(hand["vertices"])
            landed = mesh[:, :2] / mesh[:, 2:] * (fx, fy) + (cx, cy)
            low, high = landed.min(axis=0).clip(0, 95), landed.max(axis=0).clip(0, 95)
            assert hand["bbox"] == pytest.approx([*low, *(high - low)], abs=0.1)


def test_a_sample_is_the_same_alone_and_among_others(kit: HandKit) -> None:
    in_a_row = [synthesize(11, index, SMALL, kit) for index in range(6)]
    backwards = [synthesize(11, index, SMALL, HandKit(synthetic_hand())) for index in reversed(range(6))]
    for one, again in zip(in_a_row, reversed(backwards), strict=True):
        assert encode_jpeg(one.image) == encode_jpeg(again.image)
        assert to_json(one.label) == to_json(again.label)
    assert len({to_json(one.label) for one in in_a_row}) == 6
    assert to_json(synthesize(12, 0, SMALL, kit).label) != to_json(in_a_row[0].label)


def test_a_flat_hand_before_the_camera_shows_its_joints(kit: HandKit) -> None:
    assert sum(visible(kit, open_palm(kit), [])) >= 19


def test_a_board_before_the_hand_hides_all_of_it_and_one_behind_nothing(kit: HandKit) -> None:
    hand = open_palm(kit)
    assert sum(visible(kit, hand, [board(0.3)])) == 0
    assert visible(kit, hand, [board(0.6)]) == visible(kit, hand, [])


def test_an_object_that_touches_the_finger_hides_its_joints(kit: HandKit) -> None:
    hand = open_palm(kit)
    last_joints = [7, 11, 15, 19]
    assert [visible(kit, hand, [])[joint] for joint in last_joints] == [1, 1, 1, 1]
    just_before = 0.45 + float(hand.joints[last_joints, 2].min()) - 0.01
    assert [visible(kit, hand, [board(just_before)])[joint] for joint in last_joints] == [0, 0, 0, 0]


def test_the_picture_shows_the_hand_where_its_box_says(kit: HandKit) -> None:
    hand, there = open_palm(kit), np.array([0.01, 0.07, 0.45])
    bare = replace(
        board(1.0),
        vertices=hand.vertices + there,
        normals=np.tile([0.0, 0.0, -1.0], (len(hand.vertices), 1)),
        faces=hand.faces,
        uv=np.zeros((len(hand.vertices), 2)),
        colours=np.ones((len(hand.vertices), 3)),
    )
    drawing = draw([bare], CAMERA, random_light(np.random.default_rng(0)), height=160, width=160)
    x, y, w, h = hand_label(kit, hand, there, CAMERA, drawing, owner=0, vertices=False)["bbox"]
    rows, columns = np.nonzero(drawing.alpha > 0.1)
    assert [columns.min(), rows.min(), columns.max(), rows.max()] == pytest.approx(
        [x, y, x + w, y + h], abs=1.0
    )


def test_half_a_board_hides_the_joints_behind_it(kit: HandKit) -> None:
    hand = open_palm(kit)
    shown = np.array(visible(kit, hand, []))
    behind = hand.joints[:, 0] > 0.01 * 0.45 / 0.3
    expected = np.where(behind, 0, shown)
    found = np.array(visible(kit, hand, [board(0.3, x_from=0.01)]))
    clear = np.abs(hand.joints[:, 0] - 0.015) > 0.003
    assert 0 < behind.sum() < 21
    assert np.array_equal(found[clear], expected[clear])


def test_a_fist_hides_its_fingertips_from_behind(kit: HandKit) -> None:
    hand = open_palm(kit)
    turned = Rotation.from_rotvec([0, np.pi, 0]) * Rotation.from_rotvec(hand.global_orient)
    bend = np.cross(kit.along, kit.palm)
    curl = np.tile(1.4 * bend, (15, 1))
    curl[12:] = 0  # MANO's last three joints are the thumb's
    fist = kit.posed(turned.as_rotvec(), curl.reshape(45), np.zeros(10), "right")
    shown = visible(kit, fist, [])
    assert [shown[tip] for tip in (8, 12, 16)] == [0, 0, 0]
    assert sum(shown[knuckle] for knuckle in (5, 9, 13, 17)) == 4


def test_a_ray_test_agrees_with_geometry() -> None:
    triangle = np.array([[[-1.0, -1, 2], [1, -1, 2], [0, 1, 2]]])
    points = np.array([[0, 0, 3.0], [0, 0, 1.5], [3, 0, 3], [0, 0, -3], [0, -2.5, 3]])
    assert hidden_by(points, triangle).tolist() == [True, False, False, False, False]


def test_occluders_hide_about_the_share_that_was_asked_for(kit: HandKit) -> None:
    spec = replace(SMALL, second_hand=0.0)

    def hidden(**changes: Any) -> float:
        wanted = replace(spec, **changes)
        found = [synthesize(2, index, wanted, kit).label["hands"][0]["visible"] for index in range(24)]
        return 1 - float(np.mean(found))

    free = hidden(occlusion=0.0)
    little = hidden(occlusion=1.0, hidden_share=(0.0, 0.15))
    much = hidden(occlusion=1.0, hidden_share=(0.6, 0.8))
    assert free < 0.4
    assert little - free < 0.2
    assert much > 0.6
    assert much < 0.95


def test_a_second_hand_in_the_picture_is_labelled_too(kit: HandKit) -> None:
    spec = replace(SMALL, occlusion=1.0, second_hand=1.0)
    found = [synthesize(0, index, spec, kit).label["hands"] for index in range(12)]
    both = [hands for hands in found if len(hands) == 2]
    assert len(both) >= 6
    for hands in both:
        assert hands[0]["side"] != hands[1]["side"]
        joints = np.array(hands[1]["joints_2d"])
        assert ((joints > -1) & (joints < 96)).all(axis=1).sum() >= 10


@pytest.mark.parametrize("shape", SHAPES)
def test_every_object_is_a_mesh_of_the_size_of_things(shape: str) -> None:
    for seed in range(5):
        points = np.concatenate(
            [patch.reshape(-1, 3) for patch in SHAPES[shape](np.random.default_rng(seed))]
        )
        assert np.isfinite(points).all()
        assert 0.02 < np.ptp(points, axis=0).max() < 0.4


def test_a_jpeg_keeps_the_picture_and_its_channels(kit: HandKit) -> None:
    image = synthesize(0, 0, SMALL, kit).image
    assert image.shape == (96, 96, 3)
    back = cv2.imdecode(np.frombuffer(encode_jpeg(image, quality=98), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(back.astype(int) - image).mean() < 4
