"""Sharpness and curvature: closed forms, finite differences, bad input."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from keras_lwsam import LWSAMModel, analysis
from tests import networks
from tests.random_networks import random_states
from tests.support import (
    assert_equal,
    convolutional_network,
    cross_entropy,
    dense_network,
    image_data,
    momentum_sgd,
    replicas,
    train_on_batch,
    weights_of,
)


@pytest.fixture
def float64():
    """Everything in float64: networks, losses, regularizers."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")


def compiled(network, loss="mse", **kwargs):
    network.compile("sgd", loss, **{"run_eagerly": True, **kwargs})
    return network


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def written_out(objective):
    """The whole Hessian, from its products."""
    return np.stack([objective.product(row) for row in np.eye(objective.size)])


def eigenvalues_of(matrix, k):
    return np.linalg.eigvalsh(matrix)[::-1][:k]


# --- Closed forms: a quadratic ---------------------------------------------


class Quadratic:
    """Two linear layers side by side with the mean squared error.

    Its vector of weights holds the kernel of `a`, the bias of `a` and the
    kernel of `b`, and its Hessian is everywhere the same.
    """

    def __init__(self, size_a=3, size_b=2, outputs=1, count=40, **compilation):
        inputs = [keras.Input((size_a,)), keras.Input((size_b,))]
        a = layers.Dense(outputs, name="a", bias_initializer="ones")
        b = layers.Dense(outputs, name="b", use_bias=False)
        sums = layers.Add()([a(inputs[0]), b(inputs[1])])
        self.model = compiled(keras.Model(inputs, sums), **compilation)
        self.x = [random(count, size_a), random(count, size_b, seed=1)]
        self.y = random(count, outputs, seed=2)
        self.data = (self.model, self.x, self.y)
        self.design = np.hstack([self.x[0], np.ones((count, 1)), self.x[1]])
        weights = [*a.get_weights(), *b.get_weights()]
        weights[1] = weights[1][None]
        self.residual = self.design @ np.vstack(weights) - self.y
        self.gradient = 2.0 / self.y.size * self.design.T @ self.residual
        self.gradient = self.gradient.reshape(-1)
        self.hessian = np.kron(
            2.0 / self.y.size * self.design.T @ self.design, np.eye(outputs)
        )
        self.blocks = {
            "a": np.repeat(
                [True, False], [(size_a + 1) * outputs, b.count_params()]
            )
        }
        self.blocks["b"] = ~self.blocks["a"]

    def places(self, paths):
        if paths is None:
            return np.ones(len(self.hessian), bool)
        return np.any([self.blocks[path] for path in paths], axis=0)

    def block(self, paths):
        return self.hessian[np.ix_(*[np.flatnonzero(self.places(paths))] * 2)]


def test_gradient_and_products_of_a_quadratic(float64):
    case = Quadratic(outputs=2)
    objective = analysis.Objective(*case.data)
    assert objective.layer_paths == ["a", "b"]
    np.testing.assert_allclose(objective.gradient(), case.gradient, atol=1e-13)
    np.testing.assert_allclose(written_out(objective), case.hessian, atol=1e-13)
    np.testing.assert_allclose(
        objective.loss(), np.mean(case.residual**2), rtol=1e-14
    )
    moved = random(objective.size)
    np.testing.assert_allclose(
        objective.gradient(objective.moved(moved)),
        case.gradient + case.hessian @ moved,
        atol=1e-13,
    )


PATHS = [None, ["a"], ["b"], ["b", "a"]]


@pytest.mark.parametrize("paths", PATHS, ids=str)
def test_sharpness_of_a_quadratic(float64, paths):
    case = Quadratic(outputs=2)
    gradient = np.where(case.places(paths), case.gradient, 0.0)
    for rho in (1e-3, 0.3):
        step = rho * gradient / np.linalg.norm(gradient)
        rise = case.gradient @ step + step @ case.hessian @ step / 2.0
        found = analysis.sharpness(*case.data, rho=rho, layers=paths)
        np.testing.assert_allclose(found, rise, rtol=1e-9)
    if paths and len(paths) == 1:
        alone = analysis.sharpness(*case.data, rho=rho, layers=paths[0])
        assert alone == found


