"""Networks whose own steps take other batches, and look at what is compiled."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lwsam import LWSAMModel, analysis, methods
from tests.backends import to_numpy
from tests.support import (
    assert_equal,
    cross_entropy,
    dense_network,
    momentum_sgd,
    weights_of,
)

X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(12, 3)).astype("float32")


def network(kind):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(5, activation="tanh")(inputs)
    return kind(inputs, keras.layers.Dense(3)(hidden))


class Unpacking(keras.Model):
    """Takes batches that are dicts, as KerasCV's detectors do."""

    def train_step(self, *args):
        batch = args[-1]
        x = tf.cast(batch["x"], "float32") / 2.0
        return super().train_step(*args[:-1], (x, batch["y"]))

    def test_step(self, *args):
        batch = args[-1]
        x = tf.cast(batch["x"], "float32") / 2.0
        return super().test_step(*args[:-1], (x, batch["y"]))


def pairs(size=4):
    data = X / 2.0, Y
    return tf.data.Dataset.from_tensor_slices(data).batch(size)


def dicts(size=4):
    data = {"x": X, "y": Y}
    return tf.data.Dataset.from_tensor_slices(data).batch(size)


@pytest.mark.tensorflow
@pytest.mark.parametrize("mode", [{"run_eagerly": True}, {}], ids=str)
def test_batches_that_are_dicts(mode):
    ends = []
    for kind, batches in ((Unpacking, dicts), (keras.Model, pairs)):
        plain = network(kind)
        model = LWSAMModel(plain, layers="all")
        model.compile(momentum_sgd(), "mse", metrics=["mae"], **mode)
        history = model.fit(
            batches(),
            validation_data=batches(),
            epochs=2,
            shuffle=False,
            verbose=0,
        )
        ends.append((history.history, weights_of(plain)))
    assert ends[0][0] == ends[1][0]
    assert_equal(ends[0][1], ends[1][1])


def test_inputs_that_are_dicts_and_the_batch_before():
    """A batch that is a dict is no saved one."""
    inputs = {"x": keras.Input((4,), name="x")}
    outputs = keras.layers.Dense(3, activity_regularizer="l2")(inputs["x"])
    model = LWSAMModel(keras.Model(inputs, outputs), "sampa", layers="all")
    model.compile("sgd", run_eagerly=True)
    batches = tf.data.Dataset.from_tensor_slices({"x": X}).batch(4)
    history = model.fit(batches, shuffle=False, verbose=0)
    assert history.history["loss"][0] > 0.0


def test_analysis_of_batches_that_are_dicts():
    values = []
    for kind, batches in ((Unpacking, dicts), (keras.Model, pairs)):
        plain = network(kind)
        plain.compile("sgd", "mse", run_eagerly=True)
        values.append(analysis.sharpness(plain, batches(), rho=0.1))
    assert values[0] == values[1]


class Reporting(keras.Model):
    """Looks at its metrics and its optimizer in its step."""

    def train_step(self, data):
        super().train_step(data)
        logs = {metric.name: metric.result() for metric in self.metrics}
        rate = self.optimizer.learning_rate
        return {**logs, **self.get_metrics_result(), "rate": rate}


@pytest.mark.not_jax
@pytest.mark.parametrize("compiled", [False, True])
def test_what_a_step_looks_at(compiled):
    """It is the wrapper's, whatever the network itself was compiled with."""
    logs = []
    for wrap in (False, True):
        plain = network(Reporting)
        if compiled:
            plain.compile("adam", "mae")
        model = LWSAMModel(plain, rho=0.0) if wrap else plain
        model.compile(
            momentum_sgd(0.25), "mse", metrics=["mae"], run_eagerly=True
        )
        logs.append(model.fit(X, Y, shuffle=False, verbose=0).history)
    assert logs[0] == logs[1]
    assert logs[1]["rate"] == [0.25]
    if compiled:
        assert isinstance(plain.optimizer, keras.optimizers.Adam)
    else:
        assert not hasattr(plain, "optimizer")


