"""Whatever Keras takes as data trains the wrapper as arrays do, bit for bit.

Each source gives the same samples in the same order, in batches of the same
sizes, so that the same compiled step is fed the same numbers.
"""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from keras import layers

from keras_lwsam import LWSAMModel
from tests.support import (
    assert_equal,
    build_dense,
    cross_entropy,
    dense_network,
    momentum_sgd,
    weights_of,
)

# The last batch is a smaller one.
COUNT, BATCH = 20, 8
STEPS = 3
GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(COUNT, 10)).astype("float32")
Y = GENERATOR.integers(0, 4, COUNT)
WEIGHTS = GENERATOR.uniform(0.5, 2.0, COUNT).astype("float32")
ARRAYS = (X, Y, WEIGHTS)


def batch(index):
    """Samples, labels and weights of one batch."""
    return tuple(a[index * BATCH :][:BATCH] for a in ARRAYS)


class Batches(keras.utils.PyDataset):
    """What `batch` gives, as a sequence."""

    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        return batch(index)


def again_and_again():
    """What `batch` gives, without an end."""
    while True:
        yield from map(batch, range(STEPS))


def from_arrays(x, y, sample_weight):
    """The arguments of `fit` for what is like arrays."""
    return {
        "x": x,
        "y": y,
        "sample_weight": sample_weight,
        "batch_size": BATCH,
    }


def data_loader():
    """A `DataLoader` of PyTorch."""
    from torch import from_numpy
    from torch.utils import data

    dataset = data.TensorDataset(*map(from_numpy, ARRAYS))
    return data.DataLoader(dataset, batch_size=BATCH)


def data_set():
    """A `tf.data.Dataset` of batches."""
    return tf.data.Dataset.from_tensor_slices(ARRAYS).batch(BATCH)


SOURCES = {
    "tensors": lambda: from_arrays(*map(keras.ops.convert_to_tensor, ARRAYS)),
    "tf.data": lambda: {"x": data_set()},
    "tf.data, cached and prefetched": lambda: {
        "x": data_set().cache().prefetch(2)
    },
    "PyDataset": lambda: {"x": Batches()},
    "PyDataset with workers": lambda: {
        "x": Batches(workers=2, max_queue_size=4)
    },
    "generator": lambda: {"x": again_and_again(), "steps": STEPS},
    "DataLoader": lambda: {"x": data_loader()},
}


@pytest.fixture(scope="module")
def begin(tmp_path_factory):
    """A function to one model, each time as it was at the beginning.

    What is compiled serves all sources.
    """
    model = build_dense(layers=2)
    model.compile(
        momentum_sgd(), cross_entropy(), weighted_metrics=["accuracy"]
    )
    model.optimizer.build(model.trainable_variables)
    start = tmp_path_factory.mktemp("start") / "start.weights.h5"
    model.save_weights(start)

    def begin():
        model.load_weights(start)
        return model

    return begin


def fit(model, epochs=2, steps=None, **data):
    """Trains, in the order of the data, and returns all weights and logs."""
    history = model.fit(
        **data, epochs=epochs, steps_per_epoch=steps, shuffle=False, verbose=0
    )
    return weights_of(model), history.history


def results(model, source):
    """What training on a source, evaluation and prediction give.

    Args:
        model: A compiled `LWSAMModel`.
        source: Function without arguments to arguments of `evaluate`.
    """
    weights, history = fit(model, **source())
    logs = model.evaluate(**source(), verbose=0, return_dict=True)
    assert set(history) == {*logs, "sharpness", "gradient_norm"}
    data = source()
    for labels in {"y", "sample_weight"} & set(data):
        del data[labels]
    predictions = model.predict(**data, verbose=0)
    logged = [*history.values(), *logs.values()]
    return [*weights, *map(np.array, logged), predictions]


@pytest.fixture(scope="module")
def expected(begin):
    return results(begin(), lambda: from_arrays(*ARRAYS))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.peers)
        if name == "DataLoader"
        else name
        for name in SOURCES
    ],
)
def test_a_source_is_as_good_as_arrays(name, begin, expected):
    """Weights, logs of both loops and predictions, with sample weights."""
    assert_equal(results(begin(), SOURCES[name]), expected)


