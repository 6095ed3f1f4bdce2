"""What a long training gathers is thrown away again."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import memory
from keras_lwsam import LWSAMModel, _fitting, _training, callbacks, selection
from tests.support import cross_entropy, dense_network

pytestmark = pytest.mark.tensorflow

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(50 * 4, 32)).astype("float32")
Y = GENERATOR.integers(0, 32, len(X))


@pytest.fixture(autouse=True)
def _look_at_what_is_new():
    """What earlier tests have left is neither searched nor counted."""
    gc.collect()
    gc.freeze()


def compiled(layers, depth=8, **mode):
    network = dense_network(sizes=(32,) * (depth + 1))
    model = LWSAMModel(network, layers=layers)
    model.compile("sgd", cross_entropy(), **mode)
    return model


class Objects(keras.callbacks.Callback):
    """Counts what Python has to look after, and memory, after each epoch."""

    def __init__(self):
        super().__init__()
        self.counts, self.megabytes = [], []

    def on_epoch_end(self, epoch, logs=None):
        gc.collect()
        self.counts.append(len(gc.get_objects()))
        self.megabytes.append(memory.resident())


def watched_fit(model, *more, steps=50):
    """Ten epochs of so many steps."""
    objects = Objects()
    x, y = X[: 4 * steps], Y[: 4 * steps]
    model.fit(x, y, 4, epochs=10, verbose=0, callbacks=[*more, objects])
    return objects


def assert_flat(objects, steps=50, allowed=0):
    """From the third of ten epochs on.

    Every step makes objects for sixteen weights, and 33 kB of gradients: were
    they kept, there would be sixteen objects a step more, and in 350 steps 11
    MB. One object a step, and 3 MB, are taken for chance.
    """
    assert objects.counts[-1] - objects.counts[2] < 7 * steps + allowed
    assert objects.megabytes[-1] - objects.megabytes[2] < 3.0


@pytest.mark.exhaustive
@pytest.mark.parametrize("steps", [10, 50])
def test_refreshes_leave_nothing_behind(steps):
    """Each chooses other layers; a tracker looks on."""
    tracker = callbacks.LayerNormTracker(every=5)
    model = compiled(selection.Random(2, refresh=1), run_eagerly=True)
    objects = watched_fit(model, tracker, steps=steps)
    assert model._adaptation.refreshes == 10 * steps - 1
    # Rows of eight layers, every five steps and at the end.
    rows = (steps // 5 + 1) * 8
    assert len(tracker.history) == 10 * rows
    assert_flat(objects, steps, allowed=7 * rows)


def test_refreshes_of_compiled_steps_leave_nothing_behind():
    model = compiled(selection.Random(1, refresh=1), depth=3)
    objects = watched_fit(model)
    assert model._adaptation.refreshes == 499
    assert model.trace_count == 3
    assert_flat(objects)


def test_control_what_is_kept_is_seen():
    """Gradients that something keeps do not count as flat."""

    class Keep(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            kept.append(self.model.model.get_weights())

    kept = []
    objects = watched_fit(compiled("all", depth=8), Keep())
    with pytest.raises(AssertionError):
        assert_flat(objects)


def test_forgotten_steps_are_collected(monkeypatch):
    """Of many compiled steps the latest few are kept, with their graphs."""
    kept, made = 2, []

    class Watched(_fitting.CompiledSteps):
        def __init__(self, make):
            def make_and_watch():
                step = make()
                made.append(weakref.ref(step))
                return step

            super().__init__(make_and_watch)

    def graphs():
        gc.collect()
        return sum(
            isinstance(o, tf.Graph) and o.building_function
            for o in gc.get_objects()
        )

    monkeypatch.setattr(_training, "CompiledSteps", Watched)
    monkeypatch.setattr(_fitting, "_KEPT_STEPS", kept)
    model = compiled(selection.Random(1, refresh=1), depth=6)
    counts = []
    while len(made) < 9:
        before = len(made)
        model.fit(X[:4], Y[:4], 4, verbose=0)
        if len(made) > before:
            counts.append(graphs())
    assert sum(ref() is not None for ref in made) == kept
    # As many graphs as there were when the first step was forgotten.
    assert counts[-1] == counts[kept]
    assert model.trace_count == len(made)


@pytest.mark.parametrize(
    "way",
    [
        way
        if way == "adaptive"
        else pytest.param(way, marks=pytest.mark.exhaustive)
        for way in memory.GROWTH_WAYS
    ],
)
def test_memory_does_not_grow(way):
    """What `benchmarks.memory` measures over ten thousand steps, in short.

    A step has 50 kB of gradients, 12 MB in the 240 steps looked at: a quarter
    is taken for chance.
    """
    seen = memory.growth(way, steps=300, refresh=20)
    assert seen[-1] - seen[2] < 3.0
