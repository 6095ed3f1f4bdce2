"""Every kind of network trains, and takes the step of its twin."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_lwsam import LWSAMModel
from tests import twins
from tests.backends import gradients_of
from tests.cases import daily
from tests.networks import (
    NETWORKS,
    built_twice,
    embedding,
    labels,
    masked_lstm,
    nested,
    no_training_argument,
    spectral_normalization,
    unseeded_noise,
    vectors,
)
from tests.support import (
    MODES,
    XLA,
    assert_close,
    assert_equal,
    convolutional_network,
    cross_entropy,
    dense_network,
    image_data,
    momentum_sgd,
    weights_of,
)


def fit(model, x, y, **mode):
    model.compile(momentum_sgd(), cross_entropy(), **mode)
    keras.utils.set_random_seed(1)
    model.fit(x, y, batch_size=6, epochs=2, verbose=0, shuffle=False)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("make", NETWORKS, ids=lambda f: f.__name__)
def test_radius_zero_is_fit(make):
    network, twin, x, y = built_twice(make)
    fit(twin, x, y)
    fit(LWSAMModel(network, rho=0.0), x, y)
    assert_equal(weights_of(network), weights_of(twin))


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize(
    "make",
    # The twin restores weights from before the call: it knows nothing of
    # weights that the network itself assigns, nor of unseeded noise.
    [
        pytest.param(f, marks=pytest.mark.not_torch)
        # There it draws from PyTorch's own generator.
        if f is unseeded_noise
        else f
        for f in NETWORKS
        if f not in (spectral_normalization, no_training_argument)
    ],
    ids=lambda f: f.__name__,
)
def test_sam_is_its_twin(make):
    network, twin, x, y = built_twice(make)
    model = LWSAMModel(network, layers="all", rho=0.1)
    model.compile(momentum_sgd(), cross_entropy())
    keras.utils.set_random_seed(1)
    for _ in range(3):
        model.train_on_batch(x, y)
    twins.train(
        twins.TWINS["sam"](0.1),
        twin,
        momentum_sgd(),
        [(keras.tree.map_structure(keras.ops.convert_to_tensor, x), y)] * 3,
        lambda v: True,
    )
    assert_close(weights_of(network), weights_of(twin), 2e-6)


# XLA takes its time: some networks always, the others when all is wanted.
IN_XLA = [
    make
    if make in (masked_lstm, spectral_normalization)
    else pytest.param(make, marks=pytest.mark.exhaustive)
    for make in NETWORKS
]


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("make", IN_XLA, ids=lambda f: f.__name__)
def test_xla_takes_the_same_step(make):
    """Where nothing is drawn at random; else the step is only finite."""
    network, twin, x, y = built_twice(make)
    for each, mode in ((network, XLA), (twin, "graph")):
        model = LWSAMModel(each, layers="all", rho=0.1)
        model.compile(momentum_sgd(), cross_entropy(), **MODES[mode])
        model.train_on_batch(x, y)
    if make in (masked_lstm, unseeded_noise):
        assert all(np.isfinite(w).all() for w in weights_of(network))
    else:
        assert_close(weights_of(network), weights_of(twin), 2e-5)


@pytest.mark.not_jax
def test_spectral_normalization_trains_the_normalised_kernel():
    """The network assigns a trainable weight; the gradient is that of it."""
    network, _, x, y = built_twice(spectral_normalization)
    model = LWSAMModel(network, layers="all", rho=0.05)
    model.compile(keras.optimizers.SGD(0.0), cross_entropy())
    before = weights_of(network)
    model.train_on_batch(x, y)
    kernel = network.layers[0].layer.kernel.numpy()
    assert np.linalg.norm(kernel, 2) < np.linalg.norm(before[0], 2)
    assert min(model.layer_gradient_norms.values()) > 0.0


def outputs_network(structure):
    inputs = keras.Input((5,))
    hidden = layers.Dense(6, activation="relu", name="hidden")(inputs)
    one = layers.Dense(3, name="one")(hidden)
    two = layers.Dense(2, name="two")(hidden)
    outputs = {"dict": {"one": one, "two": two}, "list": [one, two]}
    return keras.Model(inputs, outputs[structure])


@pytest.mark.parametrize(
    ("structure", "mode"),
    daily(
        [(s, mode) for s in ("dict", "list") for mode in MODES],
        lambda structure, mode: (structure == "dict") == (mode == "graph"),
    ),
)
def test_several_outputs_log_clean_losses_once(structure, mode):
    """Per-output trackers, metrics and loss equal those of plain fit."""
    logs = []
    x = vectors()
    y = {"one": labels(), "two": vectors(size=2)}
    loss = {"one": cross_entropy(), "two": "mse"}
    metrics = {"one": ["accuracy"], "two": ["mae"]}
    if structure == "list":
        y, loss, metrics = (list(d.values()) for d in (y, loss, metrics))
    for wrap in (False, True):
        keras.utils.set_random_seed(0)
        network = outputs_network(structure)
        model = LWSAMModel(network, layers="all") if wrap else network
        model.compile(
            keras.optimizers.SGD(0.0), loss, metrics=metrics, **MODES[mode]
        )
        logs.append(
            model.fit(
                x, y, batch_size=6, epochs=2, verbose=0, shuffle=False
            ).history
        )
    plain, wrapped = logs
    assert wrapped.pop("sharpness")[0] > 0.0
    assert wrapped.pop("gradient_norm")[0] > 0.0
    assert set(wrapped) == set(plain)
    assert any("one" in name and "loss" in name for name in plain)
    for name, values in plain.items():
        np.testing.assert_allclose(wrapped[name], values, rtol=1e-5)


def test_losses_by_output_name():
    """Weights of the losses too: an output of weight 0 does not train."""
    network = outputs_network("list")
    model = LWSAMModel(network, layers="hidden")
    model.compile(
        "sgd",
        {"one": cross_entropy(), "two": "mse"},
        loss_weights={"one": 1.0, "two": 0.0},
    )
    before = weights_of(network)
    y = {"one": labels(), "two": vectors(size=2)}
    model.fit(vectors(), y, verbose=0)
    after = weights_of(network)
    assert (after[0] != before[0]).any()
    assert (after[2] != before[2]).any()
    np.testing.assert_array_equal(after[4], before[4])


def test_sample_weights():
    x, y = image_data(32)
    weight = np.linspace(0.0, 2.0, 32).astype("float32")
    network, twin = convolutional_network(), convolutional_network()
    model = LWSAMModel(network, layers="all", rho=0.1)
    model.compile(momentum_sgd(), cross_entropy())
    keras.utils.set_random_seed(1)
    model.train_on_batch(x, y, sample_weight=weight)
    twins.train(
        twins.TWINS["sam"](0.1),
        twin,
        momentum_sgd(),
        [(x, y, weight)],
        lambda v: True,
    )
    assert_close(weights_of(network), weights_of(twin), 1e-6)


def test_class_weights_equal_sample_weights():
    x, y = image_data(32)
    weights = {0: 0.5, 1: 1.0, 2: 3.0}
    networks = convolutional_network(), convolutional_network()
    for network, by_class in zip(networks, (True, False), strict=True):
        model = LWSAMModel(network, layers="all")
        model.compile(momentum_sgd(), cross_entropy())
        keras.utils.set_random_seed(1)
        how = (
            {"class_weight": weights}
            if by_class
            else {"sample_weight": np.array([weights[c] for c in y])}
        )
        model.fit(x, y, batch_size=16, verbose=0, shuffle=False, **how)
    assert_close(weights_of(networks[0]), weights_of(networks[1]), 1e-6)


@pytest.mark.tensorflow
def test_embedding_stays_sparse_where_it_is_not_perturbed():
    """The optimizer sees slices, of the rows that the batch used only."""
    seen = {}

    class Spy(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            seen[tuple(variable.shape)] = type(gradient)
            super().update_step(gradient, variable, learning_rate)

    network, x, y = embedding()
    model = LWSAMModel(network, layers="logits")
    model.compile(Spy(0.1), cross_entropy(), run_eagerly=True)
    model.train_on_batch(x, y)
    assert seen[(20, 4)] is tf.IndexedSlices
    assert next(iter(model.layer_gradient_norms.values())) > 0.0


def test_norm_of_repeated_embedding_rows_is_aggregated():
    network, x, y = embedding()
    x = np.zeros_like(x)  # One row, used by every token.
    model = LWSAMModel(network, layers="logits", rho=0.0)
    model.watched = True
    model.compile(keras.optimizers.SGD(0.0), cross_entropy())
    model.train_on_batch(x, y)
    gradient, *_ = gradients_of(
        network, lambda: cross_entropy()(y, network(x, training=True))
    )
    assert next(iter(model.layer_gradient_norms.values())) == pytest.approx(
        np.linalg.norm(gradient), rel=1e-5
    )


def test_overridden_loss_and_metrics_are_used():
    @keras.saving.register_keras_serializable(package="tests")
    class Custom(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            base = super().compute_loss(x, y, y_pred, sample_weight)
            return base + 0.1 * ops.mean(ops.square(y_pred))

        def compute_metrics(self, x, y, y_pred, sample_weight=None):
            results = super().compute_metrics(x, y, y_pred, sample_weight)
            results["largest"] = ops.max(y_pred)
            return results

    results = []
    for wrap in (False, True):
        base = dense_network(sizes=(5, 6, 3))
        network = Custom(base.inputs, base.outputs)
        model = LWSAMModel(network, rho=0.0) if wrap else network
        model.compile(momentum_sgd(), cross_entropy(), metrics=["accuracy"])
        generator = np.random.default_rng(3)
        x, y = generator.normal(size=(12, 5)), generator.integers(0, 3, 12)
        log = model.fit(x, y, epochs=2, verbose=0, shuffle=False).history
        results.append((weights_of(network), log))
    assert_equal(results[1][0], results[0][0])
    assert results[1][1]["largest"] == results[0][1]["largest"]
    assert results[1][1]["loss"] == results[0][1]["loss"]


def test_delegation():
    network, x, y = nested()
    model = LWSAMModel(network)
    model.compile("sgd", cross_entropy(), metrics=["accuracy"])
    network.compile("sgd", cross_entropy(), metrics=["accuracy"])
    assert model.model is network
    assert model.get_layer("inner") is network.get_layer("inner")
    lines = []
    model.summary(print_fn=lambda line, **_: lines.append(line))
    assert "inner" in "\n".join(lines)
    np.testing.assert_array_equal(
        model.predict(x, verbose=0), network.predict(x, verbose=0)
    )
    ours = model.evaluate(x, y, verbose=0, return_dict=True)
    assert ours == network.evaluate(x, y, verbose=0, return_dict=True)
    assert set(ours) == {"loss", "accuracy"}


def test_a_dataset_and_a_generator():
    x, y = image_data(32)

    def generate():
        for i in range(0, 32, 8):
            yield x[i : i + 8], y[i : i + 8]

    networks = convolutional_network(), convolutional_network()
    sources = (
        tf.data.Dataset.from_tensor_slices((x, y)).batch(8),
        generate(),
    )
    for network, source in zip(networks, sources, strict=True):
        model = LWSAMModel(network, layers="all")
        model.compile(momentum_sgd(), cross_entropy(), metrics=["accuracy"])
        keras.utils.set_random_seed(1)
        model.fit(source, verbose=0, shuffle=False, steps_per_epoch=4)
        assert int(model.optimizer.iterations) == 4
    assert_close(weights_of(networks[0]), weights_of(networks[1]), 1e-6)


def test_jit_compile_auto_resolves_as_in_keras():
    network = dense_network()
    plain = dense_network()
    model = LWSAMModel(network)
    model.compile("sgd", cross_entropy())
    plain.compile("sgd", cross_entropy())
    assert model.jit_compile == plain.jit_compile


@pytest.mark.parametrize("method", ["sam", "gnp"])
def test_sparse_gradients_under_a_loss_scale(method):
    """The step is that of the plain loss."""
    ends = []
    for scale in (None, 1024.0):
        network, _, x, y = built_twice(embedding)
        model = LWSAMModel(network, method, layers="logits", rho=0.1)
        optimizer = keras.optimizers.SGD(0.1)
        if scale:
            optimizer = keras.optimizers.LossScaleOptimizer(
                optimizer, initial_scale=scale
            )
        model.compile(optimizer, cross_entropy())
        model.train_on_batch(x, y)
        ends.append(weights_of(network))
    assert_close(ends[1], ends[0], 1e-6)
