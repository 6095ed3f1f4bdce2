"""What a method cannot use is refused at once, and nothing has changed."""

import math

import keras
import numpy as np
import pytest

from keras_lwsam import LWSAMModel, methods, schedules
from keras_lwsam.methods import sample_selection
from tests.support import (
    assert_equal,
    cross_entropy,
    dense_network,
    momentum_sgd,
    weights_of,
)

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(12, 10)).astype("float32")
Y = GENERATOR.integers(0, 4, 12)

BAD_ARGUMENTS = [
    (methods.ASAM, {"eta": -1.0}),
    (methods.GSAM, {"alpha": -0.1}),
    (methods.GNP, {"alpha": 1.5}),
    (methods.StableSAM, {"normalize": 1}),
    (methods.SAMPa, {"interpolation": 1.1}),
    (methods.FisherSparseSAM, {"sparsity": -0.1}),
    (methods.FisherSparseSAM, {"num_samples": 0}),
    (methods.FisherSparseSAM, {"refresh": "day"}),
    (methods.FisherSparseSAM, {"pattern": "sparse"}),
    (methods.FisherSparseSAM, {"pattern": (4, 2)}),
    (methods.FisherSparseSAM, {"samples": X}),
    (methods.FisherSparseSAM, {"samples": (X, Y[:3])}),
    (methods.FisherSparseSAM, {"samples": (X, Y)}),
    (methods.DynamicSparseSAM, {"drop_rate": 2.0}),
    (methods.ESAM, {"beta": 0.0}),
    (methods.ESAM, {"gamma": 1.5}),
    (methods.LookSAM, {"k": 0}),
    (methods.LookSAM, {"k": 2.5}),
    (methods.AESAM, {"lambda1": math.nan}),
    (methods.AESAM, {"lambda1": -math.inf}),
    (methods.AELookSAM, {"alpha": -1.0}),
    (methods.KSAM, {"k": 0}),
    (methods.KSAM, {"k": 1.2}),
    (methods.AUSAM, {"share": 0.0}),
    (methods.FriendlySAM, {"decay": 1.1}),
    (methods.BiSAM, {"mu": 0.0}),
    (methods.BiSAM, {"phi": "exp"}),
    (methods.GAM, {"grad_rho": -0.1}),
    (methods.GAM, {"b1": "1"}),
    (methods.AMP, {"epsilon": -0.5}),
    (methods.AMP, {"inner_iter": 0}),
    (methods.ImbSAM, {"class_counts": None}),
    (methods.ImbSAM, {"class_counts": []}),
    (methods.ImbSAM, {"class_counts": [3, -1]}),
    (methods.ImbSAM, {"class_counts": [[3], [1]]}),
    (methods.ImbSAM, {"class_counts": "many"}),
    (methods.SmoothOut, {"a": -1.0}),
    (methods.SmoothOut, {"scale": "layer"}),
    (methods.EntropySGD, {"steps": 0}),
    (methods.EntropySGD, {"noise": -1.0}),
    (methods.SLSAM, {"share": 0.0}),
    (methods.MomentumSAM, {"momentum": 1.1}),
    (methods.VaSSO, {"theta": -0.1}),
    (methods.WSAM, {"gamma": 1.0}),
    (methods.WSAM, {"decouple": "yes"}),
    (methods.AsyncSAM, {"rho": -0.1}),
    (methods.DeltaSAM, {"rho": math.inf}),
    (methods.SAM, {"rho": schedules.EverySteps(2)}),
    (methods.Renormalized, {"method": "sam"}),
    (schedules.EverySteps, {"k": 0}),
    (schedules.WithProbability, {"p": 1.1}),
    (schedules.WithProbability, {"p": 0.5, "seed": -1}),
    (schedules.FromEpoch, {"epoch": 1.5}),
    (schedules.FromShare, {"share": 2.0}),
    (schedules.ProportionalToLearningRate, {"factor": -1.0}),
    (
        schedules.FollowLearningRate,
        {"rho_min": 0.2, "rho_max": 0.1, "lr_min": 0.0, "lr_max": 1.0},
    ),
]


@pytest.mark.parametrize(
    ("kind", "arguments"),
    BAD_ARGUMENTS,
    ids=[
        f"{k.__name__}-{next(iter(a))}-{i}"
        for i, (k, a) in enumerate(BAD_ARGUMENTS)
    ],
)
def test_arguments_out_of_range(kind, arguments):
    name = list(arguments)[-1]
    with pytest.raises((TypeError, ValueError), match="Received") as caught:
        kind(**arguments)
    assert name in str(caught.value)


def test_arguments_of_the_model():
    for wrong in ({"schedule": "every 2"}, {"schedule": 2}):
        with pytest.raises(TypeError, match=r"`schedule`.*Received"):
            LWSAMModel(dense_network(), **wrong)
    with pytest.raises(ValueError, match=r"num_batch_splits.*Received"):
        LWSAMModel(dense_network(), num_batch_splits=0)
    with pytest.raises(TypeError, match=r"num_batch_splits.*Received"):
        LWSAMModel(dense_network(), num_batch_splits=2.0)


def refused(method, match, y=Y, loss=None, network=None, x=X, **mode):
    network = network or dense_network()
    model = LWSAMModel(network, method, layers="all")
    model.compile(momentum_sgd(), loss or cross_entropy(), **mode)
    before = weights_of(network)
    with pytest.raises(ValueError, match=match):
        model.train_on_batch(x, y)
    assert_equal(weights_of(network), before)


