"""Exported networks predict what the wrapper predicts, without Keras."""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lwsam import LWSAMModel
from tests import networks
from tests.support import (
    convolutional_network,
    cross_entropy,
    image_data,
    momentum_sgd,
)

pytestmark = pytest.mark.tensorflow

TOLERANCE = 1e-5
KERAS = tuple(map(int, keras.__version__.split(".")[:2]))


def convolutional():
    """With BatchNorm and dropout, which must be those of inference."""
    return convolutional_network(), *image_data(12)


NETWORKS = {
    "convolutional": convolutional,
    "two inputs": networks.two_inputs_as_dict,
    "subclassed": networks.subclassed,
}


def trained(make):
    """A trained wrapper of a network, and inputs."""
    network, x, y = make()
    model = LWSAMModel(network, layers=1)
    model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
    model.fit(x, y, verbose=0)
    return model, x


def assert_same(predictions, model, x):
    """Predictions are those of the wrapper."""
    np.testing.assert_allclose(
        predictions, model.predict(x, verbose=0), rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_saved_model(name, tmp_path):
    """Read by TensorFlow, and as a layer."""
    model, x = trained(NETWORKS[name])
    model.model.export(tmp_path, verbose=False)
    loaded = tf.saved_model.load(tmp_path)
    assert_same(loaded.serve(x), model, x)
    # The wrapper exports its network.
    model.export(tmp_path / "again", verbose=False)
    again = tf.saved_model.load(tmp_path / "again")
    assert_same(again.serve(x), model, x)
    layer = keras.layers.TFSMLayer(tmp_path, call_endpoint="serve")
    assert_same(layer(x), model, x)


def by_converter(network, path):
    """A LiteRT file, by TensorFlow's converter, in any version."""
    folder = path.with_suffix("")
    network.export(folder, verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
    path.write_bytes(converter.convert())


def by_keras(network, path):
    """The same by Keras, from 3.13 on."""
    network.export(path, format="litert", verbose=False)


@pytest.mark.parametrize(
    "convert", [by_converter, *[by_keras] * (KERAS >= (3, 13))]
)
@pytest.mark.filterwarnings(
    # Its successor is a package of its own.
    r"ignore:\s*Warning. tf.lite.Interpreter is deprecated:UserWarning"
)
def test_lite_rt(convert, tmp_path):
    model, x = trained(convolutional)
    path = tmp_path / "network.tflite"
    convert(model.model, path)
    interpreter = tf.lite.Interpreter(str(path))
    (given,) = interpreter.get_input_details()
    (wanted,) = interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], x)
    interpreter.invoke()
    assert_same(interpreter.get_tensor(wanted["index"]), model, x)


@pytest.mark.peers
@pytest.mark.filterwarnings(
    # Keras looks for what NumPy 1 had.
    "ignore:In the future `np.object` will be defined:FutureWarning"
)
@pytest.mark.parametrize("name", ["convolutional", "subclassed"])
def test_onnx(name, tmp_path):
    runtime = importlib.import_module("onnxruntime")
    model, x = trained(NETWORKS[name])
    path = tmp_path / "network.onnx"
    model.model.export(path, format="onnx", verbose=False)
    session = runtime.InferenceSession(path)
    (given,) = session.get_inputs()
    (predictions,) = session.run(None, {given.name: x})
    assert_same(predictions, model, x)
