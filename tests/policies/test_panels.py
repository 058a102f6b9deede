"""Pictures: sizes, the place of marks on the plan, colours of codes."""

from __future__ import annotations

import numpy as np

from sideagents_policies.evaluate.panels import HEADER, PANEL, CodePalette, TopDown, compose, enlarge


def test_enlarge_keeps_pixels_sharp() -> None:
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    image[0, 1] = (255, 0, 0)
    big = enlarge(image, 8)
    assert big.shape == (8, 8, 3)
    assert (big[:4, 4:] == (255, 0, 0)).all()
    assert not big[:, :4].any()


def test_enlarge_pads_to_a_square() -> None:
    big = enlarge(np.full((2, 4, 3), 9, dtype=np.uint8), 8)
    assert (big[:4] == 9).all()
    assert not big[4:].any()


def test_plan_places_the_goal() -> None:
    plan = TopDown(np.ones((100, 100), dtype=bool), origin=(-5.0, -5.0), metres_per_pixel=0.1)
    assert plan.pixel(0.0, 0.0) == (50.0, 50.0)
    image = plan.draw(np.array([[-4.0, -4.0], [-3.0, -4.0]]), yaw=0.0, goal=(2.5, 2.5), size=200)
    column, row = 150, 150  # (2.5 + 5) / 0.1 pixels, enlarged twice
    assert tuple(image[row, column]) == (220, 50, 40)
    assert tuple(image[20, 30]) == (40, 90, 220)  # on the path, behind the arrow


def test_codes_get_three_colours() -> None:
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(5, 8, 4, 4))
    picture = CodePalette(codes).paint(codes[0])
    assert picture.shape == (4, 4, 3)
    assert picture.std() > 10
    assert CodePalette(codes[:, :2]).paint(codes[0, :2]).shape == (4, 4, 3)


def test_compose_is_a_video_frame() -> None:
    red = np.full((16, 16, 3), (255, 0, 0), dtype=np.uint8)
    frame = compose([("view", red), ("map", red)], "alpha 0.50")
    assert frame.shape == (HEADER + 2 * PANEL, 2 * PANEL, 3)
    assert frame.shape[0] % 16 == 0
    assert frame.shape[1] % 16 == 0
    assert tuple(frame[HEADER + 200, 100]) == (255, 0, 0)
    assert frame[: HEADER - 4].max() > 200  # the header's letters
