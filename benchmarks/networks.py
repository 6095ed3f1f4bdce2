"""The networks whose step is counted and timed.

All are randomly initialised, end in logits, and are small enough for a step of
`BATCH_SIZES` to take some tenths of a second on two CPU cores.
"""

import functools

import keras
import numpy as np

from examples.residual_networks import resnet20, wide_resnet
from keras_lwsam import selection

# Tokens in a sequence, and how many different ones there are.
LENGTH, VOCABULARY = 32, 1000


class Positions(selection.Selection):
    """The layers at some positions, whatever they are called."""

    def __init__(self, *positions):
        self.positions = positions

    def resolve(self, layers, observations=None):
        return tuple(i % len(layers) for i in self.positions)


def vgg(classes=10, width=32):
    """Pairs of 3 x 3 convolutions without BatchNorm, then dense layers.

    Simonyan and Zisserman 2015, for images of 32 x 32 pixels.
    """
    layers = keras.layers
    x = inputs = keras.Input((32, 32, 3))
    for filters in (width, 2 * width, 4 * width):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    for _ in range(2):
        x = layers.Dense(8 * width, activation="relu")(x)
        x = layers.Dropout(0.5)(x)
    return keras.Model(inputs, layers.Dense(classes)(x), name="vgg")


def unet(classes=10, width=16, depth=3):
    """U-Net (Ronneberger et al. 2015) with BatchNorm: a class for each pixel.

    The half that leads to the output reads what the other half computed.
    """
    layers = keras.layers

    def convolutions(x, filters):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
        return x

    x = inputs = keras.Input((32, 32, 3))
    skipped = []
    for level in range(depth):
        x = convolutions(x, width * 2**level)
        skipped.append(x)
        x = layers.MaxPooling2D()(x)
    x = convolutions(x, width * 2**depth)
    for level in reversed(range(depth)):
        x = layers.Conv2DTranspose(width * 2**level, 2, 2)(x)
        x = layers.Concatenate()([skipped.pop(), x])
        x = convolutions(x, width * 2**level)
    return keras.Model(inputs, layers.Conv2D(classes, 1)(x), name="unet")


def mobilenet_v2(classes=10, width=0.35, size=64):
    """MobileNetV2 of Keras: depthwise convolutions and BatchNorm."""
    return keras.applications.MobileNetV2(
        (size, size, 3),
        alpha=width,
        weights=None,
        classes=classes,
        classifier_activation=None,
    )


def efficientnet(classes=10, size=64):
    """EfficientNet-B0 of Keras: squeeze and excitation, stochastic depth."""
    return keras.applications.EfficientNetB0(
        input_shape=(size, size, 3),
        weights=None,
        classes=classes,
        classifier_activation=None,
    )


def mlp(classes=10, width=512, depth=4):
    """Dense layers with ReLU and dropout on a vector of 784 numbers."""
    layers = keras.layers
    network = [keras.Input((784,))]
    for _ in range(depth):
        network.append(layers.Dense(width, activation="relu"))
        network.append(layers.Dropout(0.1))
    return keras.Sequential([*network, layers.Dense(classes)], name="mlp")


def mixer(classes=10, width=64, depth=6, patch=4):
    """MLP-Mixer (Tolstikhin et al. 2021) on images of 32 x 32 pixels."""
    layers = keras.layers

    def mixed(x, hidden):
        size = x.shape[-1]
        x = layers.Dense(hidden, activation="gelu")(x)
        return layers.Dense(size)(x)

    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(width, patch, patch)(inputs)
    x = layers.Reshape((-1, width))(x)
    for _ in range(depth):
        y = layers.Permute((2, 1))(layers.LayerNormalization()(x))
        x = x + layers.Permute((2, 1))(mixed(y, width))
        x = x + mixed(layers.LayerNormalization()(x), 2 * width)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(classes)(x), name="mixer")


def lstm(classes=10, width=128, depth=3):
    """A stack of LSTM layers over 32 vectors of 64 numbers."""
    layers = keras.layers
    network = [keras.Input((LENGTH, 64))]
    for i in range(depth):
        is_last = i == depth - 1
        network.append(layers.LSTM(width, return_sequences=not is_last))
    return keras.Sequential([*network, layers.Dense(classes)], name="lstm")


def vit(classes=10, depth=6, width=64):
    """A small ViT image classifier of KerasHub."""
    import keras_hub

    backbone = keras_hub.models.ViTBackbone(
        image_shape=(32, 32, 3),
        patch_size=8,
        num_layers=depth,
        num_heads=4,
        hidden_dim=width,
        mlp_dim=2 * width,
        dropout_rate=0.1,
    )
    x = keras.ops.mean(backbone.output, axis=1)
    return keras.Model(
        backbone.input, keras.layers.Dense(classes)(x), name="vit"
    )


def bert(classes=10, depth=6, width=64):
    """A small BERT classifier of KerasHub."""
    import keras_hub

    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=VOCABULARY,
        num_layers=depth,
        num_heads=4,
        hidden_dim=width,
        intermediate_dim=2 * width,
        max_sequence_length=LENGTH,
        dropout=0.1,
    )
    x = backbone.output["pooled_output"]
    return keras.Model(
        backbone.input, keras.layers.Dense(classes)(x), name="bert"
    )


def gpt(depth=4, width=64):
    """A small GPT-2 of KerasHub: logits of the next token at each position.

    The embedding that reads the tokens writes the logits, too.
    """
    import keras_hub

    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=VOCABULARY,
        num_layers=depth,
        num_heads=4,
        hidden_dim=width,
        intermediate_dim=2 * width,
        max_sequence_length=LENGTH,
        dropout=0.1,
    )
    logits = backbone.token_embedding(backbone.output, reverse=True)
    return keras.Model(backbone.input, logits, name="gpt")


def batch(network, size):
    """Random inputs and labels that fit one of these networks."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, _sized(network.outputs[0], size)[:-1])
    if len(network.inputs) == 1:
        shape = _sized(network.inputs[0], size)
        return generator.normal(size=shape).astype("float32"), labels
    shape = (size, LENGTH)
    inputs = {
        "token_ids": generator.integers(0, VOCABULARY, shape),
        "segment_ids": np.zeros(shape),
        "padding_mask": np.ones(shape),
    }
    names = [tensor.name for tensor in network.inputs]
    return {name: inputs[name].astype("int32") for name in names}, labels


def _sized(tensor, size):
    return (size, *(LENGTH if d is None else d for d in tensor.shape[1:]))


BUILDERS = {
    "resnet20": resnet20,
    "vit": vit,
    "bert": bert,
    "wide_resnet": functools.partial(wide_resnet, 16, 4, 10),
    "vgg": vgg,
    "unet": unet,
    "mobilenet_v2": mobilenet_v2,
    "efficientnet": efficientnet,
    "mlp": mlp,
    "mixer": mixer,
    "lstm": lstm,
    "gpt": gpt,
}
BATCH_SIZES = {
    "resnet20": 128,
    "vit": 64,
    "bert": 64,
    "wide_resnet": 16,
    "vgg": 64,
    "unet": 32,
    "mobilenet_v2": 64,
    "efficientnet": 16,
    "mlp": 256,
    "mixer": 64,
    "lstm": 64,
    "gpt": 64,
}
