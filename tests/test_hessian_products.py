"""Hessian-vector products of any network: differences of gradients."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from keras_lwsam import analysis
from tests import networks
from tests.curvature import (
    compiled,
    eigenvalues_of,
    in_float64,
    normalizing_network,
    random,
    vector_data,
    written_out,
)
from tests.support import (
    cross_entropy,
    dense_network,
)


def softmax_regression(sample_weight):
    """A model, its data, and its gradient and Hessian in NumPy."""
    network = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    kernel, bias = random(4, 3, seed=3), random(3, seed=4)
    network.set_weights([kernel, bias])
    x, y = random(12, 4), np.arange(12) % 3
    logits = x @ kernel + bias
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    inputs = np.hstack([x, np.ones((12, 1))])
    gradient = np.zeros(15)
    hessian = np.zeros((15, 15))
    for share, row, q, label in zip(sample_weight, inputs, p, y, strict=True):
        gradient += share / 12.0 * np.kron(row, q - np.eye(3)[label])
        hessian += (
            share
            / 12.0
            * np.kron(np.outer(row, row), np.diag(q) - np.outer(q, q))
        )
    model = compiled(network, cross_entropy(), run_eagerly=False)
    return model, (x, y), gradient, hessian


WEIGHTS = {"equal": np.ones(12), "different": np.arange(12) / 4.0}
REGRESSIONS = [
    (5, "different"),
    *(
        pytest.param(*case, marks=pytest.mark.exhaustive)
        for case in ((5, "equal"), (12, "equal"), (12, "different"))
    ),
]


@pytest.mark.parametrize(("batch_size", "weights"), REGRESSIONS)
@pytest.mark.not_torch
@in_float64()
def test_softmax_regression(batch_size, weights):
    """Also with sample weights, and in batches of five, five and two."""
    sample_weight = WEIGHTS[weights]
    model, data, gradient, hessian = softmax_regression(sample_weight)
    objective = analysis.Objective(
        model, *data, sample_weight=sample_weight, batch_size=batch_size
    )
    np.testing.assert_allclose(objective.gradient(), gradient, atol=1e-14)
    np.testing.assert_allclose(written_out(objective), hessian, atol=1e-14)
    np.testing.assert_allclose(
        analysis.hessian_eigenvalues(objective, k=4),
        eigenvalues_of(hessian, 4),
        rtol=1e-12,
    )


def convolutions():
    network = keras.Sequential(
        [
            keras.Input((5, 5, 2)),
            layers.Conv2D(3, 2),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(2, depth_multiplier=2, activation="tanh"),
            layers.GroupNormalization(2),
            layers.SeparableConv2D(4, 2, activation="silu"),
            layers.Dropout(0.3),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    return network, random(6, 5, 5, 2), np.arange(6) % 3


def recurrent():
    network = keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            layers.Embedding(20, 4, mask_zero=True),
            layers.LayerNormalization(),
            layers.Bidirectional(layers.GRU(3)),
            layers.Dense(3),
        ]
    )
    return network, networks.tokens(length=3), networks.labels()


def sequence():
    network = keras.Sequential(
        [
            keras.Input((6, 3)),
            layers.Conv1D(4, 2, activation="gelu"),
            layers.RMSNormalization(),
            layers.DepthwiseConv1D(2, activation="silu"),
            layers.GlobalMaxPooling1D(),
            layers.Dense(3),
        ]
    )
    return network, random(8, 6, 3), np.arange(8) % 3


# Called as in training where that is another function.
CALLS = [
    (convolutions, True),
    (recurrent, False),
    (sequence, False),
    (networks.subclassed, False),
    (networks.shared_layer, False),
    (networks.masked_lstm, True),
    (networks.attention, False),
    (networks.weight_without_gradient, False),
    (networks.frozen_part, False),
    (networks.unseeded_noise, True),
]
CALLS += [
    pytest.param(*call, marks=pytest.mark.exhaustive)
    for call in (
        (convolutions, False),
        (networks.masked_lstm, False),
        (networks.unseeded_noise, False),
        (networks.nested, False),
        (networks.two_inputs_as_dict, False),
        (networks.embedding, False),
        (networks.no_training_argument, False),
    )
]


def assert_differentiated(objective):
    """Product and gradient equal differences of gradients and losses."""
    direction = random(objective.size)
    direction /= np.linalg.norm(direction)
    step = 1e-5
    there, back = (
        objective.moved(sign * step * direction) for sign in (1.0, -1.0)
    )
    slope = (objective.loss(there) - objective.loss(back)) / (2.0 * step)
    gradient = objective.gradient()
    np.testing.assert_allclose(
        gradient @ direction, slope, atol=1e-7 * np.linalg.norm(gradient)
    )
    turn = objective.gradient(there) - objective.gradient(back)
    product = objective.product(direction)
    error = np.linalg.norm(product - turn / (2.0 * step))
    assert error < 1e-6 * np.linalg.norm(product)


@pytest.mark.not_jax
@pytest.mark.parametrize(("make", "training"), CALLS)
@pytest.mark.not_torch
@in_float64()
def test_products_are_differences_of_gradients(make, training):
    network, x, y = make()
    assert_differentiated(
        analysis.Objective(
            compiled(network, cross_entropy()), x, y, training=training
        )
    )


@pytest.mark.not_jax
@pytest.mark.not_torch
@in_float64()
def test_several_inputs_and_outputs():
    inputs = [keras.Input((3,)), keras.Input((4,))]
    x = layers.Concatenate()(inputs)
    x = layers.Dense(4, activation="tanh")(x)
    outputs = [
        layers.Dense(3, name="label")(x),
        layers.Dense(1, name="size")(x),
    ]
    network = keras.Model(inputs, outputs)
    network.compile(
        "sgd",
        [cross_entropy(), "mse"],
        loss_weights=[0.3, 2.0],
        run_eagerly=True,
    )
    x = [random(9, 3), random(9, 4, seed=1)]
    y = [np.arange(9) % 3, random(9, 1, seed=2)]
    objective = analysis.Objective(network, x, y, batch_size=5)
    assert_differentiated(objective)
    logits, sizes = network.predict(x, verbose=0)
    shifted = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(9), y[0]]
    expected = 0.3 * shifted.mean() + 2.0 * np.mean((sizes - y[1]) ** 2)
    np.testing.assert_allclose(objective.loss(), expected, rtol=1e-12)


@pytest.mark.tensorflow
@pytest.mark.parametrize("eagerly", [True, False])
def test_a_network_that_resizes_has_no_hessian(eagerly):
    """TensorFlow takes the second derivative of it to be zero."""
    network = keras.Sequential(
        [
            keras.Input((3, 3, 2)),
            layers.Conv2D(2, 2, activation="tanh"),
            layers.UpSampling2D(interpolation="bilinear"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    objective = analysis.Objective(
        compiled(network, cross_entropy(), run_eagerly=eagerly),
        random(6, 3, 3, 2),
        np.arange(6) % 3,
    )
    assert analysis.sharpness(objective) > 0.0
    with pytest.raises(ValueError, match=r"no second derivative.*resizes"):
        analysis.hessian_trace(objective)


@settings(max_examples=4, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    seed=st.integers(0, 1000),
)
def test_the_hessian_is_symmetric(sizes, seed):
    network = dense_network(seed, sizes)
    objective = analysis.Objective(
        compiled(network), random(7, sizes[0]), random(7, sizes[-1], seed=seed)
    )
    u, v = random(2, objective.size, seed=seed)
    hu, hv = objective.product(u), objective.product(v)
    scale = np.linalg.norm(u) * np.linalg.norm(hv)
    assert abs(u @ hv - v @ hu) <= 1e-5 * scale
    np.testing.assert_allclose(
        objective.product(u - 2.0 * v), hu - 2.0 * hv, atol=1e-5 * scale
    )


def test_compiled_as_uncompiled():
    x, y = vector_data()
    found = []
    for run_eagerly in (False, True):
        network = compiled(
            normalizing_network(), cross_entropy(), run_eagerly=run_eagerly
        )
        objective = analysis.Objective(network, x, y, training=True)
        vector = random(objective.size) / np.sqrt(objective.size)
        found.append(
            np.concatenate(
                [
                    [objective.loss(), analysis.sharpness(objective)],
                    objective.gradient(),
                    objective.product(vector),
                ]
            )
        )
    np.testing.assert_allclose(*found, rtol=0, atol=1e-5)
