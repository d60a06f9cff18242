"""Trimap and boundary F score against cases worked out by hand and against loops over all pairs of pixels."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from difnet.measures.boundaries import Outline, Trimap, boundary_pixels

VOID = 255
SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 7))


@st.composite
def maps(draw, void=True):
    """A label of up to three classes, often with void, and a prediction of its size."""
    shape = draw(SHAPES)
    label = draw(
        arrays(np.int64, shape, elements=st.sampled_from([0, 0, 1, 1, 2, VOID] if void else [0, 1, 2]))
    )
    return label, draw(arrays(np.int64, shape, elements=st.integers(0, 2)))


def touching(classes, labelled):
    """The pixels at a boundary as a list, by a loop over all pairs of neighbours."""
    height, width = classes.shape
    found = set()
    for y in range(height):
        for x in range(width):
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= v < height and 0 <= u < width
                if inside and labelled[y, x] and labelled[v, u] and classes[y, x] != classes[v, u]:
                    found.add((y, x))
    return sorted(found)


def near(pixel, others, limit):
    return any(math.dist(pixel, other) <= limit for other in others)


def brute_force_f(predicted, label, tolerance):
    labelled = label != VOID
    void = [tuple(place) for place in np.argwhere(~labelled).tolist()]
    scores = []
    for c in range(3):
        wanted = [p for p in touching(label, labelled) if label[p] == c]
        found = [p for p in touching(predicted, labelled) if predicted[p] == c]
        shares = []
        for points, others in ((found, wanted), (wanted, found)):
            counted = [p for p in points if not near(p, void, tolerance)]
            shares.append((sum(near(p, others, tolerance) for p in counted), len(counted)))
        if shares[0][1] + shares[1][1] > 0:
            precision, recall = (right / count if count else 1.0 for right, count in shares)
            both = precision + recall
            scores.append(2 * precision * recall / both if both else 0.0)
    return sum(scores) / len(scores) if scores else math.nan


def brute_force_trimap(pairs, width):
    confusion = np.zeros((3, 3))
    for label, predicted in pairs:
        labelled = label != VOID
        edge = touching(label, labelled)
        for p in map(tuple, np.argwhere(labelled).tolist()):
            if any(math.dist(p, other) < width for other in edge):
                confusion[label[p], predicted[p]] += 1
    scores = []
    for c in range(3):
        union = confusion[c].sum() + confusion[:, c].sum() - confusion[c, c]
        if union:
            scores.append(confusion[c, c] / union)
    return sum(scores) / len(scores) if scores else math.nan


def trimap_of(*pairs, widths=(1, 2, 5, 10, 20)):
    trimap = Trimap(3, widths)
    for label, predicted in pairs:
        trimap.update(predicted, Outline(label))
    return [float(scores.mean_iou) for scores in trimap.compute().values()]


def test_boundary_pixels_by_hand():
    label = np.array([[0, 0, 1], [0, VOID, 1], [2, 2, 1]])
    found = boundary_pixels(label, label != VOID)
    assert found.astype(int).tolist() == [[0, 1, 1], [1, 0, 0], [1, 1, 1]]


def test_trimap_by_hand():
    label = np.array([[0] * 6 + [1] * 6])
    predicted = label.copy()
    predicted[0, 3] = 1  # the third pixel from the boundary
    # 5 pixels on each side: IoU 4/5 and 5/6. All pixels: 5/6 and 6/7.
    assert trimap_of((label, predicted)) == pytest.approx(
        [1.0, 1.0, (4 / 5 + 5 / 6) / 2, (5 / 6 + 6 / 7) / 2, (5 / 6 + 6 / 7) / 2]
    )
    assert trimap_of((label, predicted), widths=(2, 3)) == pytest.approx([1.0, (2 / 3 + 3 / 4) / 2])


def test_trimap_counts_labels_and_predictions_apart():
    trimap = Trimap(3, (1,))
    trimap.update(np.array([[0, 2]]), Outline(np.array([[0, 1]])))
    assert trimap.compute()[1].labelled.tolist() == [True, True, False]


def test_the_band_has_as_many_pixels_on_each_side_as_its_width():
    label = np.zeros((3, 40), np.int64)
    label[:, 20:] = 1
    for width in (1, 2, 5, 10):
        for x in range(40):  # a prediction that is wrong in one column
            predicted = label.copy()
            predicted[:, x] = 2
            trimap = Trimap(3, (width,))
            trimap.update(predicted, Outline(label))
            inside = 20 - width <= x < 20 + width
            assert (float(trimap.compute()[width].accuracy) < 1.0) == inside


def test_void_is_no_class():
    label = np.array([[0, 0, VOID, 1, 1]])
    outline = Outline(label)
    assert np.isinf(outline.distance).all()
    assert np.isnan(trimap_of((label, np.array([[0, 1, 1, 0, 1]])))).all()
    assert math.isnan(outline.boundary_f(np.array([[0, 0, 1, 1, 1]])))  # this boundary touches void alone


@pytest.mark.parametrize("label", [[[0]], [[VOID]], [[0, 0], [0, 0]], [[VOID, 1]]])
def test_a_label_without_a_boundary_has_no_score(label):
    label = np.array(label)
    for c in range(3):
        predicted = np.full_like(label, c)
        assert np.isnan(trimap_of((label, predicted))).all()
        assert math.isnan(Outline(label).boundary_f(predicted))


def test_a_boundary_where_the_label_has_none_scores_zero():
    assert Outline(np.zeros((5, 5), np.int64)).boundary_f(np.eye(5, dtype=np.int64)) == 0.0


def test_boundary_f_by_hand():
    label = np.zeros((6, 6), np.int64)
    label[:, 3:] = 1
    predicted = label.copy()
    predicted[3:] = 0
    outline = Outline(label)
    assert outline.tolerance == 1
    # Class 0 has 6 predicted boundary pixels: 3 are the label's, (3, 3) is beside one of those, (3, 4) and
    # (3, 5) are not. Of the 6 of the label, (4, 2) and (5, 2) are missed.
    # Class 1 has 5 predicted ones, of which (2, 5) is wrong, and (4, 3) and (5, 3) are missed of 6.
    first, second = 4 / 6, 2 * (4 / 5) * (4 / 6) / (4 / 5 + 4 / 6)
    assert outline.boundary_f(predicted) == pytest.approx((first + second) / 2)


def test_tolerance_of_boundary_f():
    label, moved = np.zeros((2, 30), np.int64), np.zeros((2, 30), np.int64)
    label[:, 10:] = 1
    moved[:, 13:] = 1
    scores = [Outline(label, tolerance=tolerance).boundary_f(moved) for tolerance in (0, 2, 3, 4)]
    assert scores == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("shape", "tolerance"), [((1, 1), 1), ((60, 80), 1), ((120, 160), 2), ((505, 505), 5), ((600, 800), 8)]
)
def test_default_tolerance(shape, tolerance):
    # 0.0075 times the diagonals 1.4, 100, 200, 714.2 and 1000 is 0.01, 0.75, 1.5, 5.4 and 7.5.
    assert Outline(np.zeros(shape, np.int64)).tolerance == tolerance


def test_boundary_pixels_beside_void_do_not_count():
    label = np.array([[0, 0, 0, 1, 1, 1, VOID, 1, 1, 1, 1, 1]])
    predicted = np.array([[0, 0, 0, 1, 1, 1, 2, 0, 1, 1, 1, 1]])
    # The false boundary is between pixels 7 and 8. Pixel 7 is beside void, so class 0 has no wrong pixel that
    # counts. Class 1 has two that count, 3 and 8, of which one is right.
    assert Outline(label, tolerance=1).boundary_f(predicted) == pytest.approx((1.0 + 2 / 3) / 2)
    # At a tolerance of 2 pixel 8 does not count either, but pixel 3 does.
    assert Outline(label, tolerance=2).boundary_f(predicted) == 1.0


def test_absent_classes_change_nothing():
    label, predicted = np.array([[0, 0, 1, 1, 1, 1]]), np.array([[0, 0, 0, 0, 0, 1]])
    score = Outline(label, 1).boundary_f(predicted)
    assert Outline(label * 150, 1).boundary_f(predicted * 150) == score == 0.0
    # Class 2 is only predicted, and its score of 0 enters the mean. Of class 1, pixels 2 and 3 are predicted,
    # of which 2 is the label's, and 3 is so within a pixel.
    scores = [Outline(label, limit).boundary_f(np.array([[0, 0, 1, 1, 2, 2]])) for limit in (0, 1)]
    assert scores == pytest.approx([(1 + 2 / 3 + 0) / 3, (1 + 1 + 0) / 3])


@pytest.mark.parametrize("tolerance", [0, 1, 2, 3])
@given(maps())
def test_boundary_f_of_random_maps(tolerance, drawn):
    label, predicted = drawn
    found = Outline(label, tolerance).boundary_f(predicted)
    assert found == pytest.approx(brute_force_f(predicted, label, tolerance), nan_ok=True)


@given(st.lists(maps(), min_size=1, max_size=3))
def test_trimap_of_random_maps(drawn):
    widths = (1, 2, 3, 5)
    expected = [brute_force_trimap(drawn, width) for width in widths]
    assert trimap_of(*drawn, widths=widths) == pytest.approx(expected, nan_ok=True)


@given(maps(), st.integers(0, 2))
def test_predictions_at_void_change_nothing(drawn, other):
    label, predicted = drawn
    changed = np.where(label == VOID, other, predicted)
    one, two = (Outline(label).boundary_f(item) for item in (predicted, changed))
    assert one == pytest.approx(two, nan_ok=True, abs=0)
    assert trimap_of((label, predicted)) == pytest.approx(trimap_of((label, changed)), nan_ok=True, abs=0)


@given(maps())
def test_the_label_itself_scores_one(drawn):
    label, predicted = drawn
    perfect = np.where(label == VOID, predicted, label)
    has_boundary = bool(touching(label, label != VOID))
    assert trimap_of((label, perfect)) == (
        [1.0] * 5 if has_boundary else pytest.approx([math.nan] * 5, nan_ok=True)
    )
    score = Outline(label).boundary_f(perfect)
    assert score == 1.0 or math.isnan(score)
    if has_boundary and (label != VOID).all():
        assert score == 1.0


@given(maps(void=False), st.integers(0, 2))
def test_constant_prediction_scores_zero(drawn, constant):
    label, _ = drawn
    score = Outline(label).boundary_f(np.full_like(label, constant))
    assert score == 0.0 or (math.isnan(score) and len(np.unique(label)) == 1)


@given(maps(void=False))
def test_boundary_f_without_void_is_symmetric(drawn):
    label, predicted = drawn
    one, other = Outline(label).boundary_f(predicted), Outline(predicted).boundary_f(label)
    assert one == pytest.approx(other, nan_ok=True)


@pytest.mark.parametrize("widths", [(), (0, 1), (2, 1), (1, 1)])
def test_impossible_widths_are_refused(widths):
    with pytest.raises(ValueError, match="widths: expected increasing positive numbers of pixels, got"):
        Trimap(3, widths)


def test_impossible_tolerance_is_refused():
    with pytest.raises(ValueError, match=r"tolerance: expected .* got -1"):
        Outline(np.zeros((2, 2), np.int64), -1)
