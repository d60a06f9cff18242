"""Numbers of connected components against cases by hand and a flood fill."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from difnet.measures.fragments import Fragments, count_fragments

VOID = 255


def flood_fill(classes, labelled):
    """Number of components of the classes 0, 1 and 2."""
    left = {tuple(place) for place in np.argwhere(labelled).tolist()}
    counts = [0, 0, 0]
    while left:
        start = left.pop()
        counts[classes[start]] += 1
        border = [start]
        while border:
            y, x = border.pop()
            for place in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if place in left and classes[place] == classes[start]:
                    left.remove(place)
                    border.append(place)
    return counts


def test_diagonal_neighbours_are_not_connected():
    classes = np.array([[0, 1, 0], [1, 0, 1]])
    assert count_fragments(classes, np.ones((2, 3), bool), 4).tolist() == [3, 3, 0, 0]


def test_void_cuts_components():
    label = np.array([[0, VOID, 0], [0, VOID, 0]])
    predicted = np.zeros((2, 3), np.int64)
    fragments = Fragments(2)
    fragments.update(predicted, label)
    assert fragments.as_record() == {"predicted": 2.0, "labelled": 2.0, "ratio": 1.0}
    nothing = Fragments(2)
    nothing.update(predicted, np.full_like(label, VOID))
    assert nothing.as_record() == {"predicted": 0.0, "labelled": 0.0, "ratio": None}


def test_means_over_images():
    fragments = Fragments(3)
    fragments.update(np.array([[0, 1, 0, 1, 0]]), np.array([[0, 0, 0, 1, 1]]))
    fragments.update(np.array([[2]]), np.array([[1]]))
    # Predicted 3 + 2 and then 1 of class 2; labelled 1 + 1 and then 1 of class 1.
    assert fragments.as_record() == {"predicted": 3.0, "labelled": 1.5, "ratio": 2.0}
    assert fragments.by_class(["a", "b", "c"]) == {
        "a": {"predicted": 1.5, "labelled": 0.5, "ratio": 3.0},
        "b": {"predicted": 1.0, "labelled": 1.0, "ratio": 1.0},
        "c": {"predicted": 0.5, "labelled": 0.0, "ratio": None},
    }


def test_no_image():
    assert Fragments(2).as_record() == {"predicted": None, "labelled": None, "ratio": None}


@pytest.mark.parametrize("constant", [0, 1])
def test_constant_prediction_is_one_fragment(constant):
    fragments = Fragments(2)
    fragments.update(np.full((4, 4), constant), np.eye(4, dtype=np.int64))
    assert fragments.as_record() == {"predicted": 1.0, "labelled": 6.0, "ratio": 1 / 6}


@given(
    st.tuples(st.integers(1, 7), st.integers(1, 7)).flatmap(
        lambda shape: st.tuples(arrays(np.int64, shape, elements=st.integers(0, 2)), arrays(bool, shape))
    )
)
def test_random_maps(drawn):
    classes, labelled = drawn
    assert count_fragments(classes, labelled, 3).tolist() == flood_fill(classes, labelled)