modes = pytest.mark.parametrize("mode", [{}, {"run_eagerly": True}])


@modes
def test_bisam_needs_classes(mode):
    labels = Y.astype("float32")
    refused(methods.BiSAM(), r"class labels.*Received", y=labels, **mode)
    targets = GENERATOR.normal(size=(12, 2)).astype("float32")
    network = two_outputs()[2]
    match = r"class labels.*Received"
    refused(methods.BiSAM(), match, targets[:, :1], "mse", network, **mode)


@modes
def test_bisam_needs_logits(mode):
    refused(
        methods.BiSAM(),
        r"needs logits.*Received",
        loss="sparse_categorical_crossentropy",
        **mode,
    )


@pytest.mark.not_jax
def test_bisam_finds_the_logits_behind_a_softmax():
    ends = []
    for activation, from_logits in ((None, True), ("softmax", False)):
        network = dense_network()
        network.layers[-1].activation = keras.activations.get(activation)
        model = LWSAMModel(network, methods.BiSAM(0.2), layers="all")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits)
        model.compile(momentum_sgd(), loss)
        model.train_on_batch(X, Y)
        ends.append(weights_of(network))
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_bisam_takes_one_hot_labels():
    ends = []
    one_hot = keras.utils.to_categorical(Y, 4)
    sparse, dense = cross_entropy(), keras.losses.CategoricalCrossentropy(True)
    for y, loss in ((Y, sparse), (Y[:, None], sparse), (one_hot, dense)):
        model = LWSAMModel(dense_network(), methods.BiSAM(0.2), layers="all")
        model.compile(momentum_sgd(), loss)
        model.train_on_batch(X, y)
        ends.append(weights_of(model.model))
    for end in ends[1:]:
        for a, b in zip(ends[0], end, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def two_outputs():
    inputs = keras.Input((10,))
    one = keras.layers.Dense(4, name="one")(inputs)
    two = keras.layers.Dense(4, name="two")(inputs)
    three = keras.layers.Dense(3, name="three")(inputs)
    return (
        keras.Model(inputs, [one, two]),
        [Y, Y],
        keras.Model(inputs, keras.layers.Dense(2)(three)),
    )


@modes
def test_methods_of_classes_need_one_output(mode):
    network, y, _ = two_outputs()
    loss = [cross_entropy(), cross_entropy()]
    refused(methods.BiSAM(), "one output", y, loss, network, **mode)
    refused(
        methods.ImbSAM([9, 9, 9, 9]), "class labels", y, loss, network, **mode
    )


def scalar_loss(y_true, y_pred):
    """One number for the whole batch."""
    return keras.ops.mean(
        keras.losses.sparse_categorical_crossentropy(y_true, y_pred, True)
    )


class OwnLoss(keras.Model):
    """A network whose loss knows no sample weights."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(4)

    def call(self, x):
        return self.dense(x)

    def compute_loss(self, x, y, y_pred, sample_weight, training=True):
        return scalar_loss(y, y_pred)


PER_SAMPLE = {
    "esam": methods.ESAM(),
    "ksam": methods.KSAM(),
    "delta_sam": methods.DeltaSAM(),
    "ausam": methods.AUSAM(),
}


@modes
@pytest.mark.parametrize("name", PER_SAMPLE)
def test_losses_without_values_for_each_sample(name, mode):
    match = "loss of every sample"
    refused(PER_SAMPLE[name], match, loss=scalar_loss, **mode)
    network = OwnLoss()
    network(X)
    refused(PER_SAMPLE[name], match, network=network, **mode)


def test_a_batch_smaller_than_its_subset():
    match = r"smaller than the subset.*Received: k=13"
    refused(methods.KSAM(k=13), match)
    match = r"smaller than the subset.*Received: num_samples=16"
    refused(methods.FisherSparseSAM(), match, run_eagerly=True)


def test_a_batch_that_turns_out_smaller_than_its_subset():
    """The size of a batch of `fit` is known when it is there."""
    model = LWSAMModel(dense_network(), methods.KSAM(k=8), layers="all")
    model.compile(momentum_sgd(), cross_entropy())
    with pytest.raises(Exception, match="smaller than the subset"):
        model.fit(X, Y, batch_size=8, verbose=0)
    model.fit(X[:8], Y[:8], batch_size=8, verbose=0)


@pytest.mark.tensorflow
def test_examples_that_are_no_numbers():
    words = keras.ops.convert_to_tensor(np.array(["a", "b"]))
    with pytest.raises(ValueError, match=r"strings.*Received"):
        sample_selection.identify(words)


def test_examples_are_told_apart_wherever_they_are():
    image = GENERATOR.normal(size=(50, 4, 3)).astype("float32")
    number = GENERATOR.integers(0, 9, 50)
    places = np.asarray(sample_selection.identify({"a": image, "b": number}))
    assert len(set(places)) >= 49
    order = GENERATOR.permutation(50)
    again = sample_selection.identify({"a": image[order], "b": number[order]})
    np.testing.assert_array_equal(again, places[order])


def test_a_method_that_takes_no_clean_gradient_cannot_be_renormalized():
    refused(methods.Renormalized(methods.SmoothOut()), "clean gradient")
