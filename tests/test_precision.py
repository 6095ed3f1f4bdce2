"""Low precision: perturbations in float32, overflows skipped."""

import keras
import numpy as np
import pytest

from keras_lwsam import LWSAMModel, selection
from tests.support import (
    MODES,
    assert_equal,
    convolutional_network,
    cross_entropy,
    distance,
    image_data,
    momentum_sgd,
    train_on_batch,
    weights_of,
)

POLICIES = {
    "mixed_float16": 2e-3,
    "mixed_bfloat16": 2e-2,
    "bfloat16": 3e-2,
    "float64": 1e-6,
}


def make(policy, **kwargs):
    keras.config.set_dtype_policy("float32")
    weights = weights_of(convolutional_network(dropout=0.0, l2=None))
    keras.config.set_dtype_policy(policy)
    network = convolutional_network(dropout=0.0, l2=None)
    network.set_weights(weights)
    model = LWSAMModel(network, **kwargs)
    return model


def train(model, steps=3, optimizer=None, **mode):
    model.compile(optimizer or momentum_sgd(), cross_entropy(), **mode)
    x, y = image_data(16 * steps)
    return [
        train_on_batch(model, x[16 * i : 16 * i + 16], y[16 * i : 16 * i + 16])
        for i in range(steps)
    ]


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize(
    "policy",
    [
        "mixed_float16",
        # Every method does, in tests/test_precision_of_methods.py.
        pytest.param("bfloat16", marks=pytest.mark.exhaustive),
        pytest.param("mixed_bfloat16", marks=pytest.mark.exhaustive),
        pytest.param(
            "float64", marks=[pytest.mark.exhaustive, pytest.mark.not_jax]
        ),
    ],
)
def test_close_to_float32(policy, mode):
    exact = make("float32", layers="all", rho=0.1)
    train(exact)
    model = make(policy, layers="all", rho=0.1)
    logs = train(model, **mode)
    weights = [np.asarray(w, "float32") for w in weights_of(model.model)]
    assert distance(weights, weights_of(exact.model)) < POLICIES[policy]
    assert all(np.isfinite(log["loss"]) for log in logs)
    assert all(log["sharpness"] != 0.0 for log in logs)


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(policy, marks=pytest.mark.not_jax)
        if policy == "float64"
        else policy
        for policy in POLICIES
    ],
)
def test_radius_zero_is_fit(policy):
    model, plain = make(policy, rho=0.0), make(policy, rho=0.0).model
    train(model)
    plain.compile(momentum_sgd(), cross_entropy())
    x, y = image_data(48)
    for i in range(3):
        plain.train_on_batch(x[16 * i : 16 * i + 16], y[16 * i : 16 * i + 16])
    for a, b in zip(weights_of(model.model), weights_of(plain), strict=True):
        np.testing.assert_array_equal(
            np.asarray(a, "float64"), np.asarray(b, "float64")
        )


@pytest.mark.not_jax
def test_bfloat16_weights_are_perturbed_in_float32():
    """The layer is called with values that bfloat16 cannot hold."""
    seen = []

    class Spy(keras.layers.Dense):
        def call(self, inputs, training=None):
            if training:
                kernel = keras.ops.convert_to_tensor(self.kernel)
                dtype = keras.backend.standardize_dtype(inputs.dtype)
                seen.append((dtype, keras.ops.convert_to_numpy(kernel)))
            return super().call(inputs)

    keras.config.set_dtype_policy("bfloat16")
    network = keras.Sequential(
        [keras.Input((20,)), Spy(30), keras.layers.Dense(3)]
    )
    model = LWSAMModel(network, layers="all", rho=0.05)
    model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
    x = np.random.default_rng(0).normal(size=(8, 20))
    model.train_on_batch(x, np.arange(8) % 3)
    (clean_type, clean), (sharp_type, sharp) = seen
    assert (clean_type, sharp_type) == ("bfloat16", "float32")
    assert sharp.dtype == "float32"
    moved = np.asarray(clean, "float32") != sharp
    assert moved.mean() > 0.95
    rounded = keras.ops.cast(sharp, "bfloat16")
    rounded_moves = keras.ops.convert_to_numpy(
        keras.ops.cast(rounded, "float32")
    ) != np.asarray(clean, "float32")
    assert rounded_moves.mean() < 0.7


def test_layers_compute_in_their_own_precision_afterwards():
    model = make("bfloat16", layers="all", rho=0.05)
    train(model)
    for layer in model.model.layers:
        assert layer.dtype_policy.name == "bfloat16"
        assert "call" not in vars(layer) or layer.name == model.model.name


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_a_step_with_an_overflow_is_skipped(mode):
    model = make("mixed_float16", layers="all", rho=0.1)
    optimizer = keras.optimizers.LossScaleOptimizer(
        momentum_sgd(), initial_scale=2.0**15
    )
    train(model, 1, optimizer, **mode)
    weights = [v.numpy() for v in model.trainable_variables]
    norms = model.layer_gradient_norms
    scale = float(model.optimizer.dynamic_scale)
    x, y = image_data(16)
    log = train_on_batch(model, np.full_like(x, 6e4), y)
    assert_equal([v.numpy() for v in model.trainable_variables], weights)
    assert model.layer_gradient_norms == norms
    assert float(model.optimizer.dynamic_scale) == scale / 2
    assert log["sharpness"] == 0.0
    for layer in model.model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(np.zeros(layer.moving_mean.shape))
    model.train_on_batch(x, y)
    assert any(
        (v.numpy() != w).any()
        for v, w in zip(model.trainable_variables, weights, strict=True)
    )


def test_loss_scaling_follows_the_network():
    model = make("mixed_float16")
    keras.config.set_dtype_policy("float32")
    model.compile(momentum_sgd(), cross_entropy())
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)


@pytest.mark.parametrize("scale", [1000.0, 2.0**12])
def test_a_loss_scale_changes_nothing(scale):
    """Norms, perturbation and step are those of the unscaled loss."""
    plain = make("float32", layers="all", method="gnp", rho=0.1)
    scaled = make("float32", layers="all", method="gnp", rho=0.1)
    logs = (
        train(plain),
        train(scaled, optimizer=momentum_sgd(loss_scale_factor=scale)),
    )
    assert distance(weights_of(scaled.model), weights_of(plain.model)) < 1e-6
    for one, other in zip(*logs, strict=True):
        for name, value in one.items():
            assert other[name] == pytest.approx(value, rel=1e-4, abs=1e-6)


def test_a_perturbed_layer_hands_on_its_own_precision():
    """What follows it sees bfloat16 in both passes."""
    seen = []

    class Spy(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(autocast=False, **kwargs)

        def call(self, inputs, training=None):
            if training:
                seen.append(keras.ops.dtype(inputs))
            return inputs

    keras.config.set_dtype_policy("bfloat16")
    network = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(5), Spy(), keras.layers.Dense(3)]
    )
    for layers in ("all", selection.KernelsOnly(selection.All())):
        seen.clear()
        model = LWSAMModel(network, layers=layers, rho=0.05)
        model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
        model.train_on_batch(np.ones((6, 4)), np.arange(6) % 3)
        assert seen == ["bfloat16", "bfloat16"]
