"""Which found hand is which labelled one."""

import numpy as np

from pipeline.evaluation.pairing import pair_by_place

BOX = np.array([[40.0, 40, 60, 60]])
RIGHT, LEFT = np.array([False]), np.array([True])


def test_a_hand_is_known_by_its_place_whatever_its_side() -> None:
    larger = np.array([[34.0, 34, 72, 72]])
    elsewhere = np.array([[100.0, 100, 60, 60]])
    assert pair_by_place(BOX, RIGHT, larger, LEFT) == [(0, 0)]
    assert pair_by_place(BOX, RIGHT, elsewhere, RIGHT) == []
    assert pair_by_place(BOX, RIGHT, np.empty((0, 4)), np.empty(0, np.bool_)) == []


def test_each_hand_has_one_partner_and_the_nearest_go_first() -> None:
    # The first that was found is the second hand itself; the first hand was not found, and the second twice.
    truth = np.array([[40.0, 40, 60, 60], [62, 40, 60, 60]])
    found = np.array([[62.0, 40, 60, 60], [88, 40, 60, 60]])
    for left in ([False, False], [True, False], [True, True]):
        assert pair_by_place(truth, np.array(left), found, np.array([False, False])) == [(1, 0)]


def test_hands_that_share_a_box_are_told_apart_by_their_sides() -> None:
    truth = np.array([[40.0, 40, 60, 60], [41, 40, 60, 60]])
    found = np.array([[40.0, 40, 60, 60], [41, 40, 60, 60]])
    assert pair_by_place(truth, np.array([True, False]), found, np.array([False, True])) == [(0, 1), (1, 0)]
