"""Hands posed for measurement."""

import numpy as np

from model.mano.synthetic import synthetic_hand
from pipeline.evaluation.hands import HandPoser


def test_a_left_hand_at_rest_is_the_mirror_image_of_a_right_one() -> None:
    hands = HandPoser(synthetic_hand()).at_rest(np.array([False, True]))
    mirror = np.array([-1.0, 1.0, 1.0])
    for points in hands:
        np.testing.assert_allclose(points[1], points[0] * mirror, atol=1e-12)
