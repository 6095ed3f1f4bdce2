"""The networks whose step is counted and timed."""

import keras
import numpy as np

from examples.residual_networks import resnet20


def vit(classes=10, depth=6):
    """A small ViT image classifier of KerasHub, randomly initialised."""
    import keras_hub

    backbone = keras_hub.models.ViTBackbone(
        image_shape=(32, 32, 3),
        patch_size=8,
        num_layers=depth,
        num_heads=4,
        hidden_dim=64,
        mlp_dim=128,
        dropout_rate=0.1,
    )
    x = keras.ops.mean(backbone.output, axis=1)
    return keras.Model(
        backbone.input, keras.layers.Dense(classes)(x), name="vit"
    )


def bert(classes=10, depth=6):
    """A small BERT classifier of KerasHub, randomly initialised."""
    import keras_hub

    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=1000,
        num_layers=depth,
        num_heads=4,
        hidden_dim=64,
        intermediate_dim=128,
        max_sequence_length=32,
        dropout=0.1,
    )
    x = backbone.output["pooled_output"]
    return keras.Model(
        backbone.input, keras.layers.Dense(classes)(x), name="bert"
    )


def batch(network, size):
    """Random inputs and labels that fit one of these networks."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, size)
    if isinstance(network.input, dict):
        length = 32
        tokens = generator.integers(0, 1000, (size, length))
        inputs = {
            "token_ids": tokens,
            "segment_ids": np.zeros_like(tokens),
            "padding_mask": np.ones_like(tokens),
        }
        inputs = {k: v.astype("int32") for k, v in inputs.items()}
        return inputs, labels
    shape = (size, *network.input.shape[1:])
    return generator.normal(size=shape).astype("float32"), labels


BUILDERS = {"resnet20": resnet20, "vit": vit, "bert": bert}
