"""Masks of sequences, and losses that layers add."""

import keras
import numpy as np
import pytest
from keras import layers
from keras.src import backend

from keras_lwsam import LWSAMModel
from tests.backends import to_numpy
from tests.support import assert_close, assert_equal, cross_entropy, weights_of

GENERATOR = np.random.default_rng(0)
TOKENS = GENERATOR.integers(1, 20, (12, 5))
TOKENS[:, 3:] *= GENERATOR.integers(0, 2, (12, 2))
Y = GENERATOR.integers(0, 3, (12, 5))
WEIGHTS = GENERATOR.random((12, 5)).astype("float32")


def tagger():
    """Classifies each token, but those that are masked."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(20, 6, mask_zero=True)(inputs)
    x = layers.Dense(7, activation="tanh", activity_regularizer="l2")(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def train(model, weights=None, run_eagerly=False, **options):
    model.compile(
        keras.optimizers.SGD(0.1),
        cross_entropy(),
        metrics=["accuracy"],
        run_eagerly=run_eagerly,
    )
    return model.fit(
        TOKENS,
        Y,
        sample_weight=None if weights is None else weights.copy(),
        shuffle=False,
        verbose=0,
        **options,
    ).history


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["none", "positions"])
def test_logs_are_those_of_fit(weights):
    """In training, in validation and in `evaluate`."""
    results = []
    for wrap in (False, True):
        network = tagger()
        model = LWSAMModel(network, rho=0.0) if wrap else network
        logs = train(
            model, weights, batch_size=4, epochs=2, validation_data=(TOKENS, Y)
        )
        logs = {k: logs[k] for k in logs if k not in ("sharpness",)}
        logs.pop("gradient_norm", None)
        found = model.evaluate(TOKENS, Y, verbose=0, return_dict=True)
        found = {k: found[k] for k in ("loss", "accuracy")}
        results.append((weights_of(network), logs, found))
    (plain, *expected), (wrapped, *actual) = results
    assert_equal(wrapped, plain)
    assert actual == expected


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["none", "positions"])
def test_both_passes_see_the_same_mask(weights):
    """Against SAM by hand, of plain steps at weights that are moved."""
    network = tagger()
    start = network.get_weights()

    def gradients(at):
        network.set_weights(at)
        network.compile(keras.optimizers.SGD(1.0), cross_entropy())
        own = None if weights is None else weights.copy()
        network.train_on_batch(TOKENS, Y, sample_weight=own)
        return [a - b for a, b in zip(at, network.get_weights(), strict=True)]

    clean = gradients(start)
    norm = np.sqrt(sum(np.sum(g**2) for g in clean))
    sharp = gradients(
        [w + 0.1 * g / norm for w, g in zip(start, clean, strict=True)]
    )
    network.set_weights(start)
    train(LWSAMModel(network, rho=0.1, layers="all"), weights, batch_size=12)
    expected = [w - 0.1 * g for w, g in zip(start, sharp, strict=True)]
    assert_close(network.get_weights(), expected, 1e-6)


@pytest.mark.parametrize("name", ["esam", "ksam", "ausam"])
def test_losses_of_samples_are_those_that_the_mask_leaves(name):
    plain = tagger()
    plain.compile(loss=cross_entropy())
    expected = plain.evaluate(TOKENS, Y, 12, 0, WEIGHTS.copy())
    model = LWSAMModel(tagger(), name, layers="all")
    logs = train(model, WEIGHTS, batch_size=12)
    assert logs["loss"] == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize("name", ["esam", "ksam", "ausam"])
def test_a_mask_over_positions_wants_weights_of_positions(name):
    model = LWSAMModel(tagger(), name, layers="all")
    before = weights_of(model.model)
    with pytest.raises(ValueError, match=r"mask over the\s+positions"):
        train(model, run_eagerly=True)
    assert_equal(weights_of(model.model), before)


class MasksItsOwn(keras.losses.Loss):
    """Knows itself which positions count."""

    def call(self, y, predictions):
        values = keras.losses.sparse_categorical_crossentropy(
            y, predictions, from_logits=True
        )
        backend.set_keras_mask(values, keras.ops.not_equal(y, 0))
        return values


def test_a_loss_that_makes_a_mask_over_positions_is_refused():
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((5, 4)), layers.Dense(3)])
    model = LWSAMModel(network, "esam", layers="all")
    model.compile("sgd", MasksItsOwn(), run_eagerly=True)
    with pytest.raises(ValueError, match=r"mask over the\s+positions"):
        model.train_on_batch(GENERATOR.normal(size=(12, 5, 4)), Y)


class OneOfTwo(keras.Model):
    """Its second output is nothing."""

    def __init__(self):
        super().__init__()
        self.logits = layers.Dense(3)

    def call(self, x):
        return {"logits": self.logits(x), "other": None}

    def compute_loss(self, x, y, y_pred, sample_weight=None):
        return cross_entropy()(y, y_pred["logits"])


def test_an_output_that_is_none():
    x = GENERATOR.normal(size=(12, 6)).astype("float32")
    ends = []
    for wrap in (False, True):
        keras.utils.set_random_seed(0)
        network = OneOfTwo()
        network(x)
        model = LWSAMModel(network, rho=0.0) if wrap else network
        model.compile(keras.optimizers.SGD(0.1))
        model.fit(x, Y[:, 0], shuffle=False, verbose=0)
        ends.append([to_numpy(v) for v in network.variables])
    assert_equal(*ends)
