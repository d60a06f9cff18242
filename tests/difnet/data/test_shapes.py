"""Shapes drawn into a map of classes, against masks made by hand or by another rule."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from difnet.data.exports.shapes import Area, BoxMask, Disc, Line, Polygon, Rectangle, draw

SIZE = (24, 32)


def plane(size=SIZE, start=0):
    return np.full(size, start, np.uint8)


def middles(size=SIZE):
    """x and y of the middle of each pixel, where (0, 0) is the corner of the first one."""
    return np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)


def test_later_shapes_cover_earlier_ones_and_the_rest_stays():
    shapes = [Rectangle(1, (2, 3), (10, 9)), Rectangle(2, (8, 12), (5, 6)), Polygon(255, [(20, 1)])]
    expected = plane(start=7)
    expected[3:10, 2:11] = 1
    expected[6:13, 5:9] = 2
    expected[1, 20] = 255
    assert np.array_equal(draw(shapes, SIZE, 7), expected)
    assert draw([], SIZE, 255).dtype == np.uint8
    assert (draw([], SIZE, 255) == 255).all()


def test_polygon_holds_its_outline_and_a_hole_takes_its_own_away():
    outer, hole = [(4, 2), (20, 2), (20, 15), (4, 15)], [(8, 5), (12, 5), (12, 9), (8, 9)]
    expected = plane(start=9)
    expected[2:16, 4:21] = 3
    expected[5:10, 8:13] = 9
    assert np.array_equal(draw([Polygon(3, outer, [hole])], SIZE, 9), expected)
    assert np.array_equal(draw([Polygon(3, np.array(outer), [np.array(hole)])], SIZE, 9), expected)


@pytest.mark.parametrize("points", [[(1.4, 2.6), (25.2, 4.9), (11.7, 20.3)], [(-9, -4), (40, 8), (12, 60)]])
def test_polygon_is_drawn_as_pillow_draws_it(points):
    mask = Image.new("L", SIZE[::-1])
    ImageDraw.Draw(mask).polygon(points, outline=1, fill=1)
    assert np.array_equal(draw([Polygon(1, points)], SIZE, 0), np.array(mask))
    assert np.array(mask).any()


def test_polygons_of_one_and_two_points():
    expected = plane()
    expected[5, 3:9] = 4
    expected[7, 6] = 5
    shapes = [Polygon(4, [(3, 5), (8, 5)]), Polygon(5, [(6, 7)]), Polygon(6, [])]
    assert np.array_equal(draw(shapes, SIZE, 0), expected)


def test_disc():
    ys, xs = np.indices(SIZE)
    drawn = draw([Disc(2, (12, 9), 5)], SIZE, 0) == 2
    distance = np.hypot(xs - 12, ys - 9)
    assert drawn[distance <= 4.9].all()
    assert not drawn[distance > 5.6].any()
    assert drawn[9, 7:18].all()
    assert not drawn[9, [6, 18]].any()
    clipped = draw([Disc(2, (0, 23), 3)], SIZE, 0) == 2
    assert clipped[20:, 0].all()
    assert clipped[23, :4].all()
    assert clipped.sum() < 16


def test_line_is_as_wide_as_it_says():
    drawn = draw([Line(1, [(6, 12), (25, 12)], 10)], SIZE, 0)
    assert drawn.any(0).sum() == 20
    assert (drawn[:, 6:26].sum(0) == 10).all()
    assert drawn[12, 6:26].all()
    bent = draw([Line(1, [(4, 4), (20, 4), (20, 20)], 4)], SIZE, 0)
    assert bent[4, 4:21].all()
    assert bent[4:21, 20].all()
    assert not bent[10:, :17].any()


def test_box_mask_is_cut_at_the_image():
    mask = np.array([[0, 1, 1], [1, 0, 7]])
    whole = plane()
    whole[4:6, 10:13] = [[0, 3, 3], [3, 0, 3]]
    assert np.array_equal(draw([BoxMask(3, mask, 10, 4)], SIZE, 0), whole)
    assert np.array_equal(draw([BoxMask(3, mask.astype(bool), 10, 4)], SIZE, 0), whole)
    corner = plane()
    corner[0, 1] = 3
    assert np.array_equal(draw([BoxMask(3, mask, -1, -1)], SIZE, 0), corner)
    corner = plane()
    corner[23, 31] = 0
    corner[22, 31] = 0
    corner[23, 30] = 3
    assert np.array_equal(draw([BoxMask(3, np.array([[0, 0], [1, 0], [1, 1]]), 30, 22)], SIZE, 0), corner)
    assert not draw(
        [BoxMask(3, mask, 32, 0), BoxMask(3, mask, -3, 0), BoxMask(3, mask, 0, 24)], SIZE, 0
    ).any()


def test_box_mask_leaves_what_lies_below_its_zeros():
    shapes = [Rectangle(1, (0, 0), (31, 23)), BoxMask(2, np.eye(3), 4, 5)]
    expected = plane(start=1)
    expected[[5, 6, 7], [4, 5, 6]] = 2
    assert np.array_equal(draw(shapes, SIZE, 0), expected)


def test_area_of_half_the_image_has_half_of_its_pixels():
    expected = plane()
    expected[:12, :16] = 1
    assert np.array_equal(draw([Area(1, [[(0, 0), (16, 0), (16, 12), (0, 12)]])], SIZE, 0), expected)
    expected = plane()
    expected[3:8, 4:10] = 1  # 3.5 is the middle of row 3, which belongs to the area; that of row 8 does not
    assert np.array_equal(
        draw([Area(1, [[(3.51, 3.5), (9.9, 3.5), (9.9, 8.5), (3.51, 8.5)]])], SIZE, 0), expected
    )


@pytest.mark.parametrize("reach", [12, 60])
def test_area_takes_the_pixels_whose_middle_is_inside(reach):
    centre, corners = np.array([15.3, 11.2]), reach * np.array([[0.9, 0.2], [-0.4, 0.8], [-0.7, -0.9]])
    points = centre + corners
    x, y = middles()
    sides = []
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        sides.append((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0))
    inside = np.all(np.stack(sides) > 0, 0) | np.all(np.stack(sides) < 0, 0)
    assert 20 < inside.sum() <= x.size
    assert np.array_equal(draw([Area(1, [points])], SIZE, 0), inside)
    assert np.array_equal(draw([Area(1, [points[::-1]])], SIZE, 0), inside)


def test_area_with_a_hole_and_with_a_part_outside():
    outer, hole = [(-50, 2), (20, 2), (20, 15), (-50, 15)], [(3, 5), (3, 9), (12, 9), (12, 5)]
    expected = plane(start=6)
    expected[2:15, :20] = 2
    expected[5:9, 3:12] = 6
    assert np.array_equal(draw([Area(2, [outer, hole])], SIZE, 6), expected)
    assert not draw([Area(2, []), Area(2, [[]]), Area(2, [[(40, 2), (50, 2), (50, 9)]])], SIZE, 0).any()