@pytest.mark.parametrize("paths", [None, ["a"]], ids=str)
def test_estimates_of_a_quadratic(float64, paths):
    case = Quadratic(run_eagerly=False)
    objective = analysis.Objective(*case.data)
    trace = np.trace(case.block(paths))
    found = analysis.hessian_trace(objective, num_samples=50, layers=paths)
    assert 0.0 < found.error < 0.2 * trace
    assert abs(found.mean - trace) < 4.0 * found.error
    for stddev in (1e-3, 2.0):
        rise = stddev**2 / 2.0 * trace
        found = analysis.average_sharpness(
            objective, stddev=stddev, num_samples=50, layers=paths
        )
        assert 0.0 < found.error < 0.2 * rise
        assert abs(found.mean - rise) < 4.0 * found.error


@pytest.mark.parametrize(("size_a", "size_b"), [(3, 2), (22, 12)])
def test_eigenvalues_of_a_quadratic(float64, size_a, size_b):
    """Written out, iterated over as a whole, and iterated over by layer."""
    case = Quadratic(size_a, size_b, count=80, run_eagerly=False)
    objective = analysis.Objective(*case.data)
    for paths in PATHS:
        block = case.block(paths)
        for k in (1, 3, 5):
            if k <= len(block):
                np.testing.assert_allclose(
                    analysis.hessian_eigenvalues(objective, k=k, layers=paths),
                    eigenvalues_of(block, k),
                    rtol=1e-3,
                )
        everything = analysis.hessian_eigenvalues(
            objective, k=len(block), layers=paths
        )
        np.testing.assert_allclose(
            everything, eigenvalues_of(block, None), atol=1e-12
        )
    tight = analysis.hessian_eigenvalues(objective, k=2, tol=1e-10, seed=5)
    np.testing.assert_allclose(
        tight, eigenvalues_of(case.hessian, 2), rtol=1e-9
    )


@pytest.mark.parametrize("size", [3, 12, 30])
def test_repeated_eigenvalues_are_all_found(float64, size):
    """Each is there once for every output."""
    case = Quadratic(size, size, outputs=3, count=100, run_eagerly=False)
    for paths in (None, ["b"]):
        np.testing.assert_allclose(
            analysis.hessian_eigenvalues(*case.data, k=5, layers=paths),
            eigenvalues_of(case.block(paths), 5),
            rtol=1e-3,
        )


@pytest.mark.parametrize("size", [3, 12])
@pytest.mark.parametrize("factor", [-1.0, 0.0, 1e-6, 1e6])
def test_eigenvalues_grow_with_the_loss(float64, size, factor):
    """All negative, all zero, tiny, huge."""

    def loss(y, predictions):
        return factor * ops.mean(ops.square(y - predictions), axis=-1)

    case = Quadratic(size, size, loss=loss, run_eagerly=False)
    expected = eigenvalues_of(factor * case.hessian, 3)
    found = analysis.hessian_eigenvalues(*case.data, k=3)
    np.testing.assert_allclose(
        found, expected, rtol=1e-3, atol=1e-12 * abs(factor)
    )


def test_few_samples_leave_a_hessian_of_low_rank():
    """In float32, where the other eigenvalues are noise."""
    case = Quadratic(20, 20, count=2, run_eagerly=False)
    found = analysis.hessian_eigenvalues(*case.data, k=4)
    np.testing.assert_allclose(
        found, eigenvalues_of(case.hessian, 4), rtol=1e-3, atol=1e-4
    )
    assert found[1] > 1.0


def test_the_trace_of_a_diagonal_hessian_is_exact(float64):
    network = keras.Sequential(
        [keras.Input((3,)), layers.Dense(2, use_bias=False)]
    )
    x = np.diag([3.0, 2.0, 1.0])
    found = analysis.hessian_trace(
        compiled(network), x, np.zeros((3, 2)), num_samples=3
    )
    # 2 / 6 of the squares, once for each output.
    np.testing.assert_allclose(found.mean, 2.0 * 14.0 / 3.0, rtol=1e-14)
    assert found.error < 1e-14


def test_draws_are_those_of_the_seed(float64):
    objective = analysis.Objective(*Quadratic().data)
    for estimate in (analysis.average_sharpness, analysis.hessian_trace):
        one, same, other = (estimate(objective, seed=s) for s in (3, 3, 4))
        assert one == same
        assert one.mean != other.mean
        single = estimate(objective, num_samples=1)
        assert np.isfinite(single.mean)
        assert np.isnan(single.error)


