"""The data and the network of the small examples."""

import argparse
import sys

import keras
import numpy as np
from keras import layers


def load(path):
    """`(x_train, y_train), (x_test, y_test)`; images in [0, 1]."""
    if path is None:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        x, y = load_digits(return_X_y=True)
        x_train, x_test, y_train, y_test = train_test_split(
            x.reshape(-1, 8, 8), y, test_size=0.25, random_state=0, stratify=y
        )
    else:
        with np.load(path) as data:
            names = ("x_train", "y_train", "x_test", "y_test")
            missing = [name for name in names if name not in data]
            if missing:
                sys.exit(
                    f"{path} must hold the arrays {', '.join(names)}. "
                    f"Missing: {', '.join(missing)}"
                )
            x_train, y_train, x_test, y_test = (data[n] for n in names)
    largest = max(float(np.max(x_train)), 1e-12)
    return tuple(
        (as_images(x) / largest, np.asarray(y).reshape(-1))
        for x, y in ((x_train, y_train), (x_test, y_test))
    )


def as_images(x):
    """Float images of shape (count, height, width, channels)."""
    x = np.asarray(x, "float32")
    return x[..., np.newaxis] if x.ndim == 3 else x


def build_network(
    image_shape, classes, normalization=layers.BatchNormalization, dropout=0.2
):
    """Four convolutions with normalization, dropout, and a classifier."""
    network = keras.Sequential([keras.Input(image_shape)], name="cnn")
    for block, (filters, stride) in enumerate(
        ((16, 1), (16, 2), (32, 1), (32, 2)), start=1
    ):
        network.add(
            layers.Conv2D(
                filters,
                3,
                stride,
                padding="same",
                use_bias=False,
                name=f"conv{block}",
            )
        )
        network.add(normalization(name=f"norm{block}"))
        network.add(layers.ReLU())
    network.add(layers.GlobalAveragePooling2D())
    network.add(layers.Dropout(dropout))
    network.add(layers.Dense(classes, name="logits"))
    return network


def layers_argument(text):
    """The `layers` argument of `LWSAMModel` from the command line."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def positive(text):
    """A positive int from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def add_training_arguments(parser, epochs, batch_size):
    """The options of a training run, with these defaults."""
    options = (
        ("--method", str, "sam", "name of a method of keras_lwsam.methods"),
        ("--rho", float, None, "radius (default: that of the method)"),
        ("--epochs", positive, epochs, "passes over the data (%(default)s)"),
        (
            "--batch-size",
            positive,
            batch_size,
            "images in a step, of all replicas together (%(default)s)",
        ),
        ("--learning-rate", float, 0.1, "of SGD with momentum (%(default)s)"),
        ("--seed", int, 0, "of weights and draws (%(default)s)"),
    )
    for name, kind, default, text in options:
        parser.add_argument(name, type=kind, default=default, help=text)
    parser.add_argument(
        "--layers",
        type=layers_argument,
        default=None,
        help="which layers are perturbed: a number of layers, a share such as "
        "0.25, 'all', or a layer path (default: the library's)",
    )
    parser.add_argument(
        "--data",
        metavar="PATH.npz",
        help="train on this file instead of the digits; it holds x_train, "
        "y_train, x_test, y_test (images, integer labels)",
    )


def compiled(model, learning_rate):
    """The model, compiled to train as the small examples do."""
    model.compile(
        keras.optimizers.SGD(learning_rate, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model
