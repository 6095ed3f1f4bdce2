"""Landscapes through other weights: lines to models, planes of courses."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_lwsam import LWSAMModel, analysis
from tests.curvature import compiled, in_float64, random
from tests.landscapes import classifier, landscape, line, loss_with
from tests.support import (
    assert_equal,
    cross_entropy,
    dense_network,
    weights_of,
)

OTHERS = {
    "wrapped": LWSAMModel,
    "arrays of a wrapped one": lambda other: LWSAMModel(other).get_weights(),
    "model": lambda other: other,
    "arrays": lambda other: other.get_weights(),
    "tuple": lambda other: tuple(other.get_weights()),
}

MORE = [pytest.param(k, marks=pytest.mark.exhaustive) for k in list(OTHERS)[2:]]


@pytest.mark.parametrize("kind", [*list(OTHERS)[:2], *MORE])
def test_the_line_to_another_model(kind):
    """Moving statistics move along."""
    model, x, y = classifier()
    other, _, _ = classifier(seed=1)
    here, there = weights_of(model), weights_of(other)
    found = landscape(
        model,
        x,
        y,
        directions=analysis.LineTo(OTHERS[kind](other)),
        num_points=5,
    )
    ends = found.coordinates[0][[0, -1]].tolist()
    # Where moving statistics move, only between the two.
    moves = any(
        not np.array_equal(w.numpy(), v.numpy())
        for w, v in zip(
            model.non_trainable_weights,
            other.non_trainable_weights,
            strict=True,
        )
    )
    assert ends == ([0.0, 1.0] if moves else [-0.5, 1.5])
    expected = [
        loss_with(
            model,
            [(1.0 - a) * w + a * v for w, v in zip(here, there, strict=True)],
            x,
            y,
        )
        for a in found.coordinates[0]
    ]
    np.testing.assert_allclose(found.losses, expected, rtol=1e-5)
    at = found.coordinates[0].tolist()
    start, end = found.losses[at.index(0.0)], found.losses[at.index(1.0)]
    assert start == analysis.Objective(model, x, y).loss()
    assert end == pytest.approx(other.evaluate(x, y, verbose=0), rel=1e-6)
    assert abs(start - end) > 1e-3


def test_training_needs_no_moving_statistics():
    model, x, y = classifier()
    other, _, _ = classifier(seed=1)
    before = {}
    for training in (False, True):
        before[training] = landscape(
            model,
            x,
            y,
            directions=analysis.LineTo(other),
            num_points=3,
            training=training,
        ).losses
    for variable in model.non_trainable_variables:
        if "moving" in variable.name:
            variable.assign_add(np.ones(variable.shape))
    for training in (False, True):
        after = landscape(
            model,
            x,
            y,
            directions=analysis.LineTo(other),
            num_points=3,
            training=training,
        ).losses
        assert np.array_equal(before[training], after) == training


POINTS = np.array([[3.0, 1.0], [2.0, -0.5], [0.5, -0.3]])


def trajectory_of(model, points=POINTS, size=1.0):
    """Weights in a plane through those of the model, at some points of it."""
    weights = weights_of(model)
    ends = np.cumsum([w.size for w in weights])
    plane, _ = np.linalg.qr(random(ends[-1], points.shape[1]))
    course = []
    for step in size * points @ plane.T:
        parts = np.split(step, ends[:-1])
        course.append(
            [
                w + p.reshape(w.shape)
                for w, p in zip(weights, parts, strict=True)
            ]
        )
    return course


@pytest.mark.not_torch
@in_float64()
def test_a_plane_goes_through_all_points_of_its_trajectory():
    model = compiled(dense_network(sizes=(5, 6, 3)))
    x, y = random(8, 5), random(8, 3)
    course = trajectory_of(model)
    plane = analysis.TrajectoryPlane(course)
    found = landscape(model, x, y, directions=plane, num_points=2)
    frame = plane.frame(analysis.Objective(model, x, y))
    vectors = np.stack(
        [
            np.concatenate([part.reshape(-1) for part in direction])
            for direction in frame.directions
        ]
    )
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(2), atol=1e-12)
    # Distances are those of the weights.
    np.testing.assert_allclose(
        np.linalg.norm(found.path, axis=1),
        [*np.linalg.norm(POINTS, axis=1), 0.0],
        atol=1e-12,
    )
    np.testing.assert_allclose(np.sum(found.explained), 1.0, rtol=1e-12)
    assert found.explained[0] > found.explained[1] > 0.0
    assert found.path_labels == ("0", "1", "2", "now")
    for (low, high), values in zip(frame.ranges, found.path.T, strict=True):
        assert low < values.min() < values.max() < high
    for weights, (a, b) in zip(course, found.path[:-1], strict=True):
        corner = landscape(
            model,
            x,
            y,
            directions=plane,
            ranges=[(a, a + 1.0), (b, b + 1.0)],
            num_points=2,
        )
        np.testing.assert_allclose(
            corner.losses[0, 0], loss_with(model, weights, x, y), rtol=1e-10
        )


@pytest.mark.not_torch
@in_float64()
def test_what_a_plane_does_not_hold_is_not_explained():
    model = compiled(dense_network(sizes=(5, 6, 3)))
    points = np.array([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    found = landscape(
        model,
        random(8, 5),
        random(8, 3),
        directions=analysis.TrajectoryPlane(trajectory_of(model, points)),
        num_points=2,
    )
    np.testing.assert_allclose(found.explained, [9 / 14, 4 / 14], rtol=1e-10)


def test_a_plane_leaves_statistics_and_frozen_weights():
    model, x, y = classifier()
    model.get_layer("hidden").trainable = False
    compiled(model, cross_entropy())
    before = weights_of(model)
    plane = analysis.TrajectoryPlane(trajectory_of(model))
    frame = plane.frame(analysis.Objective(model, x, y))
    a, b = frame.path[0]
    corner = landscape(
        model,
        x,
        y,
        directions=plane,
        ranges=[(a, a + 1.0), (b, b + 1.0)],
        num_points=2,
    )
    moves = {id(v) for v in model.trainable_variables}
    mixed = [
        there if id(variable) in moves else here
        for variable, here, there in zip(
            model.weights, before, plane.trajectory[0], strict=True
        )
    ]
    assert corner.losses[0, 0] == pytest.approx(
        loss_with(model, mixed, x, y), rel=1e-5
    )
    assert_equal(weights_of(model), before)


def test_trajectories_that_span_no_plane():
    model, x, y = line()
    course = trajectory_of(model, np.array([[1.0], [2.0], [-1.0]]))
    here = weights_of(model)
    alike = dense_network(sizes=(5, 6, 3)).get_weights()
    for trajectory, message in (
        (course, "a trajectory on one line"),
        ([here, here], "a trajectory on one line"),
        ([alike, alike], "built alike"),
        ([here, here[:1]], "built alike"),
    ):
        plane = analysis.TrajectoryPlane(trajectory)
        with pytest.raises(ValueError, match=message):
            landscape(model, x, y, directions=plane)
    one = [keras.Input((1,)), layers.Dense(1, use_bias=False)]
    ones = [[np.array([[w]])] for w in (1.0, 2.0)]
    with pytest.raises(ValueError, match="more than one direction"):
        landscape(
            compiled(keras.Sequential(one)),
            np.ones((2, 1)),
            np.ones((2, 1)),
            directions=analysis.TrajectoryPlane(ones),
        )


def test_trajectories_that_are_none(tmp_path):
    with pytest.raises(ValueError, match=r"two times or more.*Received: 1 of"):
        analysis.TrajectoryPlane([[np.zeros(3)]])
    with pytest.raises(TypeError, match="Received: trajectory=3"):
        analysis.TrajectoryPlane(3)
    with pytest.raises(ValueError, match="without such files"):
        analysis.TrajectoryPlane(tmp_path)
