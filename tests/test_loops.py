"""Recurrent layers upstream of the first perturbed one are called once."""

import contextlib
import functools
import gc
import weakref

import keras
import numpy as np
import pytest
from keras import layers

from benchmarks import operations
from keras_lwsam import LWSAMModel, selection
from keras_lwsam._engines.tensorflow import loops
from tests.support import (
    assert_close,
    assert_equal,
    cross_entropy,
    mirrored,
    momentum_sgd,
    train_on_batch,
    weights_of,
)
from tests.test_predicted_price import Positions, check

pytestmark = pytest.mark.tensorflow

HEAD = selection.OutputSide(1)
exhaustive = functools.partial(pytest.param, marks=pytest.mark.exhaustive)


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def sequential(*middle, batch_size=None, shape=(3, 3)):
    network = keras.Sequential(
        [
            keras.Input(shape, batch_size=batch_size),
            *middle,
            layers.Dense(3),
        ]
    )
    return network, numbers(4, *shape)


def stacked():
    # Keras draws no orthogonal matrices of 16 bits.
    lstm = functools.partial(
        layers.LSTM, recurrent_initializer="glorot_uniform"
    )
    return sequential(
        lstm(4, dropout=0.3, recurrent_dropout=0.3, return_sequences=True),
        layers.Dropout(0.3),
        lstm(5),
    )


def single():
    return sequential(layers.GRU(4, dropout=0.3))


def stateful():
    return sequential(layers.GRU(4, stateful=True), batch_size=4)


def bidirectional():
    return sequential(
        layers.Dense(4, activation="tanh"),
        layers.Bidirectional(layers.GRU(4, return_sequences=True)),
        layers.SimpleRNN(4),
    )


def masked():
    network = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(9, 4, mask_zero=True),
            layers.GRU(5),
            layers.Dense(3),
        ]
    )
    return network, np.random.default_rng(0).integers(0, 9, (4, 6))


def cells():
    cell = layers.StackedRNNCells([layers.LSTMCell(4), layers.GRUCell(3)])
    return sequential(layers.RNN(cell, activity_regularizer="l2"))


def convolutional():
    return sequential(
        layers.ConvLSTM1D(2, 2), layers.Flatten(), shape=(4, 5, 2)
    )


def encoder_and_decoder():
    """One layer on two inputs, and a layer that starts from a state."""
    first, second = keras.Input((5, 3)), keras.Input((5, 3))
    encoder = layers.LSTM(4, return_state=True, name="encoder")
    x, *_ = encoder(first)
    _, *states = encoder(second)
    decoder = layers.LSTM(4, return_sequences=True, name="decoder")
    x = layers.Concatenate()([x, decoder(second, initial_state=states)[:, -1]])
    network = keras.Model([first, second], layers.Dense(3)(x))
    return network, [numbers(4, 5, 3), 1.0 - numbers(4, 5, 3)]


class Listening(layers.SimpleRNNCell):
    """A cell that is told a tensor by an attribute."""

    heard = None

    def call(self, sequence, states, training=False):
        output, states = super().call(sequence, states, training)
        return output + self.heard, states