def test_no_rise_without_a_step_or_a_slope(float64):
    model, x, y = Quadratic().data
    assert analysis.sharpness(model, x, y, rho=0.0) == 0.0
    assert analysis.average_sharpness(model, x, y, stddev=0.0) == (0.0, 0.0)
    assert analysis.sharpness(model, x, model.predict(x, verbose=0)) == 0.0


def test_eigenvalues_of_a_saddle(float64):
    network = keras.Sequential(
        [
            keras.Input((1,)),
            layers.Dense(1, use_bias=False, kernel_initializer="zeros"),
            layers.Dense(1, use_bias=False, kernel_initializer="zeros"),
        ]
    )
    one = np.ones((1, 1))
    found = analysis.hessian_eigenvalues(compiled(network), one, one, k=2)
    np.testing.assert_allclose(found, [2.0, -2.0], atol=1e-14)


def test_blocks_of_a_linear_network_of_two_layers(float64):
    network = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, use_bias=False, name="first"),
            layers.Dense(2, use_bias=False, name="second"),
        ],
        name="net",
    )
    first, second = network.get_weights()
    x, y = random(20, 4), random(20, 2, seed=1)
    objective = analysis.Objective(compiled(network), x, y)
    hidden = x @ first
    blocks = {
        "net/first": np.kron(x.T @ x, second @ second.T),
        "net/second": np.kron(hidden.T @ hidden, np.eye(2)),
    }
    hessian = written_out(objective)
    for path, block in blocks.items():
        places = objective.places(path)
        np.testing.assert_allclose(
            hessian[np.ix_(places, places)], 2.0 * block / 40.0, atol=1e-13
        )
        np.testing.assert_allclose(
            analysis.hessian_eigenvalues(objective, k=3, layers=path),
            eigenvalues_of(2.0 * block / 40.0, 3),
            rtol=1e-9,
        )


class Pull(layers.Layer):
    """Hands on what it is given, with a loss of its own."""

    def call(self, inputs):
        self.add_loss(0.2 * ops.mean(ops.sum(ops.square(inputs), axis=-1)))
        return inputs


def test_regularizers_and_added_losses_count(float64):
    network = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(
                2, use_bias=False, kernel_regularizer=keras.regularizers.L2(0.3)
            ),
            Pull(),
        ]
    )
    x, y = random(10, 3), np.zeros((10, 2))
    squares = np.kron(x.T @ x, np.eye(2)) / 10.0
    expected = (2.0 / 2.0 + 2.0 * 0.2) * squares + 2.0 * 0.3 * np.eye(6)
    objective = analysis.Objective(compiled(network), x, y)
    np.testing.assert_allclose(written_out(objective), expected, atol=1e-13)
    w = network.get_weights()[0].reshape(-1)
    np.testing.assert_allclose(objective.gradient(), expected @ w, atol=1e-13)
    np.testing.assert_allclose(
        objective.loss(), w @ expected @ w / 2.0, rtol=1e-7
    )


# --- Closed forms: softmax regression --------------------------------------


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


@pytest.mark.parametrize("batch_size", [12, 5])
def test_softmax_regression(float64, batch_size):
    """Also with sample weights, and in batches of five, five and two."""
    for weights in (np.ones(12), np.arange(12) / 4.0):
        model, data, gradient, hessian = softmax_regression(weights)
        objective = analysis.Objective(
            model, *data, sample_weight=weights, batch_size=batch_size
        )
        np.testing.assert_allclose(objective.gradient(), gradient, atol=1e-14)
        np.testing.assert_allclose(written_out(objective), hessian, atol=1e-14)
        np.testing.assert_allclose(
            analysis.hessian_eigenvalues(objective, k=4),
            eigenvalues_of(hessian, 4),
            rtol=1e-12,
        )


# --- Any network: finite differences ---------------------------------------


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
            keras.Input((6,), dtype="int32"),
            layers.Embedding(20, 4, mask_zero=True),
            layers.LayerNormalization(),
            layers.Bidirectional(layers.GRU(3)),
            layers.Dense(3),
        ]
    )
    return network, networks.tokens(), networks.labels()


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


