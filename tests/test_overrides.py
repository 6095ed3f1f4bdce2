"""What a network does around the methods of Keras, the wrapper does too."""

import functools
import gc
import typing

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lwsam import LWSAMModel, analysis
from tests.support import assert_equal, weights_of

X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(12, 3)).astype("float32")
HOW = {
    "batch_size": 5,
    "validation_data": (X, Y),
    "shuffle": False,
    "verbose": 0,
}


def network(kind, **kwargs):
    """A small network of a class, from the same seed."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(5, activation="tanh", name="hidden")(inputs)
    outputs = keras.layers.Dense(3, name="outputs")(hidden)
    return kind(inputs, outputs, **kwargs)


def both(kind, train, rho=0.0, **kwargs):
    """What `train` gives, and the weights, of a network and its wrapper."""
    results = []
    for wrap in (False, True):
        plain = network(kind)
        model = LWSAMModel(plain, rho=rho) if wrap else plain
        model.compile("sgd", "mse", **{"run_eagerly": True, **kwargs})
        results.append((train(model), weights_of(plain)))
    return results


class Preprocessing(keras.Model):
    """Preprocesses as the tasks of KerasHub do; arguments in their order."""

    def fit(self, x, y, sample_weight=None, batch_size=4, **kwargs):
        kwargs.setdefault("shuffle", False)
        return super().fit(
            x / 2.0,
            y,
            sample_weight=sample_weight,
            batch_size=batch_size,
            **kwargs,
        )

    def evaluate(self, x, y, **kwargs):
        return super().evaluate(x / 2.0, y, **kwargs)

    def predict(self, x, **kwargs):
        return super().predict(x / 2.0, **kwargs)

    def train_on_batch(self, x, y, **kwargs):
        return super().train_on_batch(x / 2.0, y, **kwargs)

    def test_on_batch(self, x, y, **kwargs):
        return super().test_on_batch(x / 2.0, y, **kwargs)

    def predict_on_batch(self, x):
        return super().predict_on_batch(x / 2.0)


@pytest.mark.parametrize(
    "train",
    [
        lambda m: m.fit(X, Y, verbose=0).history["loss"],
        lambda m: m.evaluate(X, Y, verbose=0),
        lambda m: m.predict(X, verbose=0).tolist(),
        lambda m: m.train_on_batch(X, Y, return_dict=True)["loss"],
        lambda m: m.test_on_batch(X, Y, return_dict=True)["loss"],
        lambda m: m.predict_on_batch(X).tolist(),
    ],
    ids=[
        "fit",
        "evaluate",
        "predict",
        "train_on_batch",
        "test_on_batch",
        "predict_on_batch",
    ],
)
def test_preprocessing(train):
    (of_network, plain), (of_wrapper, wrapped) = both(Preprocessing, train)
    assert of_wrapper == of_network
    assert_equal(wrapped, plain)
    (of_other, _), _ = both(keras.Model, train)
    assert of_other != of_network


def test_arguments_have_the_order_of_keras():
    """Those of the network may have another one."""
    model = LWSAMModel(network(Preprocessing), rho=0.0)
    model.compile("sgd", "mse", run_eagerly=True)
    history = model.fit(X, Y, 6, 2, 0)
    assert history.params["epochs"] == 2
    assert history.params["steps"] == 2
    with pytest.raises(TypeError, match=r"multiple values.*'epochs'"):
        model.fit(X, Y, 6, 2, epochs=3)


class OwnArguments(keras.Model):
    """Its `compile` has arguments of its own, which the network keeps."""

    def compile(self, *, scale, loss="auto", **kwargs):
        self.scale = scale
        super().compile(loss="mse" if loss == "auto" else loss, **kwargs)

    def compute_loss(self, *args, **kwargs):
        return self.scale * super().compute_loss(*args, **kwargs)


def test_arguments_of_compile():
    losses = {}
    for scale in (1.0, 3.0):
        plain = network(OwnArguments)
        model = LWSAMModel(plain)
        model.compile("sgd", scale=scale, run_eagerly=True)
        assert plain.scale == scale
        assert not plain.compiled
        losses[scale] = model.train_on_batch(X, Y, return_dict=True)["loss"]
    assert losses[3.0] == pytest.approx(3.0 * losses[1.0])
    with pytest.raises(TypeError, match="scale"):
        model.compile("sgd", "mse")


@pytest.mark.parametrize("by", ["wrapper", "network"])
def test_compiled_again_after_loading(by, tmp_path):
    """With the arguments that the network's own `compile` was given."""
    keras.saving.get_custom_objects()["OwnArguments"] = OwnArguments
    plain = network(OwnArguments)
    arguments = {"optimizer": "sgd", "scale": 3.0, "metrics": ["mae"]}
    arguments["run_eagerly"] = True
    if by == "network":
        plain.compile(**arguments)
        model = LWSAMModel(plain)
    else:
        model = LWSAMModel(plain)
        model.compile(**arguments)
    model.train_on_batch(X, Y)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    del keras.saving.get_custom_objects()["OwnArguments"]
    if by == "network":
        # What it was given then, nobody has seen.
        loaded.model.scale = 3.0
    logs = [m.train_on_batch(X, Y, return_dict=True) for m in (model, loaded)]
    assert logs[0] == logs[1]
    assert_equal(weights_of(loaded), weights_of(model))


class Scaling(keras.Model):
    """Makes something of the batch in steps of its own, as detectors do."""

    def train_step(self, *args):
        x, y = args[-1][:2]
        return super().train_step(*args[:-1], (x / 2.0, y))

    def test_step(self, *args):
        x, y = args[-1][:2]
        return super().test_step(*args[:-1], (x / 2.0, y))