class Telling(layers.Layer):
    """Tells a cell what a dense layer makes of the inputs."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(4)
        self.cell = Listening(4)
        self.loop = layers.RNN(self.cell)

    def build(self, input_shape):
        self.dense.build((None, input_shape[-1]))
        self.loop.build(input_shape)

    def call(self, inputs):
        vars(self.cell)["heard"] = self.dense(inputs[:, 0])
        try:
            return self.loop(inputs)
        finally:
            del vars(self.cell)["heard"]


def told():
    return sequential(Telling())


class Rereading(layers.Layer):
    """Reads a sequence in a loop of its own."""

    def call(self, inputs):
        steps = keras.ops.transpose(inputs, (1, 0, 2))
        zero = keras.ops.zeros_like(steps[0])

        def add(total, step):
            total = (
                total + keras.ops.matmul(step, keras.ops.transpose(step))[:, :1]
            )
            return total, total

        return keras.ops.scan(add, zero, steps)[0]


def with_a_loop_of_its_own():
    return sequential(
        layers.LSTM(4, return_sequences=True), Rereading(), layers.Dense(4)
    )


@pytest.fixture
def taken_over(monkeypatch):
    """List of the calls that stood for later ones."""
    calls, take_over = [], loops._taken_over

    def note_and_take_over(call, *args):
        calls.append(call)
        return take_over(call, *args)

    monkeypatch.setattr(loops, "_taken_over", note_and_take_over)
    return calls


def without_sharing(monkeypatch):
    monkeypatch.setattr(
        loops.Loops, "shared", lambda *args: contextlib.nullcontext()
    )


def trained(make, chosen, method="sam", steps=2, **mode):
    """What comes of some steps: weights, other variables, logs."""
    keras.utils.set_random_seed(0)
    network, x = make()
    y = np.array([0, 1, 2, 1])
    model = LWSAMModel(network, method, layers=chosen)
    model.compile(momentum_sgd(), cross_entropy(), **mode)
    logs = [train_on_batch(model, x, y) for _ in range(steps)]
    logs = [np.array(list(log.values()), "float32") for log in logs]
    return [*weights_of(model), *logs]


def compare_with_eager(make, chosen, **kwargs):
    """Eagerly nothing is shared."""
    in_graph = trained(make, chosen, jit_compile=False, **kwargs)
    eager = trained(make, chosen, run_eagerly=True, **kwargs)
    assert_close(in_graph, eager, 2e-6)


@pytest.mark.parametrize(
    ("make", "chosen", "count"),
    [
        (stacked, Positions(1, 2), 1),
        (stateful, HEAD, 1),
        (masked, HEAD, 1),
        (encoder_and_decoder, HEAD, 3),
        (told, Positions(0), 0),
        exhaustive(told, HEAD, 0),
        exhaustive(stacked, HEAD, 2),
        exhaustive(bidirectional, HEAD, 2),
        exhaustive(cells, HEAD, 1),
        exhaustive(convolutional, HEAD, 1),
        exhaustive(with_a_loop_of_its_own, HEAD, 1),
        # The forward direction of two, and what it reads.
        exhaustive(bidirectional, Positions(2), 1),
        exhaustive(stacked, selection.All(), 0),
    ],
)
def test_the_same_comes_of_it(make, chosen, count, taken_over):
    compare_with_eager(make, chosen)
    assert len(taken_over) == count


@pytest.mark.parametrize(
    ("method", "count"),
    [
        # It has the gradient of one loop twice.
        ("gsam", 1),
        ("esam", 1),
        exhaustive("stable_sam", 1),
        exhaustive("look_sam", 1),
        exhaustive("gam", 3),
        # They have nothing in common: another batch, a loop.
        exhaustive("sampa", 0),
        exhaustive("entropy_sgd", 0),
    ],
)
def test_the_same_comes_of_methods(method, count, taken_over):
    compare_with_eager(single, HEAD, method=method)
    assert len(taken_over) == count


@pytest.mark.exhaustive
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
def test_the_same_comes_of_it_in_16_bits(policy, taken_over, monkeypatch):
    keras.config.set_dtype_policy(policy)
    shared = trained(stacked, HEAD, jit_compile=False)
    assert len(taken_over) == 2
    without_sharing(monkeypatch)
    assert_equal(shared, trained(stacked, HEAD, jit_compile=False))


@pytest.mark.exhaustive
def test_the_same_comes_of_it_on_replicas(taken_over, monkeypatch):
    with mirrored().scope():
        shared = trained(stacked, HEAD, jit_compile=False)
        assert len(taken_over) == 2 * 2
        without_sharing(monkeypatch)
        alone = trained(stacked, HEAD, jit_compile=False)
    assert_close(shared, alone)


def test_no_perturbation_is_plain_training():
    weights = []
    for is_plain in (True, False):
        keras.utils.set_random_seed(0)
        network, x = single()
        model = network if is_plain else LWSAMModel(network, rho=0.0)
        model.compile(momentum_sgd(), cross_entropy(), jit_compile=False)
        for _ in range(2):
            model.train_on_batch(x, np.array([0, 1, 2, 1]))
        weights.append(weights_of(network))
    assert_equal(*weights)


def executed(make, chosen=None, count=operations.executed, **mode):
    network, x = make()
    model = network
    if chosen is not None:
        model = LWSAMModel(network, layers=chosen)
    model.compile("sgd", cross_entropy(), **mode)
    return count(model, x, np.zeros(4))


def test_loops_and_draws_that_a_step_executes():
    """A layer has a loop forward and one backward."""
    plain = executed(stacked, jit_compile=False)
    head = executed(stacked, HEAD, jit_compile=False)
    second = executed(stacked, Positions(1, 2), jit_compile=False)
    assert plain["loop"] == head["loop"] == 4
    # The second layer once more, forward and backward.
    assert second["loop"] == 4 + 2
    assert plain["random"] == head["random"] == second["random"] > 0


@pytest.mark.exhaustive
def test_all_layers_are_all_loops_twice():
    assert executed(stacked, "all", jit_compile=False)["loop"] == 8


@pytest.mark.exhaustive
def test_loops_in_xla():
    count = functools.partial(executed, single, jit_compile=True)
    plain = count(count=operations.compiled_by_xla)["loop"]
    assert plain == count(HEAD, operations.compiled_by_xla)["loop"] > 0


@pytest.mark.parametrize(
    "make",
    [
        with_a_loop_of_its_own,
        exhaustive(stacked),
        exhaustive(bidirectional),
        exhaustive(encoder_and_decoder),
        exhaustive(cells),
        exhaustive(convolutional),
    ],
)
def test_predicted_products_are_those_executed(make):
    check(lambda: (*make(), np.zeros(4)), HEAD, Positions(1))


def test_graphs_are_let_go(taken_over):
    trained(single, HEAD, steps=1, jit_compile=False)
    (graph,) = {weakref.ref(call.graph) for call in taken_over}
    taken_over.clear()
    gc.collect()
    assert graph() is None