NETWORKS = [
    convolutions,
    recurrent,
    sequence,
    networks.subclassed,
    networks.nested,
    networks.shared_layer,
    networks.two_inputs_as_dict,
    networks.embedding,
    networks.masked_lstm,
    networks.attention,
    networks.weight_without_gradient,
    networks.frozen_part,
    networks.unseeded_noise,
    networks.no_training_argument,
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


# Those that are called otherwise in training.
IN_TRAINING = [convolutions, networks.masked_lstm, networks.unseeded_noise]
CALLS = [(make, False) for make in NETWORKS]
CALLS += [(make, True) for make in IN_TRAINING]


@pytest.mark.parametrize(("make", "training"), CALLS)
def test_products_are_differences_of_gradients(float64, make, training):
    network, x, y = make()
    assert_differentiated(
        analysis.Objective(
            compiled(network, cross_entropy()), x, y, training=training
        )
    )


def test_several_inputs_and_outputs(float64):
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
    objective = analysis.Objective(network, x, y, batch_size=4)
    assert_differentiated(objective)
    logits, sizes = network.predict(x, verbose=0)
    shifted = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(9), y[0]]
    expected = 0.3 * shifted.mean() + 2.0 * np.mean((sizes - y[1]) ** 2)
    np.testing.assert_allclose(objective.loss(), expected, rtol=1e-12)


