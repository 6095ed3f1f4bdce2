"""What a compiled step of JAX computes, and several devices."""

import functools
import re

import keras
import numpy as np
import pytest

from benchmarks import networks
from keras_lwsam import LWSAMModel, _timing, methods, selection
from tests.support import (
    assert_close,
    assert_equal,
    build_dense,
    cross_entropy,
    dense_network,
    distance,
    momentum_sgd,
    weights_of,
)

pytestmark = pytest.mark.jax

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(48, 10)).astype("float32")
Y = GENERATOR.integers(0, 4, 48)


@functools.cache
def compiled_program(way):
    """The text of the compiled step of a ResNet-20."""
    import jax

    keras.utils.set_random_seed(0)
    network = networks.resnet20()
    model = network
    if way != "plain":
        layers = "all" if way == "sam" else selection.OutputSide(0.1)
        model = LWSAMModel(network, layers=layers)
    model.compile(momentum_sgd(), cross_entropy())
    x, y = np.zeros((4, 32, 32, 3), "float32"), np.zeros(4, "int64")
    model.train_on_batch(x, y)
    state = model._get_jax_state(
        trainable_variables=True,
        non_trainable_variables=True,
        optimizer_variables=True,
        metrics_variables=True,
    )
    step = jax.jit(model.train_step, donate_argnums=0)
    return step.lower(state, (x, y, None)).compile().as_text()


@pytest.mark.parametrize(
    ("way", "expected"), [("plain", 62), ("sam", 124), ("tenth", 65)]
)
def test_convolutions_upstream_are_computed_once(way, expected):
    found = re.findall(r"= \S+ convolution\(", compiled_program(way))
    assert len(found) == expected


def test_state_is_donated():
    donated = re.findall(r"\(\d+, \{\}, may-alias\)", compiled_program("tenth"))
    # Weights, momenta, and statistics of BatchNorm.
    assert len(donated) > 2 * 60


def test_each_set_of_layers_is_traced_once():
    model = build_dense(layers=selection.Random(1, refresh="epoch", seed=1))
    chosen = set()
    watch = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: chosen.add(tuple(model.selected_layers))
    )
    model.fit(X, Y, batch_size=16, epochs=12, callbacks=[watch], verbose=0)
    assert len(chosen) > 1
    assert model.trace_count == len(chosen)


def test_layers_are_chosen_again_between_two_steps():
    """While variables hold no values: Keras has handed them on."""
    model = build_dense(layers=selection.LargestGradientNorm(1, refresh=2))
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0)
    assert model._adaptation.refreshes > 3
    assert all(norm > 0.0 for norm in model.layer_gradient_norms.values())


@pytest.mark.parametrize("name", ["sam", "look_sam", "sampa"])
def test_several_steps_in_one_execution(name):
    ends = []
    for count in (1, 4):
        model = build_dense(name, layers=selection.Random(2, refresh=3))
        model.compile(
            momentum_sgd(), cross_entropy(), steps_per_execution=count
        )
        model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
        ends.append(weights_of(model.model))
    # Layers are chosen between two executions only.
    if name == "look_sam":
        assert model.trace_count > 1
    assert all(np.isfinite(w).all() for w in ends[1])
    assert model._state.steps_taken() == 12


class Noise(keras.layers.Layer):
    """Draws from a key of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        import jax

        self.key = jax.random.key(3)

    def call(self, x):
        import jax

        return x + 0.1 * jax.random.normal(self.key, x.shape[1:])


@pytest.mark.parametrize("name", ["Nadam", "Lamb"])
def test_one_pass_is_rounded_as_by_fit(name):
    """Optimizers that compute the same number twice."""
    ends = []
    for wrap in (False, True):
        keras.utils.set_random_seed(0)
        network = keras.Sequential(
            [
                keras.Input((10,)),
                keras.layers.Dense(8, activation="tanh"),
                keras.layers.BatchNormalization(),
                Noise(),
                keras.layers.Dense(4),
            ]
        )
        model = LWSAMModel(network, rho=0.0) if wrap else network
        model.compile(getattr(keras.optimizers, name)(1e-2), cross_entropy())
        model.fit(X, Y, batch_size=8, epochs=4, shuffle=False, verbose=0)
        ends.append(weights_of(network))
    assert_equal(*ends)
    model = LWSAMModel(network)
    model.compile(momentum_sgd(), cross_entropy())
    before = weights_of(network)
    model.fit(X, Y, verbose=0)
    assert distance(weights_of(network), before) > 0


def test_an_error_in_the_first_step_leaves_the_weights():
    model = LWSAMModel(dense_network())
    before = weights_of(model.model)
    model.compile(momentum_sgd(), cross_entropy())
    with pytest.raises(ValueError, match="expected"):
        model.fit(X[:, :7], Y, verbose=0)
    assert_equal(weights_of(model.model), before)
    model.fit(X, Y, verbose=0)
    assert model._state.steps_taken() == 2


@pytest.fixture
def four_devices():
    devices = keras.distribution.list_devices("cpu")
    assert len(devices) == 4
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=devices)
    )
    yield
    keras.distribution.set_distribution(None)


def trained(method, normalization=True):
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [keras.Input((10,)), keras.layers.Dense(8, activation="tanh")]
    )
    if normalization:
        network.add(keras.layers.BatchNormalization())
    network.add(keras.layers.Dense(4))
    model = LWSAMModel(network, method, layers=2)
    model.compile(momentum_sgd(), cross_entropy(), metrics=["accuracy"])
    history = model.fit(
        X, Y, batch_size=16, epochs=3, shuffle=False, verbose=0
    ).history
    return weights_of(network), history, model.evaluate(X, Y, verbose=0)


METHODS = {
    "sam": lambda: methods.SAM(0.1),
    "sampa": lambda: methods.SAMPa(0.1),
    "ksam": lambda: methods.KSAM(0.1),
    "plain": lambda: methods.SAM(0.0),
}


@pytest.mark.parametrize("name", METHODS)
def test_data_parallel_equals_one_device(name, request):
    """The step is that of the global batch, BatchNorm's statistics too."""
    one = trained(METHODS[name]())
    request.getfixturevalue("four_devices")
    several = trained(METHODS[name]())
    assert_close(several[0], one[0], 1e-5)
    for key, values in one[1].items():
        np.testing.assert_allclose(several[1][key], values, atol=1e-5)
    np.testing.assert_allclose(several[2], one[2], atol=1e-5)
    if name != "plain":
        assert distance(one[0], trained(METHODS["plain"]())[0]) > 1e-3


def test_eager_is_compiled():
    ends = []
    for mode in ({}, {"run_eagerly": True}):
        model = build_dense("gsam", mode=mode)
        model.fit(X, Y, batch_size=16, shuffle=False, verbose=0)
        ends.append(weights_of(model.model))
    assert_close(*ends, 1e-6)


def test_nothing_to_perturb_is_fit_bit_for_bit_on_devices(four_devices):
    ends = []
    for wrap in (lambda n: n, lambda n: LWSAMModel(n, rho=0.0)):
        network = dense_network()
        model = wrap(network)
        model.compile(momentum_sgd(), cross_entropy())
        model.fit(X, Y, batch_size=16, shuffle=False, verbose=0)
        ends.append(weights_of(network))
    assert_equal(*ends)


def test_a_measured_price(monkeypatch):
    """Steps that are timed leave no trace."""
    monkeypatch.setattr(_timing, "_SECONDS", 1.0)
    model = build_dense(layers=1)
    before = weights_of(model)
    assert np.isfinite(model.cost(timed=True).overhead)
    assert_equal(weights_of(model), before)
