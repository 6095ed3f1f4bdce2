"""What an exception or an interruption leaves behind: whole steps."""

import os
import signal
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lwsam import callbacks
from tests.cases import CASES, daily
from tests.random_networks import look_of
from tests.support import assert_equal, momentum_sgd, weights_of
from tests.test_bad_data import (
    EAGER,
    GRAPH,
    X,
    Y,
    assert_finite,
    compiled,
    everything,
    first_of_all,
    rows,
)


@pytest.mark.not_torch
@pytest.mark.not_jax
@pytest.mark.parametrize(
    "mode",
    [EAGER, pytest.param(GRAPH, marks=pytest.mark.exhaustive)],
    ids=["eager", "graph"],
)
@first_of_all(["sam", "imbsam", "esam", "gam", "smooth_out", "sampa"])
def test_an_exception_in_a_pass_leaves_all_as_it_was(name, mode):
    """Raised by the network in the second pass, where there is one."""
    model = compiled(name, momentum_sgd(), mode, dtype="bfloat16")
    model.optimizer.build(model.trainable_variables)
    layer = model.get_layer("raising")
    before, look = everything(model), look_of(model.model)
    kernel = model.get_layer("logits").kernel
    start = kernel.numpy()
    loss = dict(vars(model.loss))
    layer.calls_left = min(2, CASES[name].passes[0])
    with pytest.raises(RuntimeError, match="raised in call"):
        model.fit(X, Y, batch_size=16, verbose=0)
    assert layer.calls_left is None
    assert_equal(everything(model)[: len(before)], before)
    assert look_of(model.model) == look
    assert vars(model.loss) == loss
    log = model.fit(X, Y, batch_size=16, verbose=0).history
    assert_finite(log.values())
    assert model._state.steps_taken() == model._training.clock.step == 3
    assert not np.array_equal(kernel.numpy(), start)


class Batches(keras.utils.PyDataset):
    """Three batches; the one at `bad` raises."""

    def __init__(self, bad=None):
        super().__init__()
        self.bad = bad

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index == self.bad:
            raise ValueError("raised by the data")
        return rows(index, 16)


def generate(bad=None):
    """The same as a generator, for two epochs."""
    for step in range(6):
        if step == bad:
            raise ValueError("raised by the data")
        yield rows(step % 3, 16)


@pytest.mark.parametrize(
    ("name", "mode", "kind"),
    daily(
        [
            (name, mode, kind)
            for name, mode in (
                ("look_sam", GRAPH),
                ("sampa", EAGER),
                ("dynamic_sparse_sam", EAGER),
            )
            for kind in ("generator", "dataset")
        ],
        lambda name, mode, kind: (
            (name, kind) in {("look_sam", "dataset"), ("sampa", "generator")}
        ),
    ),
)
def test_data_that_raise_end_fit_between_two_steps(name, mode, kind):
    """The steps before are whole, and `fit` goes on from there."""
    whole, part = (compiled(name, mode=mode) for _ in range(2))
    whole.fit(X[:32], Y[:32], batch_size=16, shuffle=False, verbose=0)
    data = generate(2) if kind == "generator" else Batches(2)
    tracker = callbacks.LayerNormTracker(every=1)
    with pytest.raises(Exception, match="raised by the data"):
        part.fit(
            data,
            steps_per_epoch=3,
            epochs=2,
            shuffle=False,
            verbose=0,
            callbacks=[tracker],
        )
    assert not part.watched
    assert part._state.steps_taken() == part._training.clock.step == 2
    assert_equal(weights_of(part.model), weights_of(whole.model))
    for model in (whole, part):
        model.fit(X, Y, batch_size=16, shuffle=False, verbose=0)
    assert_equal(weights_of(part.model), weights_of(whole.model))
    assert part._state.steps_taken() == part._training.clock.step == 5


NOT_JAX = pytest.mark.not_jax


class Interrupt(keras.callbacks.Callback):
    """Interrupts `fit`: at a batch by a signal, or at any time soon after."""

    def __init__(self, how, batch=4):
        super().__init__()
        self.how, self.batch = how, batch

    def on_train_batch_end(self, batch, logs=None):
        # Again much later: Python drops an exception that a signal raises
        # while an object is being destroyed.
        if batch % 1000 != self.batch:
            return
        if self.how == "exception":
            raise KeyboardInterrupt
        if self.how == "signal":
            signal.raise_signal(signal.SIGINT)
        if self.how == "timer":
            kill = (os.getpid(), signal.SIGINT)
            threading.Timer(0.05, os.kill, kill).start()


@pytest.fixture
def interruptible():
    """As at a terminal: what runs in the background ignores the signal."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize(
    ("how", "mode"),
    [
        *daily(
            [
                (how, mode)
                for how in ("exception", "signal")
                for mode in (GRAPH, EAGER)
            ],
            lambda how, mode: (how == "exception") == (mode is EAGER),
        ),
        # On JAX Keras loses the state that a step in flight was handed.
        pytest.param("timer", GRAPH, marks=NOT_JAX),
        pytest.param("timer", EAGER, marks=[NOT_JAX, pytest.mark.exhaustive]),
    ],
)
def test_an_interruption_leaves_whole_steps(how, mode, interruptible):
    """The weights are those of as many steps, and `fit` goes on."""
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16).repeat()

    def steps(model, count, *more):
        model.fit(
            data,
            steps_per_epoch=count,
            shuffle=False,
            verbose=0,
            callbacks=list(more),
        )

    model = compiled("look_sam", mode=mode, normalization=True)
    with pytest.raises(KeyboardInterrupt):
        steps(model, 10_000, Interrupt(how))
    taken = model._state.steps_taken()
    assert taken >= 5
    again = compiled("look_sam", mode=mode, normalization=True)
    steps(again, taken)
    # In eager mode an interruption may come between two assignments.
    if how != "timer" or mode is GRAPH:
        assert_equal(weights_of(model.model), weights_of(again.model))
    steps(model, 3)
    assert model._state.steps_taken() == model._training.clock.step == taken + 3
    assert_finite(weights_of(model))


def test_stop_training_stops_after_the_step():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    model = compiled("sam")
    log = model.fit(
        X, Y, batch_size=16, epochs=4, verbose=0, callbacks=[Stop()]
    ).history
    assert len(log["loss"]) == 1
    assert model._state.steps_taken() == model._training.clock.step == 2
    model.fit(X, Y, batch_size=16, verbose=0)
    assert model._state.steps_taken() == model._training.clock.step == 5