@pytest.mark.tensorflow
def test_an_unknown_length_trains_as_a_known_one(begin):
    """Keras counts one step of the optimizer too many where data end.

    The wrapper counts what a plain model counts. With `assert_cardinality`
    the count is right.
    """
    known = data_set()
    unknown = known.filter(lambda *_: True)
    told = unknown.apply(tf.data.experimental.assert_cardinality(STEPS))
    expected, logs = fit(begin(), x=known)
    model = begin()
    assert_equal(fit(model, x=told)[0], expected)
    assert int(model.optimizer.iterations) == 2 * STEPS
    with pytest.warns(UserWarning, match="ran out of data"):
        weights, others = fit(begin(), x=unknown)
    assert_equal(weights, expected)
    assert others == logs
    plain = dense_network()
    plain.compile(momentum_sgd(), cross_entropy())
    with pytest.warns(UserWarning, match="ran out of data"):
        fit(plain, x=unknown)
    counted = int(plain.optimizer.iterations)
    assert int(model.optimizer.iterations) == counted


def results_in_eager_mode(network, data):
    """The same for a new model, and arguments of `evaluate`."""
    model = LWSAMModel(network, layers=2)
    model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
    return results(model, lambda: dict(data))


def test_pandas():
    """A model of its own: of a series, Keras makes a column.

    A plain model, too, that was compiled for vectors fails on columns.
    """
    frames = from_arrays(pd.DataFrame(X), pd.Series(Y), pd.Series(WEIGHTS))
    ends = [
        results_in_eager_mode(dense_network(), data)
        for data in (from_arrays(*ARRAYS), frames)
    ]
    assert_equal(*ends)


FRAME = pd.DataFrame(
    {
        "age": GENERATOR.uniform(18.0, 80.0, COUNT).astype("float32"),
        "legs": GENERATOR.choice([2, 4, 8], COUNT),
        "kind": GENERATOR.choice(["cat", "dog", "fish"], COUNT),
    }
)


def tabular_network():
    """Normalizes a column and looks two up, inside the network."""
    keras.utils.set_random_seed(0)
    inputs = {
        "age": keras.Input((1,), name="age"),
        "legs": keras.Input((1,), name="legs", dtype="int64"),
        "kind": keras.Input((1,), name="kind", dtype="string"),
    }
    age = layers.Normalization()
    age.adapt(FRAME[["age"]].to_numpy())
    legs = layers.IntegerLookup(vocabulary=[2, 4, 8], output_mode="one_hot")
    kind = layers.StringLookup(
        vocabulary=["cat", "dog", "fish"], output_mode="one_hot"
    )
    parts = [age(inputs["age"]), legs(inputs["legs"]), kind(inputs["kind"])]
    x = layers.Dense(6, activation="tanh")(layers.Concatenate()(parts))
    return keras.Model(inputs, layers.Dense(4)(x))


@pytest.mark.tensorflow
def test_columns_in_a_dict():
    """Of tensors, of `tf.data`, and of a table in `tf.data`."""
    columns = {name: FRAME[[name]].to_numpy() for name in FRAME}
    tensors = {name: tf.constant(column) for name, column in columns.items()}
    data_sets = [
        tf.data.Dataset.from_tensor_slices((x, Y)).batch(BATCH)
        for x in (tensors, dict(FRAME))
    ]
    expected, *others = [
        results_in_eager_mode(tabular_network(), data)
        for data in (
            {"x": tensors, "y": Y, "batch_size": BATCH},
            *({"x": data_set} for data_set in data_sets),
        )
    ]
    for other in others:
        assert_equal(other, expected)


def test_images_of_a_directory(tmp_path):
    """Files, and layers that prepare them inside the network."""
    for i, image in enumerate(GENERATOR.integers(0, 256, (12, 6, 6, 3))):
        folder = tmp_path / "ab"[i % 2]
        folder.mkdir(exist_ok=True)
        keras.utils.save_img(folder / f"{i}.png", image, scale=False)
    data = keras.utils.image_dataset_from_directory(
        tmp_path, image_size=(6, 6), batch_size=8, shuffle=False, verbose=False
    )
    x, y = (np.concatenate(part) for part in zip(*data, strict=True))

    def network():
        keras.utils.set_random_seed(0)
        return keras.Sequential(
            [
                keras.Input((6, 6, 3)),
                layers.Rescaling(1.0 / 255.0),
                layers.RandomFlip("horizontal"),
                layers.Conv2D(2, 3, activation="relu"),
                layers.Flatten(),
                layers.Dense(2),
            ]
        )

    ends = [
        results_in_eager_mode(network(), given)
        for given in ({"x": x, "y": y, "batch_size": 8}, {"x": data})
    ]
    assert_equal(*ends)
    assert np.ptp(x) > 200.0
