"""What the studies train: data, networks and optimizers.

Each task is small enough for a run to take a minute or so on one CPU core, so
that many methods, radii and seeds fit into an afternoon.
"""

import csv
import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

# Of Fashion-MNIST; validation images are the last ones of the training set.
IMAGES, VALIDATION_IMAGES = 6_000, 5_000
# Of Banking77.
QUESTIONS, WORDS, VOCABULARY = 6_000, 20, 2_000
SHARE_OF_NOISE = 0.2


class Splits(NamedTuple):
    """Inputs and integer labels, three times."""

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Task:
    """A task of a study.

    Args:
        load: Function of the folder of data to `Splits`.
        build: Function of a number of classes to a network.
        classes: Number of classes.
        optimizer: Function of learning rate, steps to an optimizer.
        learning_rates: Those that are tried for the base optimizer.
        epochs: Number of epochs.
        batch_size: Samples in a batch.
        radius_factor: Factor of the radii that are tried.
    """

    load: Callable
    build: Callable
    classes: int
    optimizer: Callable
    learning_rates: tuple[float, ...]
    epochs: int
    batch_size: int = 64
    radius_factor: float = 1.0


def momentum_sgd(learning_rate, steps):
    """SGD with Nesterov momentum, weight decay and a cosine schedule."""
    return keras.optimizers.SGD(
        keras.optimizers.schedules.CosineDecay(learning_rate, steps),
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
    )


def adamw(learning_rate, steps):
    """AdamW, warmed up over a tenth of the steps, with a cosine schedule."""
    return keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(
            0.0,
            steps - steps // 10,
            warmup_target=learning_rate,
            warmup_steps=steps // 10,
        ),
        weight_decay=0.01,
        global_clipnorm=1.0,
    )


def residual_network(classes):
    """ResNet-8 with BatchNorm; stem and stages each halve the image."""
    layers = keras.layers

    def convolution(x, filters, stride=1, kernel=3, activate=True):
        x = layers.Conv2D(
            filters, kernel, stride, padding="same", use_bias=False
        )(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        return layers.ReLU()(x) if activate else x

    inputs = keras.Input((28, 28, 1))
    x = convolution(inputs, 16, 2)
    for filters in (16, 32, 64):
        y = convolution(x, filters, 2)
        y = convolution(y, filters, activate=False)
        x = convolution(x, filters, 2, kernel=1, activate=False)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes)(x), name="resnet8")


def plain_network(classes):
    """Convolutions and dense layers with ReLU, without BatchNorm."""
    layers = keras.layers
    network = [keras.Input((28, 28, 1))]
    for filters, stride in ((16, 2), (32, 2), (32, 1), (64, 2), (64, 1)):
        network.append(
            layers.Conv2D(
                filters,
                3,
                stride,
                padding="same",
                activation="relu",
                kernel_initializer="he_normal",
            )
        )
    network.append(layers.Flatten())
    for _ in range(2):
        network.append(
            layers.Dense(64, activation="relu", kernel_initializer="he_normal")
        )
    network.append(layers.Dense(classes))
    return keras.Sequential(network, name="plain")


def vision_transformer(classes):
    """Patches of 7 x 7 pixels, three transformer blocks with LayerNorm."""
    import keras_hub

    layers = keras.layers
    inputs = keras.Input((28, 28, 1))
    x = layers.Conv2D(48, 7, 7)(inputs)
    x = layers.Reshape((16, 48))(x)
    x = x + keras_hub.layers.PositionEmbedding(16)(x)
    x = _blocks(x, 3)
    x = layers.LayerNormalization()(layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, layers.Dense(classes)(x), name="vit")


def text_transformer(classes):
    """Embeddings of words, two transformer blocks with LayerNorm."""
    import keras_hub

    layers = keras.layers
    inputs = keras.Input((WORDS,), dtype="int32")
    x = keras_hub.layers.TokenAndPositionEmbedding(
        VOCABULARY, WORDS, 48, mask_zero=True
    )(inputs)
    x = _blocks(layers.Dropout(0.1)(x), 2)
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, layers.Dense(classes)(x), name="transformer")


def _blocks(x, depth):
    import keras_hub

    for _ in range(depth):
        x = keras_hub.layers.TransformerEncoder(96, 2, dropout=0.1)(x)
    return x


def fashion(folder):
    """Part of Fashion-MNIST."""
    with np.load(pathlib.Path(folder) / "fashion_mnist.npz") as data:
        x, y = _images(data["x_train"]), data["y_train"].astype("int32")
        test = _images(data["x_test"]), data["y_test"].astype("int32")
    last = slice(-VALIDATION_IMAGES, None)
    return Splits((x[:IMAGES], y[:IMAGES]), (x[last], y[last]), test)


def noisy_fashion(folder):
    """The same with a fifth of the labels drawn from the other classes.

    Of those to train and to validate on, as one would have them; the test
    labels are clean.
    """
    train, validation, test = fashion(folder)
    generator = np.random.default_rng(0)
    return Splits(
        *((x, _noisy(y, 10, generator)) for x, y in (train, validation)), test
    )


def _noisy(labels, classes, generator):
    wrong = generator.random(len(labels)) < SHARE_OF_NOISE
    others = labels + generator.integers(1, classes, len(labels))
    return np.where(wrong, others % classes, labels).astype("int32")


def _images(x):
    return (x[..., np.newaxis] / 255.0 - 0.5).astype("float32")


def banking77(folder):
    """Questions of a bank's customers as words, and their intents."""
    parts = [_rows(folder, part) for part in ("train", "test")]
    np.random.default_rng(0).shuffle(parts[0])
    names = sorted({category for _, category in parts[0]})
    words = keras.layers.TextVectorization(
        VOCABULARY, output_sequence_length=WORDS
    )
    words.adapt([text for text, _ in parts[0][:QUESTIONS]])
    (x, y), test = [
        (
            np.array(words([text for text, _ in part]), "int32"),
            np.array([names.index(c) for _, c in part], "int32"),
        )
        for part in parts
    ]
    return Splits(
        (x[:QUESTIONS], y[:QUESTIONS]), (x[QUESTIONS:], y[QUESTIONS:]), test
    )


def _rows(folder, part):
    path = pathlib.Path(folder) / f"banking77_{part}.csv"
    with open(path, encoding="utf-8", newline="") as file:
        return [(r["text"], r["category"]) for r in csv.DictReader(file)]


_on_fashion = functools.partial(
    Task,
    classes=10,
    epochs=10,
    optimizer=momentum_sgd,
    learning_rates=(0.05, 0.1, 0.2),
)

TASKS = {
    "fashion": _on_fashion(fashion, residual_network),
    # Wrong labels call for larger radii.
    "noisy": _on_fashion(noisy_fashion, residual_network, radius_factor=2.0),
    "banking77": Task(
        banking77, text_transformer, 77, adamw, (1e-3, 3e-3, 6e-3), 12
    ),
    "plain": _on_fashion(
        fashion, plain_network, learning_rates=(0.01, 0.02, 0.05)
    ),
    "vit": Task(fashion, vision_transformer, 10, adamw, (5e-4, 1e-3, 3e-3), 10),
}
