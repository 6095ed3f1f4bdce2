"""`Objective`: the loss, the data, what it refuses and what it leaves."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_lwsam import LWSAMModel, analysis
from tests import networks
from tests.curvature import (
    ROUNDING,
    Pull,
    Quadratic,
    compiled,
    in_float64,
    normalizing_network,
    random,
    vector_data,
    written_out,
)
from tests.random_networks import random_states
from tests.support import (
    assert_equal,
    cross_entropy,
    momentum_sgd,
    replicas,
    train_on_batch,
    weights_of,
)


@pytest.mark.not_torch
@in_float64()
def test_gradient_and_products_of_a_quadratic():
    case = Quadratic(outputs=2)
    objective = analysis.Objective(*case.data)
    assert objective.layer_paths == ["a", "b"]
    np.testing.assert_allclose(objective.gradient(), case.gradient, atol=1e-13)
    np.testing.assert_allclose(written_out(objective), case.hessian, atol=1e-13)
    np.testing.assert_allclose(
        objective.loss(), np.mean(case.residual**2), rtol=ROUNDING
    )
    moved = random(objective.size)
    np.testing.assert_allclose(
        objective.gradient(objective.moved(moved)),
        case.gradient + case.hessian @ moved,
        atol=1e-13,
    )


@pytest.mark.not_torch
@in_float64()
def test_regularizers_and_added_losses_count():
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


def test_losses_that_a_model_adds_alone():
    network = keras.Sequential(
        [keras.Input((3,)), layers.Dense(2, kernel_regularizer="l2"), Pull()]
    )
    network.compile("sgd", run_eagerly=True)
    x = random(5, 3)
    assert analysis.Objective(network, x).loss() == pytest.approx(
        network.evaluate(x, verbose=0), 1e-6
    )


@pytest.mark.not_torch
@in_float64()
def test_frozen_layers_are_not_looked_at():
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
    x, y = vector_data()
    found = []
    for wrap in (lambda network: network, LWSAMModel):
        model = compiled(wrap(normalizing_network()), cross_entropy())
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


@pytest.mark.not_torch
@in_float64()
def test_a_model_may_call_a_part_of_it_model():
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
        rtol=100 * ROUNDING,
    )


@pytest.mark.tensorflow
def test_under_the_strategy_of_the_model():
    """Inside its scope and outside."""
    x, y = vector_data(8)
    expected = analysis.sharpness(
        compiled(normalizing_network(), cross_entropy()), x, y
    )
    with replicas(2).scope():
        model = compiled(normalizing_network(), cross_entropy())
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
    "tensors": lambda *arrays: tuple(map(keras.ops.convert_to_tensor, arrays)),
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


@pytest.fixture(scope="module")
def model():
    """One that the tests of data do not change."""
    return compiled(normalizing_network(), cross_entropy())


@pytest.mark.parametrize(("source", "weighted"), [*READ, *MORE])
def test_data_of_every_kind(model, source, weighted):
    """In batches of four, four and two, as `evaluate` reads them."""
    x, y = vector_data(10)
    arrays = (x, y, np.arange(10.0, dtype="float32")) if weighted else (x, y)
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


def state_of(model):
    return [
        *weights_of(model),
        *[np.array(v) for v in model.optimizer.variables],
        *[np.array(v) for v in model.metrics_variables],
        *[np.array(v) for v in model.non_trainable_variables],
    ]


def test_nothing_of_the_model_changes():
    x, y = vector_data()
    model = LWSAMModel(normalizing_network(), "look_sam")
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
        analysis.hessian_eigenvalues(
            *data, layers="normalizing/norm", training=training
        )
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
    x, y = vector_data()
    network = compiled(normalizing_network(dropout=0.5), cross_entropy())
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
    with pytest.raises(ValueError, match="together with x, y or sample_weight"):
        analysis.sharpness(analysis.Objective(model, x, y), x, y)


def test_empty_batches_do_not_count():
    """A filter may leave none of a batch."""
    model = compiled(keras.Sequential([keras.Input((2,)), layers.Dense(1)]))
    x, y = random(4, 2).astype("float32"), np.zeros((4, 1), "float32")
    some = tf.data.Dataset.from_tensors((x, y))
    none = tf.data.Dataset.from_tensors((x[:0], y[:0]))
    objective = analysis.Objective(model, some.concatenate(none))
    assert objective.loss() == analysis.Objective(model, x, y).loss()
    with pytest.raises(ValueError, match="must have a sample"):
        analysis.Objective(model, none)
