"""Loss landscapes: random directions, losses on them, bad input."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_lwsam import analysis
from tests.curvature import compiled, in_float64, random
from tests.landscapes import classifier, landscape, line
from tests.support import (
    assert_equal,
    dense_network,
    weights_of,
)


def directions_of(network, x, y, **kwargs):
    """Pairs of a variable and what it moves by, `None` where it does not."""
    # What begins at zero would not move anyway.
    for i, variable in enumerate(network.trainable_variables):
        variable.assign(random(*variable.shape, seed=100 + i))
    objective = analysis.Objective(compiled(network), x, y)
    frame = analysis.RandomDirections(**kwargs).frame(objective)
    return [
        list(zip(objective.variables, direction, strict=True))
        for direction in frame.directions
    ]


# Axes of a filter, by layer and weight.
FILTERS = {
    "dense": (layers.Dense(4), (5, 3), {"kernel": (0,)}),
    "conv1d": (layers.Conv1D(4, 2), (5, 3), {"kernel": (0, 1)}),
    "conv2d": (layers.Conv2D(4, 2), (5, 5, 3), {"kernel": (0, 1, 2)}),
    "depthwise1d": (
        layers.DepthwiseConv1D(2, depth_multiplier=2),
        (5, 3),
        {"kernel": (0,)},
    ),
    "depthwise2d": (
        layers.DepthwiseConv2D(2, depth_multiplier=2),
        (5, 5, 3),
        {"kernel": (0, 1)},
    ),
    "separable2d": (
        layers.SeparableConv2D(4, 2),
        (5, 5, 3),
        {"depthwise_kernel": (0, 1), "pointwise_kernel": (0, 1, 2)},
    ),
    "transposed": (
        layers.Conv2DTranspose(4, 2),
        (5, 5, 3),
        {"kernel": (0, 1, 3)},
    ),
    "embedding": (layers.Embedding(7, 4), (5,), {"embeddings": (1,)}),
    "lstm": (
        layers.LSTM(4),
        (5, 3),
        {"kernel": (0,), "recurrent_kernel": (0,)},
    ),
    # Its bias has two rows.
    "gru": (
        layers.GRU(4),
        (5, 3),
        {"kernel": (0,), "recurrent_kernel": (0,)},
    ),
    "batch_norm": (layers.BatchNormalization(), (5, 3), {}),
    # Two axes, but no kernel.
    "layer_norm": (layers.LayerNormalization(axis=[1, 2]), (5, 3), {}),
}


def norms(array, axes):
    return np.sqrt(np.sum(np.square(array), axes))


# What others show as well.
ALIKE = ("conv1d", "depthwise1d", "lstm")
KINDS = [
    pytest.param(kind, marks=pytest.mark.exhaustive) if kind in ALIKE else kind
    for kind in FILTERS
]


@pytest.mark.parametrize("kind", KINDS)
def test_filters_are_as_long_as_those_of_the_weights(kind):
    layer, shape, filters = FILTERS[kind]
    layer = type(layer).from_config(layer.get_config())
    inputs = keras.Input(shape)
    x = layers.Flatten()(layer(inputs))
    outputs = layers.Dense(1, use_bias=False, name="last")(x)
    network = keras.Model(inputs, outputs)
    data = np.zeros((2, *shape)), np.zeros((2, 1))
    for direction in directions_of(network, *data):
        own = {id(v) for v in layer.trainable_variables}
        moved = {
            v.name: (v, d)
            for v, d in direction
            if id(v) in own and d is not None
        }
        assert set(moved) == set(filters)
        for name, axes in filters.items():
            weight, step = moved[name]
            np.testing.assert_allclose(
                norms(step, axes), norms(weight, axes), rtol=1e-5
            )
            assert np.abs(step - np.array(weight)).max() > 0.1


def test_biases_of_attention_do_not_move():
    """They have two axes, heads and keys."""
    inputs = keras.Input((5, 4))
    x = layers.MultiHeadAttention(2, 3)(inputs, inputs)
    network = keras.Model(inputs, layers.Dense(1)(x))
    (direction,) = directions_of(
        network, random(2, 5, 4), random(2, 5, 1), dimensions=1
    )
    moved = {v.name for v, step in direction if step is not None}
    assert moved == {"kernel"}


def test_what_is_frozen_does_not_move():
    network = dense_network(sizes=(5, 6, 3))
    network.get_layer("dense1").trainable = False
    (direction,) = directions_of(
        network, random(4, 5), random(4, 3), dimensions=1
    )
    assert [step is None for _, step in direction] == [True, True, False, True]


def test_directions_are_those_of_the_seed():
    data = line()
    found = [
        landscape(
            *data, directions=analysis.RandomDirections(2, seed), num_points=3
        ).losses
        for seed in (5, 5, 6)
    ]
    assert_equal(*[[losses] for losses in found[:2]])
    assert np.abs(found[0] - found[2]).max() > 1e-3
    # The two directions are two.
    assert np.abs(found[0] - found[0].T).max() > 1e-3


@pytest.mark.parametrize("training", [False, True])
def test_the_centre_is_the_loss(training):
    model, x, y = classifier()
    expected = analysis.Objective(model, x, y, training=training).loss()
    found = landscape(model, x, y, num_points=3, training=training)
    assert found.losses[1, 1] == pytest.approx(expected, rel=1e-6)
    assert np.std(found.losses) > 1e-3
    np.testing.assert_array_equal(found.path, [[0.0, 0.0]])
    # Dropout draws what it drew before.
    again = landscape(model, x, y, num_points=3, training=training)
    assert_equal([again.losses], [found.losses])


@pytest.fixture(scope="module")
def objective():
    """An objective whose Hessian is everywhere the same."""
    with in_float64():
        return analysis.Objective(*line(run_eagerly=False))


@pytest.mark.not_jax
@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.not_torch
@in_float64()
def test_a_quadratic_is_a_paraboloid(objective, dimensions):
    directions = analysis.RandomDirections(dimensions, seed=2)
    found = landscape(objective, directions=directions, ranges=(-2.0, 3.0))
    points = {1: 41, 2: 21}[dimensions]
    assert found.losses.shape == (points,) * dimensions
    frame = directions.frame(objective)
    steps = [
        np.concatenate(
            [
                np.ravel(np.zeros(v.shape) if part is None else part)
                for v, part in zip(objective.variables, parts, strict=True)
            ]
        )
        for parts in frame.directions
    ]
    for corner in (0, points // 2, points - 1):
        step = sum(
            axis[corner] * direction
            for axis, direction in zip(found.coordinates, steps, strict=True)
        )
        expected = (
            objective.loss()
            + objective.gradient() @ step
            + step @ objective.product(step) / 2.0
        )
        np.testing.assert_allclose(
            found.losses[(corner,) * dimensions], expected, rtol=1e-12
        )
    # Third differences of a parabola are none.
    for axis in range(dimensions):
        third = np.diff(found.losses, 3, axis=axis)
        np.testing.assert_allclose(third, 0.0, atol=1e-10)


@pytest.fixture(scope="module")
def straight():
    """A model that is only looked at, and its data."""
    return line()


BAD = [
    ({"num_points": 1}, ValueError, "at least 2.*Received: num_points=1"),
    ({"num_points": 2.5}, TypeError, "`num_points` must be a positive int"),
    ({"ranges": (1.0, -1.0)}, ValueError, "low < high"),
    ({"ranges": (0.0, 0.0)}, ValueError, "low < high"),
    ({"ranges": (0.0, np.inf)}, ValueError, "low < high"),
    ({"ranges": 1.0}, ValueError, "`ranges` must be"),
    ({"ranges": [(0.0, 1.0)]}, ValueError, "each of the 2 directions"),
    ({"ranges": "wide"}, (TypeError, ValueError), "`ranges` must be"),
    ({"ranges": [(0, 1), (2,)]}, ValueError, "`ranges` must be"),
    ({"directions": 2}, TypeError, "`directions` must be"),
    ({"directions": analysis.RandomDirections}, TypeError, "`directions` must"),
    ({"verbose": 2}, ValueError, "`verbose` must be 0 or 1"),
    ({"verbose": "1"}, (TypeError, ValueError), "`verbose` must be 0 or 1"),
    ({"training": None}, TypeError, "`training` must be True or False"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
def test_bad_arguments(straight, arguments, error, message):
    with pytest.raises(error, match=message):
        landscape(*straight, **arguments)


def test_bad_directions():
    for dimensions in (0, 3):
        with pytest.raises(ValueError, match="`dimensions` must be"):
            analysis.RandomDirections(dimensions)
    with pytest.raises(TypeError, match="`dimensions` must be"):
        analysis.RandomDirections(2.0)
    with pytest.raises(ValueError, match="`seed` must be a non-negative int"):
        analysis.RandomDirections(seed=-1)
    with pytest.raises(TypeError, match=r"keras\.Model, or a list of arrays"):
        analysis.LineTo("model.keras")
    model, x, y = line()
    others = [line(size=4)[0], [], model.get_weights()[:1], [np.zeros(3)] * 2]
    for other in others:
        with pytest.raises(ValueError, match="built alike"):
            landscape(model, x, y, directions=analysis.LineTo(other))


def test_ranges_of_each_direction():
    found = landscape(*line(), ranges=[(0, 1), (-3, -1)], num_points=3)
    np.testing.assert_array_equal(found.coordinates[0], [0.0, 0.5, 1.0])
    np.testing.assert_array_equal(found.coordinates[1], [-3.0, -2.0, -1.0])


def test_progress_is_shown_if_wanted(capsys):
    data = line()
    capsys.readouterr()
    landscape(*data, num_points=2)
    assert capsys.readouterr().out == ""
    analysis.loss_landscape(*data, num_points=2, verbose=1)
    assert "4/4" in capsys.readouterr().out


def test_the_model_and_its_losses_beyond_float32():
    """What overflows is infinite or NaN in the picture, and no error."""
    model, x, y = line()
    before = weights_of(model)
    found = landscape(
        model,
        x,
        y,
        directions=analysis.RandomDirections(1),
        ranges=(-1e25, 1e25),
        num_points=3,
    )
    assert np.isinf(found.losses[[0, 2]]).all()
    assert np.isfinite(found.losses[1])
    assert_equal(weights_of(model), before)


def test_weights_of_16_bits_move_in_32():
    keras.config.set_dtype_policy("bfloat16")
    model, x, y = line()
    keras.config.set_dtype_policy("float32")
    copy, _, _ = line()
    copy.set_weights([w.astype("float32") for w in weights_of(model)])
    for directions in (
        analysis.RandomDirections(1),
        analysis.LineTo([np.ones((3, 1)), np.ones(1)]),
        analysis.LineTo(copy),
    ):
        ones, others = (
            landscape(m, x, y, directions=directions, num_points=5).losses
            for m in (model, copy)
        )
        np.testing.assert_allclose(ones, others, rtol=2e-2)
