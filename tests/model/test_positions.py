"""Promises of position tables and rotary angles that a hand can check; tests/golden compares with transformers."""

from __future__ import annotations

import numpy as np
import pytest

from sightline.model.positions import (
    Grid,
    TextRotary,
    merge_order,
    position_embedding,
    token_positions,
    vision_rotary,
)


def test_patches_come_in_blocks_of_two_by_two():
    rows, cols = merge_order(4, 4)
    assert list(zip(rows.tolist(), cols.tolist(), strict=True))[:8] == [
        *((0, 0), (0, 1), (1, 0), (1, 1)),
        *((0, 2), (0, 3), (1, 2), (1, 3)),
    ]
    assert sorted(rows * 4 + cols) == list(range(16))


@pytest.mark.parametrize(("h", "w"), [(6, 6), (2, 2), (4, 10), (12, 2)])
def test_a_table_that_is_linear_in_row_and_column_is_interpolated_without_error(h: int, w: int):
    side = 6
    row, col = np.divmod(np.arange(side * side, dtype=np.float32), side)
    found = position_embedding(np.stack([row, col], 1), h, w)
    rows, cols = merge_order(h, w)
    np.testing.assert_allclose(found[:, 0], rows * (side - 1) / (h - 1), atol=1e-5)
    np.testing.assert_allclose(found[:, 1], cols * (side - 1) / (w - 1), atol=1e-5)


def test_a_picture_of_the_tables_own_size_gets_the_table_itself():
    table = np.random.default_rng(0).standard_normal((16, 3)).astype(np.float32)
    rows, cols = merge_order(4, 4)
    np.testing.assert_array_equal(position_embedding(table, 4, 4), table[rows * 4 + cols])


def test_half_of_the_vision_angles_turn_with_the_row_and_half_with_the_column():
    cos, sin = vision_rotary(4, 6, head_dim=8)
    rows, cols = merge_order(4, 6)
    assert cos.shape == sin.shape == (24, 8)
    np.testing.assert_allclose(sin[:, [0, 4]], np.sin(rows)[:, None].repeat(2, 1), atol=1e-6)
    np.testing.assert_allclose(sin[:, [2, 6]], np.sin(cols)[:, None].repeat(2, 1), atol=1e-6)
    np.testing.assert_allclose(cos[:, 1], np.cos(rows / 100), atol=1e-6)


def test_text_frequencies_turn_with_time_height_and_width_in_turn():
    rotary = TextRotary(32, 5e6, (6, 5, 5))
    moved = []
    for axis in range(3):
        positions = np.zeros((3, 1), np.int32)
        positions[axis] = 1
        moved.append(np.flatnonzero(rotary(positions)[1][0, :16]).tolist())
    assert moved == [[0, 3, 6, 9, 12, 15], [1, 4, 7, 10, 13], [2, 5, 8, 11, 14]]


def test_text_alone_counts_on_by_one_in_all_three_axes():
    positions, following = token_positions(4, ())
    assert positions.tolist() == [[0, 1, 2, 3]] * 3
    assert following == 4


def test_a_picture_stands_still_in_time_and_the_text_behind_it_goes_on_after_its_longer_side():
    positions, following = token_positions(10, [(2, Grid(1, 4, 6))])
    assert positions[0].tolist() == [0, 1, *[2] * 6, 5, 6]
    assert positions[1].tolist() == [0, 1, 2, 2, 2, 3, 3, 3, 5, 6]
    assert positions[2].tolist() == [0, 1, 2, 3, 4, 2, 3, 4, 5, 6]
    assert following == 7


def test_two_pictures_may_touch_and_a_prompt_may_end_with_one():
    positions, following = token_positions(3, [(0, Grid(1, 2, 4)), (2, Grid(1, 2, 2))])
    assert positions.tolist() == [[0, 0, 2], [0, 0, 2], [0, 1, 2]]
    assert following == 3