class ScalingInAFunction(Scaling):
    """In a `tf.function`, which refers to the network weakly."""

    train_step = tf.function(Scaling.train_step)


class ScalingPartially(Scaling):
    """By a method of which nobody knows whom it calls."""

    def _step(self, data, scale):
        return super().train_step(data)

    train_step = functools.partialmethod(_step, scale=1.0)


@pytest.mark.parametrize(
    "kind",
    [
        Scaling,
        pytest.param(ScalingInAFunction, marks=pytest.mark.tensorflow),
        pytest.param(ScalingPartially, marks=pytest.mark.not_jax),
    ],
)
def test_steps_that_hand_over(kind):
    mode = {"run_eagerly": kind is not ScalingInAFunction}

    def train(model):
        return model.fit(X, Y, **HOW).history

    (plain_logs, plain), (logs, wrapped) = both(kind, train, **mode)
    assert logs["val_loss"] == plain_logs["val_loss"]
    assert logs["loss"] == plain_logs["loss"]
    assert_equal(wrapped, plain)
    (other, _), _ = both(keras.Model, train, **mode)
    assert other["loss"] != logs["loss"]
    assert other["val_loss"] != logs["val_loss"]


def test_a_perturbed_step_that_is_handed_over():
    ends = []
    for kind, x in ((Scaling, X), (keras.Model, X / 2.0)):
        plain = network(kind)
        model = LWSAMModel(plain, rho=0.1, layers="all")
        model.compile("sgd", "mse", run_eagerly=True)
        logs = model.train_on_batch(x, Y, return_dict=True)
        assert logs["sharpness"] > 0.0
        ends.append(weights_of(plain))
    assert_equal(*ends)


@pytest.mark.parametrize("kind", [Preprocessing, Scaling])
def test_the_data_of_analysis_are_preprocessed(kind):
    values = []
    for each, x in ((kind, X), (keras.Model, X / 2.0)):
        model = network(each)
        model.compile("sgd", "mse", run_eagerly=True)
        values.append(analysis.sharpness(model, x, Y, rho=0.1))
    assert values[0] == values[1]


class OwnTape(keras.Model):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((self(x, training=True) - y) ** 2)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


class OwnTapeBelow(OwnTape):
    def train_step(self, data):
        return super().train_step(data)


@pytest.mark.parametrize("kind", [OwnTape, OwnTapeBelow])
def test_a_step_of_its_own_is_refused(kind):
    with pytest.raises(ValueError, match=r"train_step.*super\(\).*Received"):
        LWSAMModel(network(kind))


def test_a_step_hands_over_one_batch():
    """And not the one before, which would be another thing."""
    with pytest.raises(ValueError, match=r"batch before.*Received.*SAMPa"):
        LWSAMModel(network(Scaling), "sampa")
    LWSAMModel(network(Scaling), "sam")
    LWSAMModel(network(keras.Model), "sampa")


class StepOfAnother(keras.Model):
    def train_step(self, data):
        return self.other.train_step(data)


class LoopOfItsOwn(keras.Model):
    def fit(self, x, y, **kwargs):
        return None


class StepOfItsOwn(keras.Model):
    def train_on_batch(self, x, y, **kwargs):
        return 0.0


@pytest.mark.not_jax
def test_methods_that_never_hand_over():
    """Nobody can know beforehand: an error says so afterwards."""
    other = network(keras.Model)
    other.compile("sgd", "mse")
    for kind, name, train in (
        (StepOfAnother, "train_step", lambda m: m.fit(X, Y, verbose=0)),
        (LoopOfItsOwn, "fit", lambda m: m.fit(X, Y, verbose=0)),
        (StepOfItsOwn, "train_on_batch", lambda m: m.train_on_batch(X, Y)),
    ):
        plain = network(kind)
        plain.other = other
        model = LWSAMModel(plain)
        model.compile("sgd", "mse", run_eagerly=True)
        expected = rf"`{name}` of .*{kind.__name__}.* never calls.*Received"
        with pytest.raises(RuntimeError, match=expected):
            train(model)


def test_errors_of_the_network_are_its_own():
    class Refusing(keras.Model):
        def fit(self, *args, **kwargs):
            raise NotImplementedError("Only for inference.")

    model = LWSAMModel(network(Refusing))
    model.compile("sgd", "mse")
    with pytest.raises(NotImplementedError, match="Only for inference"):
        model.fit(X, Y)


class Announced(keras.Model):
    """Knows its subclasses, and wants to be told of what kind they are."""

    known: typing.ClassVar = []

    def __init_subclass__(cls, kind, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.known.append(kind)

    def fit(self, *args, **kwargs):
        self.fitted = True
        return super().fit(*args, **kwargs)


class OfAKind(Announced, kind="only"):
    pass


def test_nothing_is_left_behind():
    """The network gets the attributes that its methods set, no others."""
    plain = network(OfAKind)
    attributes, of_class = set(vars(plain)), set(vars(OfAKind))
    model = LWSAMModel(plain)
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(X, Y, verbose=0)
    assert plain.fitted
    assert type(plain) is OfAKind
    assert set(vars(plain)) - attributes == {"fitted"}
    assert set(vars(OfAKind)) == of_class
    assert Announced.known == ["only"]
    gc.collect()
    assert OfAKind.__subclasses__() == []


def test_what_is_tracked_in_a_method_is_tracked_by_the_network():
    class Counting(keras.Model):
        def evaluate(self, *args, **kwargs):
            self.count = keras.Variable(1.0, trainable=False, name="count")
            return super().evaluate(*args, **kwargs)

    plain = network(Counting)
    model = LWSAMModel(plain)
    model.compile("sgd", "mse", run_eagerly=True)
    model.evaluate(X, Y, verbose=0)
    assert any(variable is plain.count for variable in plain.variables)
