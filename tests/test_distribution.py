"""Replicas of a MirroredStrategy, on logical devices."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lwsam import LWSAMModel, methods, selection
from tests.cases import CASES
from tests.support import (
    assert_close,
    assert_equal,
    cross_entropy,
    dense_network,
    mirrored,
    momentum_sgd,
    replicas,
    weights_of,
)

pytestmark = pytest.mark.tensorflow

X = np.random.default_rng(0).normal(size=(48, 10)).astype("float32")
Y = np.random.default_rng(1).integers(0, 4, 48)


def train(strategy, epochs=3, run_eagerly=False, **kwargs):
    with strategy.scope():
        network = dense_network()
        model = LWSAMModel(network, **kwargs)
        model.compile(
            momentum_sgd(),
            cross_entropy(),
            metrics=["accuracy"],
            run_eagerly=run_eagerly,
        )
    history = model.fit(
        X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0
    )
    return model, history.history


@pytest.mark.parametrize(
    "layers",
    [
        1,
        pytest.param("all", marks=pytest.mark.exhaustive),
        pytest.param("dense3", marks=pytest.mark.exhaustive),
    ],
)
def test_synchronized_replicas_equal_one_device(layers):
    arguments = {"rho": 0.1, "layers": layers, "sync_perturbation": True}
    one, logs = train(tf.distribute.get_strategy(), **arguments)
    two, mirrored_logs = train(mirrored(), **arguments)
    assert_close(weights_of(two.model), weights_of(one.model), 1e-5)
    assert two.selected_layers == one.selected_layers
    for name, values in logs.items():
        np.testing.assert_allclose(
            mirrored_logs[name], values, rtol=1e-3, atol=1e-5
        )
    for path, norm in one.layer_gradient_norms.items():
        assert two.layer_gradient_norms[path] == pytest.approx(norm, rel=1e-3)


# One for each thing that a step may do; the others when all is wanted.
FIRST = ("gsam", "ae_look_sam", "wsam")


def ends(count, epochs=3, **arguments):
    """The weights after training on one device, and on so many."""
    results = []
    for strategy in (tf.distribute.get_strategy(), replicas(count)):
        keras.utils.set_random_seed(2)
        # What takes time is to trace.
        model, _ = train(
            strategy,
            epochs=epochs,
            run_eagerly=True,
            layers="all",
            sync_perturbation=True,
            **arguments,
        )
        results.append(weights_of(model.model))
    return results


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in FIRST
        else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in CASES
        if name not in ("sam", "sampa")
    ],
)
def test_every_method_is_the_same_on_synchronized_replicas(name):
    assert_close(*ends(2, method=CASES[name].make()), 1e-5)


@pytest.mark.parametrize(
    "name",
    [
        name
        if name == "ausam"
        else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in CASES
    ],
)
def test_every_method_is_the_same_on_four_synchronized_replicas(name):
    assert_close(*ends(4, epochs=2, method=CASES[name].make()), 1e-5)


@pytest.mark.exhaustive
def test_samples_of_the_batch_are_measured_as_on_one_device():
    method = methods.FisherSparseSAM(0.1, num_samples=9, refresh=2)
    assert_close(*ends(2, method=method), 1e-5)


@pytest.mark.parametrize(
    "name", ["ksam", pytest.param("ausam", marks=pytest.mark.exhaustive)]
)
def test_replicas_share_fewer_samples_than_there_are_replicas(name):
    """Of three samples one or two are chosen, for four replicas."""
    results = []
    for strategy in (tf.distribute.get_strategy(), replicas(4)):
        with strategy.scope():
            model = LWSAMModel(
                dense_network(), name, layers="all", sync_perturbation=True
            )
            model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
        for size in (7, 5):
            data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(size)
            keras.utils.set_random_seed(0)
            model.fit(data.take(1), shuffle=False, verbose=0)
        results.append(weights_of(model.model))
    assert_close(*results, 1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "esam",
        "aesam",
        # Takes long to trace on two replicas.
        pytest.param("dynamic_sparse_sam", marks=pytest.mark.exhaustive),
    ],
)
def test_replicas_stay_together_when_each_climbs_for_itself(name):
    """Masks, draws and conditional steps are the same on all replicas."""
    model, history = train(
        mirrored(), epochs=1, method=CASES[name].make(), layers="all"
    )
    assert np.isfinite(history["loss"]).all()
    for variable in model.variables:
        values = getattr(variable.value, "values", [variable.value])
        for other in values[1:]:
            np.testing.assert_array_equal(values[0].numpy(), other.numpy())


@pytest.mark.parametrize(
    "count", [2, pytest.param(4, marks=pytest.mark.exhaustive)]
)
def test_each_replica_climbs_its_own_gradient(count):
    """m-sharpness: equal to the mean of their sharp gradients, by hand."""
    several, _ = train(
        replicas(count), epochs=1, layers="all", rho=0.1, run_eagerly=True
    )
    size = 16 // count
    network = dense_network()
    optimizer = momentum_sgd()
    optimizer.build(network.trainable_variables)

    def gradient(x, y):
        with tf.GradientTape() as tape:
            loss = cross_entropy()(y, network(x, training=True))
        return [g.numpy() for g in tape.gradient(loss, network.weights)]

    for i in range(0, 48, 16):
        values = [v.numpy() for v in network.weights]
        total = [0.0] * len(values)
        for start in range(i, i + 16, size):
            part = slice(start, start + size)
            g = gradient(X[part], Y[part])
            norm = np.sqrt(sum((a**2).sum() for a in g))
            network.set_weights(
                [v + 0.1 * a / norm for v, a in zip(values, g, strict=True)]
            )
            sharp = gradient(X[part], Y[part])
            network.set_weights(values)
            total = [t + s / count for t, s in zip(total, sharp, strict=True)]
        optimizer.apply(
            [tf.constant(t) for t in total], network.trainable_variables
        )
    assert_close(weights_of(several.model), weights_of(network), 1e-5)


def test_radius_zero_is_one_device():
    one, logs = train(tf.distribute.get_strategy(), rho=0.0)
    two, mirrored_logs = train(mirrored(), rho=0.0)
    assert_close(weights_of(two.model), weights_of(one.model), 1e-6)
    np.testing.assert_allclose(mirrored_logs["loss"], logs["loss"], rtol=1e-5)


def test_replicas_split_batches_of_unequal_size_alike():
    """Five samples are three and two, which are to be split into three."""
    for synchronize in (True, False):
        with replicas(2).scope():
            model = LWSAMModel(
                dense_network(),
                "aesam",
                layers="all",
                num_batch_splits=3,
                sync_perturbation=synchronize,
            )
            model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
        history = model.fit(X[:10], Y[:10], batch_size=5, verbose=0).history
        assert np.isfinite(history["loss"]).all()


def test_radius_zero_in_float16_is_fit():
    """Also where the loss is scaled and several replicas ask for overflows."""
    keras.config.set_dtype_policy("mixed_float16")
    results = []
    for wrap in (lambda network: network, lambda n: LWSAMModel(n, rho=0.0)):
        with replicas(2).scope():
            network = dense_network()
            model = wrap(network)
            model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
        model.fit(X, Y, batch_size=16, shuffle=False, verbose=0)
        results.append(weights_of(network))
    assert_equal(*results)


def test_traces_are_counted_once_for_all_replicas():
    """As many as on one device: one for each set of layers."""
    arguments = {"epochs": 6, "layers": selection.Random(1)}
    one, _ = train(tf.distribute.get_strategy(), **arguments)
    two, _ = train(mirrored(), **arguments)
    assert one.trace_count > 1
    assert two.trace_count == one.trace_count
    assert two.selected_layers == one.selected_layers


def test_dropout_and_batch_normalization_train():
    strategy = mirrored()
    with strategy.scope():
        network = keras.Sequential(
            [
                keras.Input((10,)),
                keras.layers.Dense(8),
                keras.layers.Dropout(0.3),
                keras.layers.Dense(4),
            ]
        )
        model = LWSAMModel(network, layers="all")
        model.compile(momentum_sgd(), cross_entropy())
    history = model.fit(X, Y, batch_size=16, epochs=8, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]


def test_a_wrapper_made_outside_the_scope_is_refused():
    with mirrored().scope():
        network = dense_network()
    with pytest.raises(ValueError, match=r"same `tf\.distribute` strategy"):
        LWSAMModel(network)
    LWSAMModel(dense_network())


def test_a_custom_loop_over_the_train_step():
    """`strategy.run(model.train_step, ...)` takes the same steps as `fit`."""
    fitted, _ = train(mirrored(), epochs=1, layers="all")
    strategy = mirrored()
    with strategy.scope():
        network = dense_network()
        model = LWSAMModel(network, layers="all")
        model.compile(momentum_sgd(), cross_entropy())
        model.optimizer.build(model.trainable_variables)

    @tf.function
    def step(batch):
        return strategy.run(model.train_step, args=(batch,))

    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    for batch in strategy.experimental_distribute_dataset(data):
        step(batch)
    assert_close(weights_of(network), weights_of(fitted.model), 1e-6)


@pytest.mark.parametrize("synchronize", [True, False])
def test_an_embedding_that_is_not_perturbed(synchronize):
    ends = []
    for strategy in (tf.distribute.get_strategy(), mirrored()):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            network = keras.Sequential(
                [
                    keras.Input((3,), dtype="int32"),
                    keras.layers.Embedding(7, 4),
                    keras.layers.Flatten(),
                    keras.layers.Dense(4, name="logits"),
                ]
            )
            model = LWSAMModel(
                network, layers="logits", sync_perturbation=synchronize
            )
            model.compile(momentum_sgd(), cross_entropy())
        tokens = np.arange(48 * 3).reshape(48, 3) % 7
        model.fit(tokens, Y, batch_size=16, shuffle=False, verbose=0)
        ends.append(weights_of(network))
    assert_close(ends[1], ends[0], 1e-5 if synchronize else 1e-2)
