"""Training runs that may be killed, in processes of their own."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_lwsam import LWSAMModel, methods, schedules, selection
from keras_lwsam.callbacks import BackupAndRestore
from tests.cases import CASES
from tests.support import cross_entropy

EPOCHS, STEPS, BATCH = 3, 2, 8

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(STEPS * BATCH, 10)).astype("float32")
Y = GENERATOR.integers(0, 4, STEPS * BATCH)


def network(hidden=8):
    """Dense layers, BatchNorm and dropout, small enough to trace quickly."""
    return keras.Sequential(
        [
            keras.Input((10,)),
            keras.layers.Dense(hidden, activation="tanh", name="first"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dropout(0.2, seed=1),
            keras.layers.Dense(6, activation="tanh", name="second"),
            keras.layers.Dense(4, name="logits"),
        ],
        name="small",
    )


def decaying_sgd():
    """SGD with momentum and a learning rate that falls with each step."""
    decay = keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.7)
    return keras.optimizers.SGD(decay, momentum=0.9)


class Run(NamedTuple):
    """What is trained.

    Attributes:
        method: Function without arguments to the method.
        layers: What is perturbed.
        schedule: When it is.
        optimizer: Function without arguments to the optimizer.
        eager: Whether steps run eagerly, which takes least time.
        shuffle: Whether `fit` shuffles the samples.
    """

    method: Callable[[], Any] = methods.SAM
    layers: Any = selection.Random(2, refresh="epoch", seed=3)
    schedule: Any = None
    optimizer: Callable[[], Any] = decaying_sgd
    eager: bool = True
    shuffle: bool = False


RUNS = {name: Run(case.make) for name, case in CASES.items()} | {
    "adaptive": Run(layers=selection.LargestGradientNorm(1), eager=False),
    "adaptive in steps": Run(
        layers=selection.LargestGradientNorm(2, refresh=3),
        optimizer=lambda: keras.optimizers.Adam(
            use_ema=True,
            ema_overwrite_frequency=4,
            gradient_accumulation_steps=3,
        ),
    ),
    "towards the end, shuffled": Run(
        lambda: methods.GSAM(schedules.FollowLearningRate(0.02, 0.1, 0.0, 0.1)),
        schedule=schedules.FromShare(0.5),
        shuffle=True,
    ),
    "now and then": Run(
        methods.VaSSO, schedule=schedules.WithProbability(0.5, seed=1)
    ),
    "sampa in a graph": Run(methods.SAMPa, eager=False),
}


def make(run, hidden=8):
    """A compiled model of a `Run`."""
    model = LWSAMModel(
        network(hidden), run.method(), layers=run.layers, schedule=run.schedule
    )
    model.compile(
        run.optimizer(),
        cross_entropy(),
        metrics=["accuracy"],
        run_eagerly=run.eager,
    )
    return model


def fit(model, epochs=EPOCHS, shuffle=False, **kwargs):
    """Trains on few batches, by default the same in every run."""
    return model.fit(
        X,
        Y,
        batch_size=BATCH,
        epochs=epochs,
        shuffle=shuffle,
        verbose=0,
        **kwargs,
    )


def everything(model):
    """All that a model knows, as arrays: weights, optimizer, own state."""
    known = {}
    model.save_own_variables(known)
    groups = {"weight": model.model, "optimizer": model.optimizer}
    for group, owner in groups.items():
        for i, variable in enumerate(owner.variables):
            known[f"{group}_{i}"] = keras.ops.convert_to_numpy(variable)
    known["selected"] = np.array(model.selected_layers)
    known["norms"] = np.array(list(model.layer_gradient_norms.values()))
    return {name: np.array(array) for name, array in known.items()}


def assert_same(actual, expected):
    """What `everything` gave twice is equal bit for bit."""
    assert set(actual) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name], name)


class At(keras.callbacks.Callback):
    """Calls a function at the end of one step of one epoch."""

    def __init__(self, epoch, step, function):
        super().__init__()
        self._when, self._function = (epoch, step), function

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self._epoch, batch) == self._when:
            self._function()


def die():
    """What a machine does whose power fails."""
    os.kill(os.getpid(), signal.SIGKILL)


def stop():
    """What Ctrl+C does."""
    raise KeyboardInterrupt


def train(name, folder, seed, callbacks=(), kill_in=None, save_freq="epoch"):
    """Begins a run, or goes on with it, as one script would do both.

    Args:
        name: A key of `RUNS`.
        folder: Where files go: backups, logs, and what is known at the end.
        seed: Seed of everything that `make` draws.
        callbacks: Further callbacks.
        kill_in: Index of the epoch in the middle of which the process dies.
        save_freq: When a backup is made.
    """
    folder.mkdir(exist_ok=True)
    keras.utils.set_random_seed(seed)
    run = RUNS[name]
    model = make(run)
    backup = keras.callbacks.BackupAndRestore(folder / "backup", save_freq)
    # That of Keras and that of this package, in turn.
    if save_freq == "epoch" and list(RUNS).index(name) % 2:
        backup = BackupAndRestore(folder / "backup")
    log = keras.callbacks.CSVLogger(folder / "log.csv", append=True)
    killer = [] if kill_in is None else [At(kill_in, 0, die)]
    callbacks = [backup, log, *callbacks, *killer]
    fit(model, shuffle=run.shuffle, callbacks=callbacks)
    np.savez(folder / "end.npz", **everything(model))


def train_with_checkpoints(name, folder, seed):
    """A run that saves a file an epoch, and dies in the last one."""
    saves = keras.callbacks.ModelCheckpoint(folder / "{epoch}.keras")
    train(name, folder, seed, [saves], kill_in=EPOCHS - 1)


def go_on(name, path, begin):
    """Loads a file and trains on from an epoch."""
    keras.utils.set_random_seed(99)
    model = keras.saving.load_model(path)
    model.run_eagerly = RUNS[name].eager
    fit(model, initial_epoch=begin)
    np.savez(path.with_suffix(".npz"), **everything(model))


def in_process(function, *args):
    """Runs a function in a new process. Returns its exit code.

    The new process is forked from one that has imported TensorFlow, which
    takes seconds, but never used it, which forking would not survive.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["keras_lwsam"])
    process = context.Process(target=function, args=args)
    process.start()
    process.join()
    return process.exitcode