@pytest.mark.parametrize("eagerly", [True, False])
def test_a_network_that_resizes_has_no_hessian(eagerly):
    """TensorFlow takes the second derivative of it to be zero."""
    network = keras.Sequential(
        [
            keras.Input((3, 3, 2)),
            layers.Conv2D(2, 2, activation="tanh"),
            layers.UpSampling2D(interpolation="bilinear"),
            layers.Conv2D(2, 2, activation="tanh"),
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
    with pytest.raises(ValueError, match="second derivative of bilinear"):
        analysis.hessian_trace(objective)


@settings(max_examples=10, deadline=None)
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


def test_sharpness_to_second_order(float64):
    network = dense_network(sizes=(5, 6, 3))
    objective = analysis.Objective(
        compiled(network, cross_entropy()), random(20, 5), np.arange(20) % 3
    )
    for path in (None, "dense/dense1"):
        gradient = np.where(objective.places(path), objective.gradient(), 0.0)
        norm = np.linalg.norm(gradient)
        curvature = gradient @ objective.product(gradient) / norm**2
        rho = 1e-3
        rest = analysis.sharpness(objective, rho=rho, layers=path) - rho * norm
        np.testing.assert_allclose(rest, rho**2 / 2.0 * curvature, rtol=1e-2)


def test_compiled_as_uncompiled():
    x, y = image_data(20)
    found = []
    for run_eagerly in (False, True):
        network = compiled(
            convolutional_network(), cross_entropy(), run_eagerly=run_eagerly
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


# --- Kinds of models and of data -------------------------------------------


def test_frozen_layers_are_not_looked_at(float64):
    case = Quadratic(outputs=2)
    case.model.get_layer("b").trainable = False
    compiled(case.model)
    objective = analysis.Objective(*case.data)
    assert objective.layer_paths == ["a"]
    np.testing.assert_allclose(
        written_out(objective), case.block(["a"]), atol=1e-13
    )
    with pytest.raises(ValueError, match=r"\['a'\]. Received: layers='b'"):
        analysis.sharpness(objective, layers="b")


def test_a_wrapped_network_has_the_same_numbers():
    x, y = image_data(20)
    found = []
    for wrap in (lambda network: network, LWSAMModel):
        model = compiled(wrap(convolutional_network()), cross_entropy())
        objective = analysis.Objective(model, x, y)
        found.append(
            [
                objective.loss(),
                objective.layer_paths,
                analysis.sharpness(objective),
                analysis.average_sharpness(objective, num_samples=2),
                analysis.hessian_trace(objective, num_samples=2),
            ]
        )
    assert found[0] == found[1]


def test_a_model_may_call_a_part_of_it_model(float64):
    class Doubled(keras.Model):
        def __init__(self):
            super().__init__()
            self.model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])

        def call(self, inputs):
            return 2.0 * self.model(inputs)

    model = compiled(Doubled())
    x, y = random(8, 3), random(8, 1)
    model(x)
    np.testing.assert_allclose(
        analysis.Objective(model, x, y).loss(),
        np.mean((model.predict(x, verbose=0) - y) ** 2),
        rtol=1e-12,
    )


def test_under_the_strategy_of_the_model():
    """Inside its scope and outside."""
    x, y = random(8, 10), np.arange(8) % 4
    expected = analysis.sharpness(
        compiled(dense_network(), cross_entropy()), x, y
    )
    with replicas(2).scope():
        model = compiled(dense_network(), cross_entropy())
    assert analysis.sharpness(model, x, y) == expected
    with replicas(2).scope():
        assert analysis.sharpness(model, x, y) == pytest.approx(expected, 1e-6)


class Batches(keras.utils.PyDataset):
    """Four samples at a time."""

    def __init__(self, *arrays, **kwargs):
        super().__init__(**kwargs)
        self.arrays = arrays

    def __len__(self):
        return -(-len(self.arrays[0]) // 4)

    def __getitem__(self, index):
        return tuple(a[4 * index : 4 * index + 4] for a in self.arrays)


class Endless(Batches):
    @property
    def num_batches(self):
        return None

    def __getitem__(self, index):
        if index > 100:
            raise RuntimeError("read on and on")
        return super().__getitem__(0)


SOURCES = {
    "arrays": lambda *arrays: arrays,
    "tensors": lambda *arrays: tuple(map(tf.constant, arrays)),
    "tf.data": lambda *arrays: (
        tf.data.Dataset.from_tensor_slices(arrays).batch(4),
    ),
    "PyDataset": lambda *arrays: (Batches(*arrays),),
    "workers": lambda *arrays: (Batches(*arrays, workers=2),),
    "generator": lambda *arrays: ((batch for batch in Batches(*arrays)),),
}


READ = [(source, source == "tf.data") for source in SOURCES]
MORE = [
    pytest.param(source, not weighted, marks=pytest.mark.exhaustive)
    for source, weighted in READ
]


@pytest.mark.parametrize(("source", "weighted"), [*READ, *MORE])
def test_data_of_every_kind(source, weighted):
    """In batches of four, four and two, as `evaluate` reads them."""
    x, y = image_data(10)
    arrays = (x, y, np.arange(10.0, dtype="float32")) if weighted else (x, y)
    model = compiled(convolutional_network(), cross_entropy())
    expected = model.evaluate(*arrays[:2], 4, 0, *arrays[2:])
    objective = analysis.Objective(
        model, *SOURCES[source](*arrays), batch_size=4
    )
    # It was read once: what a generator gave is there the second time.
    for _ in range(2):
        assert objective.loss() == pytest.approx(expected, rel=1e-6)
    reference = analysis.Objective(model, *arrays, batch_size=10)
    if not weighted:
        np.testing.assert_allclose(
            objective.gradient(), reference.gradient(), atol=1e-6
        )


def test_inputs_in_a_dict():
    network, x, y = networks.two_inputs_as_dict()
    model = compiled(network, cross_entropy())
    whole = analysis.sharpness(model, x, y)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(5)
    assert whole == pytest.approx(analysis.sharpness(model, dataset), 1e-4)
    assert analysis.Objective(model, x, y).loss() == pytest.approx(
        model.evaluate(x, y, verbose=0), 1e-6
    )


def test_losses_that_a_model_adds_alone():
    network = keras.Sequential(
        [keras.Input((3,)), layers.Dense(2, kernel_regularizer="l2"), Pull()]
    )
    network.compile("sgd", run_eagerly=True)
    x = random(5, 3)
    assert analysis.Objective(network, x).loss() == pytest.approx(
        network.evaluate(x, verbose=0), 1e-6
    )


# --- Precision -------------------------------------------------------------


def pair_of(policy, scale=1.0):
    """Objectives of a network of a policy, and of its copy in float32."""
    keras.config.set_dtype_policy(policy)
    network = compiled(dense_network())
    keras.config.set_dtype_policy("float32")
    copy = compiled(dense_network())
    copy.set_weights([w.astype("float32") for w in network.get_weights()])
    x, y = random(20, 10), scale * random(20, 4, seed=1)
    return [analysis.Objective(model, x, y) for model in (network, copy)]


POLICIES = {
    "mixed_float16": 5e-3,
    "mixed_bfloat16": 3e-2,
    "float16": 5e-3,
    "bfloat16": 3e-2,
}


@pytest.mark.parametrize(
    "policy",
    [
        "mixed_float16",
        "bfloat16",
        pytest.param("mixed_bfloat16", marks=pytest.mark.exhaustive),
        pytest.param("float16", marks=pytest.mark.exhaustive),
    ],
)
def test_16_bits_are_close_to_32(policy):
    low, high = pair_of(policy)
    vector = random(low.size) / np.sqrt(low.size)
    for function in (
        lambda objective: objective.product(vector),
        lambda objective: objective.gradient(),
        lambda objective: analysis.hessian_eigenvalues(objective, k=2),
        lambda objective: analysis.hessian_trace(objective, num_samples=3).mean,
        lambda objective: analysis.sharpness(objective, rho=0.1),
    ):
        expected = function(high)
        error = np.linalg.norm(function(low) - expected)
        assert error < POLICIES[policy] * np.linalg.norm(expected)


@pytest.mark.parametrize("policy", ["float16", "bfloat16"])
def test_rounding_to_16_bits_is_not_a_rise(policy):
    """Both losses of a difference are those of the same precision."""
    low, high = pair_of(policy)
    still = analysis.average_sharpness(low, stddev=0.0, num_samples=2)
    assert still == (0.0, 0.0)
    found, expected = (
        analysis.average_sharpness(objective, num_samples=5).mean
        for objective in (low, high)
    )
    assert found == pytest.approx(expected, rel=2e-2)


def test_gradients_beyond_float16():
    """The loss scale of an optimizer that has not adapted it is too large."""
    low, high = pair_of("mixed_float16", scale=100.0)
    expected = high.gradient()
    error = np.linalg.norm(low.gradient() - expected)
    assert error < 2e-3 * np.linalg.norm(expected)
    assert analysis.sharpness(low) == pytest.approx(
        analysis.sharpness(high), rel=2e-2
    )


def test_products_of_small_vectors_in_float16():
    """An entry of a vector of length 1 is small where weights are many."""
    low, high = pair_of("mixed_float16")
    vector = 1e-2 * random(low.size) / np.sqrt(low.size)
    expected = high.product(vector)
    error = np.linalg.norm(low.product(vector) - expected)
    assert error < 5e-3 * np.linalg.norm(expected)


# --- What stays ------------------------------------------------------------


def state_of(model):
    return [
        *weights_of(model),
        *[np.array(v) for v in model.optimizer.variables],
        *[np.array(v) for v in model.metrics_variables],
        *[np.array(v) for v in model.non_trainable_variables],
    ]


def test_nothing_of_the_model_changes():
    x, y = image_data(12)
    model = LWSAMModel(convolutional_network(), "look_sam")
    model.compile(
        momentum_sgd(), cross_entropy(), metrics=["accuracy"], run_eagerly=True
    )
    other = weights_of(model.model)
    train_on_batch(model, x, y)
    before, randomness = state_of(model), random_states()
    data = (model, x, y)
    for training in (False, True):
        analysis.sharpness(*data, training=training)
        analysis.average_sharpness(*data, num_samples=2, training=training)
        analysis.hessian_trace(*data, num_samples=2, training=training)
        analysis.hessian_eigenvalues(*data, layers="norm1", training=training)
        for directions in (analysis.RandomDirections(), analysis.LineTo(other)):
            analysis.loss_landscape(
                *data,
                directions=directions,
                num_points=2,
                training=training,
                verbose=0,
            )
    assert_equal(state_of(model), before)
    assert random_states() == randomness
    assert model.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)


def test_dropout_draws_the_same_masks_each_time():
    x, y = image_data(12)
    network = compiled(convolutional_network(dropout=0.5), cross_entropy())
    objective = analysis.Objective(network, x, y, training=True)
    assert objective.loss() == objective.loss()
    assert analysis.sharpness(objective) == analysis.sharpness(objective)
    assert objective.loss() != analysis.Objective(network, x, y).loss()


def test_values_are_those_of_the_time():
    model, x, y = Quadratic().data
    objective = analysis.Objective(model, x, y)
    values, loss = objective.values, objective.loss()
    model.fit(x, y, verbose=0)
    assert objective.loss(values) == loss
    assert objective.loss() < loss


# --- Bad input -------------------------------------------------------------


FUNCTIONS = [
    analysis.Objective,
    analysis.sharpness,
    analysis.average_sharpness,
    analysis.hessian_eigenvalues,
    analysis.hessian_trace,
    analysis.loss_landscape,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_models_that_cannot_be_looked_at(function):
    x, y = random(8, 3), random(8, 1)
    with pytest.raises(TypeError, match=r"`model` must be a keras\.Model"):
        function("model", x, y)
    unbuilt = compiled(keras.Sequential([layers.Dense(1)]))
    with pytest.raises(ValueError, match="must be built"):
        function(unbuilt, x, y)
    network = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    with pytest.raises(ValueError, match="must be compiled"):
        function(network, x, y)
    network.trainable = False
    with pytest.raises(ValueError, match="no trainable layer"):
        function(compiled(network), x, y)


def test_data_that_cannot_be_looked_at():
    model, x, y = Quadratic().data
    dataset = tf.data.Dataset.from_tensor_slices(((x[0], x[1]), y)).batch(4)
    with pytest.raises(ValueError, match="`x` must be the inputs"):
        analysis.sharpness(model)
    with pytest.raises(ValueError, match="must have an end"):
        analysis.sharpness(model, dataset.repeat())
    with pytest.raises(ValueError, match="must have an end"):
        analysis.sharpness(model, Endless(x[0], y))
    with pytest.raises(ValueError, match="must have a sample"):
        analysis.sharpness(model, dataset.take(0))
    with pytest.raises(ValueError, match="should not be passed"):
        analysis.sharpness(model, dataset, y)
    with pytest.raises(ValueError, match="an objective and data"):
        analysis.sharpness(analysis.Objective(model, x, y), x, y)


ANY, POSITIVE = "must be a real number", "must be a positive int"
BAD = [
    (analysis.sharpness, {"rho": -0.1}, ValueError, "at least 0"),
    (analysis.sharpness, {"rho": np.inf}, ValueError, "finite"),
    (analysis.sharpness, {"rho": "0.1"}, TypeError, ANY),
    (analysis.sharpness, {"layers": "c"}, ValueError, "Received: layers='c'"),
    (analysis.sharpness, {"layers": []}, ValueError, r"layers=\[\]"),
    (analysis.sharpness, {"layers": 1}, TypeError, "`layers` must be"),
    (analysis.sharpness, {"batch_size": 0}, ValueError, POSITIVE),
    (analysis.sharpness, {"training": 1}, TypeError, "True or False"),
    (analysis.average_sharpness, {"stddev": -1}, ValueError, "at least 0"),
    (analysis.average_sharpness, {"num_samples": 0}, ValueError, POSITIVE),
    (analysis.average_sharpness, {"seed": -1}, ValueError, "non-negative"),
    (analysis.hessian_trace, {"num_samples": 1.5}, TypeError, POSITIVE),
    (analysis.hessian_trace, {"layers": ["a", "c"]}, ValueError, r"\['a', 'c'"),
    (analysis.hessian_eigenvalues, {"k": 0}, ValueError, POSITIVE),
    (analysis.hessian_eigenvalues, {"k": True}, TypeError, POSITIVE),
    (analysis.hessian_eigenvalues, {"k": 7}, ValueError, "k=7, for 6 weights"),
    (analysis.hessian_eigenvalues, {"tol": 0.0}, ValueError, "positive"),
    (analysis.hessian_eigenvalues, {"seed": 0.5}, TypeError, "non-negative"),
    (
        analysis.hessian_eigenvalues,
        {"max_products": 3},
        RuntimeError,
        "have not converged in 3",
    ),
]


@pytest.mark.parametrize(("function", "arguments", "error", "message"), BAD)
def test_bad_arguments(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(*Quadratic().data, **arguments)


@pytest.mark.parametrize("size", [3, 12])
def test_weights_that_are_not_finite(size):
    model, x, y = Quadratic(size, size).data
    kernel = model.get_layer("a").kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    y = ops.zeros_like(y)
    bad = compiled(model, lambda y, p: ops.mean(p**4, axis=-1))
    with pytest.raises(RuntimeError, match="not finite"):
        analysis.hessian_eigenvalues(bad, x, y)
    assert np.isnan(analysis.sharpness(bad, x, y))
    assert np.isnan(analysis.average_sharpness(bad, x, y).mean)
    assert np.isnan(analysis.hessian_trace(bad, x, y).mean)


def test_losses_beyond_float32_are_no_warning():
    model, x, y = Quadratic().data
    found = analysis.average_sharpness(model, x, y, stddev=1e19)
    assert np.isinf(found.mean)
    assert np.isnan(found.error)
