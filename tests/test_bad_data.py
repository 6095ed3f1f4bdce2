"""Bad data do no more harm than they do to plain `fit`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lwsam import LWSAMModel
from tests.cases import CASES, KINDS, methods_daily
from tests.support import (
    MODES,
    assert_equal,
    cross_entropy,
    momentum_sgd,
    train_on_batch,
    weights_of,
)

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(48, 10)).astype("float32")
Y = GENERATOR.integers(0, 4, 48)
GRAPH, EAGER = MODES["graph"], MODES["eager"]

every_method = pytest.mark.parametrize("name", CASES)


def remembers(case):
    """Whether a method has a memory of its own."""
    weight = keras.Variable(np.zeros(2), name="weight")
    return bool(keras.tree.flatten(case.make().initial_state([weight])))


def first_of_all(names):
    """Every method; those that are not named when all is wanted."""
    return pytest.mark.parametrize(
        "name",
        [
            name
            if name in names
            else pytest.param(name, marks=pytest.mark.exhaustive)
            for name in CASES
        ],
    )


with_memory = first_of_all(
    ["sam", *(name for name, case in CASES.items() if remembers(case))]
)


class Raising(keras.layers.Layer):
    """Hands on its inputs; raises in one of its calls."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.calls_left = None

    def call(self, inputs):
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left == 0:
                self.calls_left = None
                raise RuntimeError("raised in call")
        return inputs


def network(normalization=False, dtype="float32"):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((10,))])
    model.add(keras.layers.Dense(8, "tanh", name="first", dtype=dtype))
    if normalization:
        model.add(keras.layers.BatchNormalization())
        model.add(keras.layers.Dropout(0.2))
    model.add(Raising(name="raising"))
    model.add(keras.layers.Dense(4, name="logits"))
    return model


def compiled(name, optimizer=None, mode=EAGER, **kwargs):
    method = CASES[name].make()
    model = LWSAMModel(network(**kwargs), method, layers="all")
    model.compile(
        optimizer or keras.optimizers.SGD(0.1), cross_entropy(), **mode
    )
    return model


def state_of(model):
    return [v.numpy() for v in model._state.variables]


def everything(model):
    return [v.numpy() for v in (*model.variables, *model.optimizer.variables)]


def assert_finite(arrays):
    for array in arrays:
        assert np.isfinite(np.asarray(array, "float64")).all()


def rows(step, size=8):
    begin = step * size % len(X)
    return X[begin : begin + size], Y[begin : begin + size]


BAD = [
    np.nan,
    *(
        pytest.param(value, marks=pytest.mark.exhaustive)
        for value in (np.inf, 1e10, 1e19)
    ),
]


@pytest.mark.parametrize("bad", BAD)
@with_memory
def test_a_bad_batch_leaves_the_state_usable(name, bad):
    """Weights are lost as in `fit`; put back, they train on at once."""
    model = compiled(name)
    for step in range(2):
        model.train_on_batch(*rows(step))
    good, memory = weights_of(model.model), model._state.memory()
    model.train_on_batch(np.full_like(X[:8], bad), Y[:8])
    assert_finite(state_of(model))
    if not np.isfinite(bad):
        assert not all(np.isfinite(w).all() for w in weights_of(model.model))
        assert_equal(
            keras.tree.flatten(model._state.memory()),
            keras.tree.flatten(memory),
        )
    model.model.set_weights(good)
    model.train_on_batch(*rows(2))
    assert_finite(everything(model))
    assert any(
        (a != b).any()
        for a, b in zip(weights_of(model.model), good, strict=True)
    )


@with_memory
def test_a_loss_scale_skips_a_bad_batch(name):
    """Weights, optimizer and memory stay, and training goes on."""
    model = compiled(
        name,
        keras.optimizers.LossScaleOptimizer(momentum_sgd(), initial_scale=8.0),
    )
    for step in range(2):
        model.train_on_batch(*rows(step))
    kept = [*model.model.weights, *model.optimizer.inner_optimizer.variables]
    before = [v.numpy() for v in kept]
    memory = keras.tree.flatten(model._state.memory())
    norms = model.layer_gradient_norms
    log = train_on_batch(model, np.full_like(X[:8], np.nan), Y[:8])
    assert np.isnan(log["loss"])
    assert log["sharpness"] == 0.0
    assert_equal([v.numpy() for v in kept], before)
    assert_equal(keras.tree.flatten(model._state.memory()), memory)
    assert model.layer_gradient_norms == norms
    assert float(model.optimizer.dynamic_scale) == 4.0
    for step in range(2, 4):
        model.train_on_batch(*rows(step))
    assert_finite(everything(model))
    assert (kept[0].numpy() != before[0]).any()


@pytest.mark.parametrize("what", ["inputs", "targets", "weights"])
def test_terminate_on_nan_stops_where_fit_stops(what):
    """After as many steps, with NaN in the same weights."""
    ends = []
    for wrap in (False, True):
        model = network()
        model = LWSAMModel(model, layers="all") if wrap else model
        model.compile("sgd", "mse", run_eagerly=True)
        data = [X.copy(), X[:, :4].copy(), np.ones(48, "float32")]
        data[["inputs", "targets", "weights"].index(what)][20] = np.nan
        history = model.fit(
            *data[:2],
            sample_weight=data[2],
            batch_size=8,
            epochs=3,
            shuffle=False,
            verbose=0,
            callbacks=[keras.callbacks.TerminateOnNaN()],
        )
        ends.append(
            (
                int(model.optimizer.iterations),
                len(history.history["loss"]),
                [np.isnan(w).all() for w in weights_of(model)][-4:],
            )
        )
    assert ends[1] == ends[0]
    assert ends[0][0] == 3


@methods_daily(KINDS)
def test_a_last_batch_of_one_sample(name):
    model = compiled(name, normalization=True)
    log = model.fit(X[:33], Y[:33], 16, shuffle=False, verbose=0).history
    assert_finite(log.values())
    assert_finite(everything(model))
    assert model._state.steps_taken() == model._training.clock.step == 3


@pytest.mark.tensorflow
@first_of_all(["sam", "imbsam", "delta_sam", "esam", "ausam", "sampa"])
def test_an_empty_batch_does_no_harm(name):
    """Plain Keras takes it too, unless there are other losses to add."""
    model = compiled(name)
    model.train_on_batch(*rows(0))
    before = everything(model)
    if name in ("imbsam", "delta_sam"):
        with pytest.raises(tf.errors.InvalidArgumentError):
            model.train_on_batch(X[:0], Y[:0])
        # The loss trackers of Keras belong to no step.
        assert_equal(everything(model)[: len(before)], before)
    else:
        model.train_on_batch(X[:0], Y[:0])
    model.train_on_batch(*rows(1))
    assert_finite(weights_of(model))


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("mode", [GRAPH, EAGER], ids=["graph", "eager"])
def test_the_end_of_data_is_no_step(mode):
    """Of an unknown number; a compiled step finds it out while it runs."""
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    model = compiled("look_sam", mode=mode)
    data = data.filter(lambda *_: True)
    model.fit(data, epochs=3, shuffle=False, verbose=0)
    assert model._state.steps_taken() == model._training.clock.step == 9