class Unregistered(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that cannot be made from a configuration."""

    def __call__(self, step):
        return 0.1


class WithArguments(keras.optimizers.SGD):
    def __init__(self, own):
        super().__init__(own)


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.SGD(Unregistered()),
        lambda: WithArguments(0.1),
    ],
    ids=["schedule", "class"],
)
def test_optimizers_that_cannot_be_made_again(make):
    """The network is wrapped; its wrapper waits to be compiled."""
    plain = network(keras.Model)
    plain.compile(make(), "mse")
    model = LWSAMModel(plain)
    assert not model.compiled
    with pytest.raises(ValueError, match=r"must call `compile\(\)`"):
        model.fit(X, Y, verbose=0)
    model.compile(make(), "mse", run_eagerly=True)
    assert np.isfinite(model.train_on_batch(X, Y)).all()


def test_what_is_excluded_from_weight_decay():
    """Is so in the wrapper of a compiled network."""
    ends = []
    for wrap in (False, True):
        plain = network(keras.Model)
        optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
        optimizer.exclude_from_weight_decay(var_names=["kernel"])
        plain.compile(optimizer, "mse", run_eagerly=True)
        model = LWSAMModel(plain, rho=0.0) if wrap else plain
        model.train_on_batch(X, Y)
        model.train_on_batch(X, Y)
        ends.append(weights_of(plain))
    assert_equal(*ends)


TOKENS = np.random.default_rng(2).normal(size=(6, 5, 10)).astype("float32")
LABELS = np.random.default_rng(3).integers(0, 4, (6, 5))
PADDING = np.arange(5) < np.array([[5], [1], [4], [2], [5], [3]])


def token_model(method):
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((5, 10)), keras.layers.Dense(4)])
    model = LWSAMModel(network, method, layers="all")
    model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
    return model


@pytest.mark.parametrize("dtype", ["bool", "float32"])
def test_samples_are_chosen_by_their_weighted_tokens(dtype):
    """As SAM on the samples of the largest weighted means."""
    model = token_model(methods.KSAM(0.1))
    values = to_numpy(
        keras.losses.sparse_categorical_crossentropy(
            LABELS, model.model(TOKENS), from_logits=True
        )
    )
    chosen = np.argsort(-np.mean(values * PADDING, axis=1))[:3]
    assert set(chosen) != set(np.argsort(-np.mean(values, axis=1))[:3])
    model.train_on_batch(TOKENS, LABELS, PADDING.astype(dtype))
    twin = token_model(methods.SAM(0.1))
    chosen = np.sort(chosen)
    twin.train_on_batch(TOKENS[chosen], LABELS[chosen], PADDING[chosen])
    assert_equal(weights_of(model.model), weights_of(twin.model))


@pytest.mark.parametrize(
    "method",
    [
        methods.DeltaSAM(0.1),
        methods.ESAM(0.1, beta=1.0),
        methods.AUSAM(0.1),
        methods.ImbSAM([9, 9, 30, 30], 0.1),
        methods.BiSAM(0.1),
    ],
    ids=repr,
)
def test_methods_that_look_at_samples_take_weighted_tokens(method):
    """What is behind the end of a sample matters to none of them."""
    ends = []
    for label in (0, 3):
        model = token_model(method)
        labels = np.where(PADDING, LABELS, label)
        if isinstance(method, methods.BiSAM):
            labels = LABELS  # It rates every label.
        model.train_on_batch(TOKENS, labels, PADDING)
        ends.append(weights_of(model.model))
        assert np.isfinite(ends[-1][0]).all()
    assert_equal(*ends)


def test_weighted_samples_of_tokens():
    """DeltaSAM weights samples also where tokens have no weights."""
    ends = []
    for weights in (None, np.ones(PADDING.shape, "float32")):
        model = token_model(methods.DeltaSAM(0.1))
        model.train_on_batch(TOKENS, LABELS, weights)
        ends.append(weights_of(model.model))
    np.testing.assert_allclose(ends[0][0], ends[1][0], rtol=0, atol=1e-6)


def test_whole_sample_weights_are_fractions_when_multiplied():
    """DeltaSAM weights samples; weights that are integers stay no integers."""
    x, y = X[:8], np.arange(8) % 3
    ends = []
    for dtype in ("int32", "float32"):
        model = LWSAMModel(dense_network(sizes=(4, 5, 3)), "delta_sam")
        model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
        model.train_on_batch(x, y, np.array([1, 2] * 4, dtype))
        ends.append(weights_of(model.model))
    assert_equal(*ends)


def test_as_many_tokens_as_classes():
    """Integers for each position are no one-hot labels."""
    ends = []
    for one_hot in (False, True):
        keras.utils.set_random_seed(0)
        network = keras.Sequential(
            [keras.Input((4, 10)), keras.layers.Dense(4)]
        )
        model = LWSAMModel(network, "bisam", layers="all")
        loss = cross_entropy()
        labels = LABELS[:, :4]
        if one_hot:
            loss = keras.losses.CategoricalCrossentropy(from_logits=True)
            labels = np.eye(4, dtype="float32")[labels]
        model.compile(momentum_sgd(), loss, run_eagerly=True)
        model.train_on_batch(TOKENS[:, :4], labels)
        ends.append(weights_of(network))
    np.testing.assert_allclose(ends[0][0], ends[1][0], rtol=0, atol=1e-6)
