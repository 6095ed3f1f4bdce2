"""SAMPa's two gradients, each on half of the replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lwsam import LWSAMModel
from keras_lwsam._engines.tensorflow import halves
from tests.support import (
    assert_close,
    assert_equal,
    convolutional_network,
    cross_entropy,
    dense_network,
    image_data,
    mirrored,
    momentum_sgd,
    replicas,
    weights_of,
)

pytestmark = pytest.mark.tensorflow

DATA = image_data(44)


def train(strategy, epochs=2, network=convolutional_network, **options):
    """All weights and logs; the last batch is smaller than the others."""
    keras.utils.set_random_seed(3)
    with strategy.scope():
        model = LWSAMModel(network(), "sampa", layers="all")
        model.compile(
            momentum_sgd(weight_decay=1e-3),
            cross_entropy(),
            metrics=["accuracy"],
            **options,
        )
    history = model.fit(
        *DATA, batch_size=16, epochs=epochs, shuffle=False, verbose=0
    ).history
    return model, history


@pytest.fixture
def halved(monkeypatch):
    """How often the replicas shared the two gradients among them."""
    calls = []

    def side_by_side(*arguments):
        calls.append(arguments)
        return halves_of(*arguments)

    halves_of = halves.side_by_side
    monkeypatch.setattr(halves, "side_by_side", side_by_side)
    return calls


@pytest.mark.parametrize(
    "mode", ["graph", pytest.param("eager", marks=pytest.mark.exhaustive)]
)
def test_two_replicas_are_one_device(mode, halved):
    """BatchNorm and dropout included: each sees a whole batch."""
    options = {"run_eagerly": mode == "eager"}
    one, logs = train(tf.distribute.get_strategy(), run_eagerly=True)
    assert not halved
    strategy = replicas(2) if mode == "eager" else mirrored()
    two, mirrored_logs = train(strategy, **options)
    assert halved
    assert_close(weights_of(two), weights_of(one), 1e-6)
    for name, values in logs.items():
        np.testing.assert_allclose(mirrored_logs[name], values, rtol=1e-4)


def test_the_logs_of_every_step_are_those_of_one_device():
    seen = []
    for strategy in (tf.distribute.get_strategy(), replicas(2)):
        with strategy.scope():
            model = LWSAMModel(convolutional_network(), "sampa", layers="all")
            model.compile(
                momentum_sgd(),
                cross_entropy(),
                metrics=["accuracy"],
                run_eagerly=True,
            )
        found = []
        watch = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs, kept=found: kept.append(
                {name: float(value) for name, value in logs.items()}
            )
        )
        model.fit(
            *DATA, batch_size=16, shuffle=False, verbose=0, callbacks=[watch]
        )
        seen.append(found)
    for one, two in zip(*seen, strict=True):
        assert two == pytest.approx(one, rel=1e-4)


def test_three_replicas_make_both(halved):
    data = np.random.default_rng(0).normal(size=(12, 10)), np.arange(12) % 4
    weights = []
    for strategy in (tf.distribute.get_strategy(), replicas(3)):
        with strategy.scope():
            model = LWSAMModel(dense_network(), "sampa", layers="all")
            model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
        model.fit(*data, batch_size=6, epochs=2, shuffle=False, verbose=0)
        weights.append(weights_of(model.model))
    assert not halved
    assert_close(*weights, 1e-5)


def test_one_all_reduce_of_gradients(monkeypatch):
    """Not one for each gradient, one for the optimizer, one for the memory."""
    strategy = replicas(2)
    sizes = []

    def watch(name, values_of):
        original = getattr(strategy.extended, name)

        def counting(reduction, values, *arguments, **options):
            own = [v.values[0] for v in tf.nest.flatten(values_of(values))]
            sizes.append(sum(int(np.prod(v.shape)) for v in own))
            return original(reduction, values, *arguments, **options)

        monkeypatch.setattr(strategy.extended, name, counting)

    # The first step of all takes the measure of a batch.
    model, _ = train(strategy, epochs=1, run_eagerly=True)
    watch("_reduce_to", lambda values: values)
    watch("_batch_reduce_to", lambda pairs: [value for value, _ in pairs])
    model.fit(*DATA, batch_size=16, verbose=0)
    gradients = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    large = [size for size in sizes if size > gradients / 2]
    # And both losses.
    assert large == [2 * gradients + 2] * 3


def test_an_overflow_on_one_half_skips_the_step_on_both():
    keras.config.set_dtype_policy("mixed_float16")
    strategy = replicas(2)
    with strategy.scope():
        # Nothing bounds what comes out of it.
        network = dense_network(sizes=(10, 4))
        model = LWSAMModel(network, "sampa", layers="all")
        model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
    x = np.random.default_rng(0).normal(size=(24, 10)).astype("float32")
    y = np.arange(24) % 4
    model.fit(x[:8], y[:8], batch_size=8, verbose=0)
    before = weights_of(model.model)
    memory = [v.numpy() for v in model._state.variables[5:]]
    scale = model.optimizer.dynamic_scale.numpy()
    x[8:16] = 6e4
    model.fit(x[8:16], y[8:16], batch_size=8, verbose=0)
    assert_equal(weights_of(model.model), before)
    assert_equal([v.numpy() for v in model._state.variables[5:]], memory)
    assert model.optimizer.dynamic_scale.numpy() == scale / 2
    for variable in model.trainable_variables:
        one, other = variable.value.values
        np.testing.assert_array_equal(one.numpy(), other.numpy())


class OwnMetrics(keras.Sequential):
    """Counts its metrics in a way of its own."""

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, y, y_pred, sample_weight)


class OwnResults(keras.Sequential):
    """Reads its metrics in a way of its own."""

    def get_metrics_result(self):
        return {**super().get_metrics_result(), "constant": 1.0}


@pytest.mark.parametrize("kind", [OwnMetrics, OwnResults])
def test_a_network_with_metrics_of_its_own_makes_both_everywhere(kind, halved):
    def network():
        keras.utils.set_random_seed(0)
        return kind([keras.Input((10,)), keras.layers.Dense(4)])

    data = np.random.default_rng(0).normal(size=(12, 10)), np.arange(12) % 4
    weights = []
    for strategy in (tf.distribute.get_strategy(), replicas(2)):
        with strategy.scope():
            model = LWSAMModel(network(), "sampa", layers="all")
            model.compile(
                momentum_sgd(),
                cross_entropy(),
                metrics=["accuracy"],
                run_eagerly=True,
            )
        model.fit(*data, batch_size=6, epochs=2, shuffle=False, verbose=0)
        weights.append(weights_of(model.model))
    assert not halved
    assert_close(*weights, 1e-5)


@pytest.mark.parametrize("strategy", [None, 2], ids=["one", "two"])
def test_it_goes_on_with_the_batch_of_the_step_before(strategy, tmp_path):
    """Which is saved for each replica."""
    data = np.random.default_rng(0).normal(size=(12, 10)), np.arange(12) % 4
    scope = tf.distribute.get_strategy() if strategy is None else replicas(2)

    def make():
        with scope.scope():
            model = LWSAMModel(dense_network(), "sampa", layers="all")
            model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
            model.optimizer.build(model.trainable_variables)
        return model

    def fit(model, begin, end):
        model.fit(
            *data,
            batch_size=6,
            initial_epoch=begin,
            epochs=end,
            shuffle=False,
            verbose=0,
        )

    whole, part, again = make(), make(), make()
    fit(whole, 0, 2)
    fit(part, 0, 1)
    part.save_weights(tmp_path / "run.weights.h5")
    again.load_weights(tmp_path / "run.weights.h5")
    fit(again, 1, 2)
    assert_equal(weights_of(again), weights_of(whole))


def test_a_nan_batch_is_left_behind_by_all_replicas():
    """They agree to drop the gradient at the batch before, which was NaN."""
    x = np.random.default_rng(0).normal(size=(18, 10)).astype("float32")
    y = np.arange(18) % 4
    bad = np.full_like(x[:6], np.nan)
    ends = []
    for strategy in (tf.distribute.get_strategy(), replicas(2)):
        with strategy.scope():
            model = LWSAMModel(dense_network(), "sampa", layers="all")
            model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
        for batch in (x[:6], x[6:12], bad):
            weights = weights_of(model.model)
            slots = [v.numpy() for v in model.optimizer.variables]
            model.fit(batch, y[:6], batch_size=6, verbose=0)
        model.model.set_weights(weights)
        for variable, value in zip(
            model.optimizer.variables, slots, strict=True
        ):
            variable.assign(value)
        model.fit(x, y, batch_size=6, shuffle=False, verbose=0)
        ends.append(weights_of(model.model))
    assert all(np.isfinite(w).all() for w in ends[0])
    assert_close(*ends, 1e-5)


def test_metrics_that_are_nothing_before_they_have_seen_a_sample():
    """R2 of no samples is NaN; that half has no part in the logs."""
    with replicas(2).scope():
        network = keras.Sequential([keras.Input((10,)), keras.layers.Dense(1)])
        model = LWSAMModel(network, "sampa", layers="all")
        model.compile(
            momentum_sgd(), "mse", metrics=["r2_score"], run_eagerly=True
        )
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(
            float(logs["r2_score"])
        )
    )
    x = np.random.default_rng(0).normal(size=(12, 10))
    model.fit(x, x[:, :1], batch_size=6, verbose=0, callbacks=[watch])
    assert len(seen) == 2
    assert np.isfinite(seen).all()


def test_training_on_another_number_of_replicas_is_refused(tmp_path):
    data = np.random.default_rng(0).normal(size=(12, 10)), np.arange(12) % 4
    models = []
    for count in (2, 3):
        with replicas(count).scope():
            model = LWSAMModel(dense_network(), "sampa", layers="all")
            model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
            model.optimizer.build(model.trainable_variables)
        models.append(model)
    models[0].fit(*data, batch_size=6, verbose=0)
    models[0].save_weights(tmp_path / "two.weights.h5")
    models[1].load_weights(tmp_path / "two.weights.h5")
    with pytest.raises(ValueError, match="another number of replicas"):
        models[1].fit(*data, batch_size=6, verbose=0)


class Raising(keras.layers.Layer):
    """Refuses large numbers."""

    def call(self, inputs):
        tf.debugging.assert_less(inputs, 1e3, "too large")
        return inputs


def test_a_batch_that_raises_is_not_the_one_before():
    network = keras.Sequential(
        [keras.Input((10,)), Raising(), keras.layers.Dense(4)]
    )
    model = LWSAMModel(network, "sampa", layers="all")
    model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
    x, y = np.ones((6, 10)), np.arange(6) % 4
    model.train_on_batch(x, y)
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large"):
        model.train_on_batch(x * 1e4, y)
    model.train_on_batch(x, y)


@pytest.mark.parametrize(
    "name",
    [
        "sampa",
        pytest.param("ausam", marks=pytest.mark.exhaustive),
        pytest.param("esam", marks=pytest.mark.exhaustive),
    ],
)
def test_all_of_keras_in_float64(name):
    """Losses too, which the policy alone leaves in float32."""
    keras.config.set_floatx("float64")
    data = np.random.default_rng(0).normal(size=(12, 10)), np.arange(12) % 4
    try:
        ends = []
        for strategy in (tf.distribute.get_strategy(), replicas(2)):
            with strategy.scope():
                model = LWSAMModel(
                    dense_network(), name, layers="all", sync_perturbation=True
                )
                model.compile(momentum_sgd(), cross_entropy())
            keras.utils.set_random_seed(0)
            model.fit(*data, batch_size=6, shuffle=False, verbose=0)
            ends.append(weights_of(model.model))
    finally:
        keras.config.set_floatx("float32")
    assert ends[0][0].dtype == "float64"
    assert_close(*ends, 1e-6)
