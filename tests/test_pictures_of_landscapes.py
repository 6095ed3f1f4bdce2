"""Pictures of landscapes: lines, planes, surfaces and paths."""

import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_lwsam import plots
from tests import recorded
from tests.pictures import NUMBERS, drawn


def test_landscape_along_a_line():
    axes = plots.landscape(recorded.line()).axes[0]
    losses, place = axes.lines
    assert np.isnan(losses.get_ydata()).sum() == 1
    assert place.get_xydata().tolist() == [[0.0, 1.0]]
    assert [text.get_text() for text in axes.texts] == ["trained"]
    assert axes.get_title() == "Along a line\n(grey: loss not finite)"
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "random direction",
        "loss",
    )


def test_landscape_over_a_plane():
    axes, colours = plots.landscape(recorded.plane()).axes
    assert axes.get_xlabel() == "component 1\n(80.0 % of variance)"
    assert axes.get_ylabel() == "component 2\n(15.0 % of variance)"
    (path,) = axes.lines
    assert path.get_xydata().tolist() == recorded.plane().path.tolist()
    labels = {text.get_text() for text in axes.texts}
    assert labels == {"start", "epoch 1", "end"}
    assert colours.get_ylabel() == "loss"


def test_huge_losses_are_logarithmic_and_say_so():
    bowl = recorded.plane().losses
    huge = np.exp(8.0 * bowl)
    huge[0, 0] = np.nan
    axes, colours = plots.landscape(recorded.plane(huge)).axes
    assert colours.get_ylabel() == "loss (log scale)"
    assert "grey" in axes.get_title()
    height = plots.surface(recorded.plane(huge)).axes[0]
    assert height.get_zlabel() == "loss (log10)"
    assert height.get_zlim()[1] < np.log10(np.nanmax(huge)) + 2.0
    assert plots.surface(recorded.plane()).axes[0].get_zlabel() == "loss"


def test_labels_of_a_path_leave_each_other_room():
    many = recorded.plane()
    course = np.linspace(-1.9, 0.0, 200)
    path = np.stack([course, 0.1 * course], 1)
    many = types.SimpleNamespace(
        losses=many.losses,
        coordinates=many.coordinates,
        labels=many.labels,
        explained=(),
        name="many",
        path=path,
        path_labels=[f"epoch {i}" for i in range(200)],
    )
    figure = plots.landscape(many)
    drawn(figure)
    texts = figure.axes[0].texts
    assert {"epoch 0", "epoch 199"} <= {text.get_text() for text in texts}
    boxes = [text.get_window_extent() for text in texts]
    assert not any(
        one.overlaps(other)
        for i, one in enumerate(boxes)
        for other in boxes[:i]
    )


def draw_any_landscape(data, width, height):
    size = width * height
    values = data.draw(st.lists(NUMBERS, min_size=size, max_size=size))
    losses = np.array(values).reshape(width, height)
    losses[0, 0] = 1.0
    plane = types.SimpleNamespace(
        losses=losses,
        coordinates=(np.arange(width), np.arange(height)),
        labels=("one", "other"),
        explained=(),
        name="any",
        path=np.array([[0.0, 0.0], [9.0, 9.0]]),
        path_labels=("here", "outside"),
    )
    line = types.SimpleNamespace(**vars(plane))
    line.losses, line.coordinates = losses[:, 0], (np.arange(width),)
    line.path, line.labels = np.array([[0.5]]), ("one",)
    line.path_labels = ("here",)
    for figure in (
        plots.landscape(plane),
        plots.surface(plane),
        plots.landscape(line),
    ):
        figure.draw_without_rendering()


ANY = given(st.data(), st.integers(2, 7), st.integers(2, 7))


@settings(max_examples=3, deadline=None)
@ANY
def test_any_landscape_can_be_drawn(data, width, height):
    draw_any_landscape(data, width, height)


@pytest.mark.exhaustive
@settings(max_examples=20, deadline=None)
@ANY
def test_many_landscapes_can_be_drawn(data, width, height):
    draw_any_landscape(data, width, height)
