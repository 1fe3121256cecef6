"""Buffers as pictures."""

from __future__ import annotations

import numpy as np

from gaussian4d.io.pictures import alpha_picture, contact_sheet, depth_picture, depth_range, rgb_picture


def test_rgb_is_rounded_and_clamped() -> None:
    values = np.array([[[-1.0, 0.0, 0.5], [1.0, 2.0, 0.2]]])
    assert rgb_picture(values).tolist() == [[[0, 0, 128], [255, 255, 51]]]
    assert alpha_picture(np.array([[[0.2]]])).tolist() == [[[51, 51, 51]]]


def test_depth_gets_darker_with_distance_and_black_where_nothing_is() -> None:
    depth = np.linspace(1.0, 10.0, 32).reshape(1, 32, 1)
    alpha = np.ones_like(depth)
    alpha[0, 5] = 0.0
    span = depth_range(depth, alpha)
    assert span is not None and 1.0 <= span[0] < span[1] <= 10.0
    picture = depth_picture(depth, alpha, span).astype(int)
    lightness = picture[0].sum(axis=1)
    assert lightness[5] == 0
    shown = np.delete(lightness, 5)
    assert np.all(np.diff(shown) <= 0) and shown[0] > 2 * shown[-1]


def test_nothing_shown_is_black_not_an_error() -> None:
    empty = np.zeros((4, 5, 1))
    assert depth_range(empty, empty) is None
    assert not depth_picture(empty, empty, None).any()


def test_contact_sheet_places_every_picture() -> None:
    rows = [[np.full((3, 4, 3), 10 * i + j, np.uint8) for j in range(2)] for i in range(2)]
    sheet = contact_sheet(rows, gap=1)
    assert sheet.shape == (2 * 4 + 1, 2 * 5 + 1, 3)
    assert sheet[1, 1, 0] == 0 and sheet[1, 6, 0] == 1 and sheet[5, 1, 0] == 10 and sheet[0, 0, 0] == 255
