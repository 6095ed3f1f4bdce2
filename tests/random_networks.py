"""Hypothesis draws recipes of networks, optimizers and ways to train them."""

import dataclasses
import random

import keras
import numpy as np
from hypothesis import strategies as st
from keras import layers

from keras_lwsam import _keras, methods, schedules, selection
from tests.backends import BACKEND
from tests.cases import CASES
from tests.support import cross_entropy

WIDTH = 4
ROWS = 6
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16", "bfloat16")
if BACKEND != "jax":
    POLICIES += ("float64",)

# Layers from `WIDTH` numbers to as many, by kind: functions of keyword
# arguments that every layer takes.
LAYERS = {
    "dense": lambda **k: layers.Dense(WIDTH, activation="tanh", **k),
    # Keras cannot add losses of different dtypes.
    "regularized": lambda **k: layers.Dense(
        WIDTH,
        kernel_regularizer=keras.regularizers.L2(1e-2),
        **{**k, "dtype": "float32"},
    ),
    "constrained": lambda **k: layers.Dense(
        WIDTH, kernel_constraint=keras.constraints.MaxNorm(1.0), **k
    ),
    "batch_norm": layers.BatchNormalization,
    "layer_norm": layers.LayerNormalization,
    "dropout": lambda **k: layers.Dropout(0.3, **k),
    "noise": lambda **k: layers.GaussianNoise(0.1, **k),
    "prelu": layers.PReLU,
    "relu": layers.ReLU,
    "activity": lambda **k: layers.ActivityRegularization(
        l2=1e-2, **{**k, "dtype": "float32"}
    ),
    "spectral": lambda **k: layers.SpectralNormalization(
        layers.Dense(WIDTH, dtype=k["dtype"]), **k
    ),
}
STRUCTURES = ("add", "concatenate", "shared", "nested", "nested_twice", "conv")
TOKENS = ("pool", "conv", "gru", "attention")


@dataclasses.dataclass(frozen=True)
class Block:
    """A layer or a few, and which of the tensors made before it takes."""

    kind: str
    sources: tuple[int, int]
    policy: str
    trainable: bool


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A network that can be built again."""

    inputs: tuple[str, ...]
    blocks: tuple[Block, ...]
    outputs: int
    subclassed: bool


@keras.saving.register_keras_serializable(package="tests")
class Scaled(keras.Model):
    """A subclassed model around a functional one, with a weight of its own."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, inputs, training=False):
        return keras.tree.map_structure(
            lambda output: output * self.scale,
            self.inner(inputs, training=training),
        )


blocks = st.builds(
    Block,
    kind=st.sampled_from((*LAYERS, *STRUCTURES)),
    sources=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    policy=st.sampled_from(("float32", *POLICIES)),
    trainable=st.sampled_from((True, True, True, False)),
)
recipes = st.builds(
    Recipe,
    inputs=st.lists(
        st.sampled_from(("vector", "vector", *TOKENS)), min_size=1, max_size=2
    ).map(tuple),
    blocks=st.lists(blocks, min_size=1, max_size=5).map(tuple),
    outputs=st.sampled_from((1, 1, 2)),
    subclassed=st.booleans(),
)


def apply_block(block, number, one, other):
    """The tensor that a block makes of one tensor, or of two."""
    common = {"dtype": block.policy, "name": f"{block.kind}{number}"}
    frozen = {**common, "trainable": block.trainable}
    plain = {"dtype": block.policy, "trainable": block.trainable}
    if block.kind in LAYERS:
        layer = LAYERS[block.kind](**common)
        layer.trainable = block.trainable
        return layer(one)
    if block.kind == "add":
        return layers.Add(**common)([one, other])
    if block.kind == "concatenate":
        both = layers.Concatenate(**common)([one, other])
        return layers.Dense(WIDTH, activation="relu", **plain)(both)
    if block.kind == "shared":
        shared = layers.Dense(WIDTH, activation="tanh", **frozen)
        return layers.Add()([shared(shared(one)), shared(other)])
    if block.kind == "conv":
        x = layers.Reshape((WIDTH, 1))(one)
        x = layers.Conv1D(WIDTH, 3, padding="same", **frozen)(x)
        x = layers.GroupNormalization(2, **plain)(x)
        return layers.GlobalMaxPooling1D()(x)
    inner = keras.Sequential(
        [
            keras.Input((WIDTH,)),
            layers.Dense(WIDTH, activation="tanh", dtype=block.policy),
            layers.BatchNormalization(dtype=block.policy),
            layers.Dropout(0.2),
            layers.Dense(WIDTH, dtype=block.policy),
        ],
        name=f"inner{number}",
    )
    inner.trainable = block.trainable
    once = inner(one)
    return inner(once) if block.kind == "nested_twice" else once


def read_tokens(kind, tokens, number):
    """Numbers from tokens, by an embedding and what reads it."""
    mask = kind in ("pool", "gru")
    x = layers.Embedding(20, WIDTH, mask_zero=mask, name=f"embedding{number}")(
        tokens
    )
    if kind == "gru":
        return layers.GRU(WIDTH, dropout=0.2)(x)
    if kind == "conv":
        x = layers.Conv1D(WIDTH, 2, activation="relu")(x)
    if kind == "attention":
        x = layers.MultiHeadAttention(2, 2, dropout=0.1)(x, x)
    return layers.GlobalAveragePooling1D()(x)


def build(recipe):
    """`(network, x, y, losses)`, the same whenever it is called."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    inputs, pool, x = [], [], []
    for number, kind in enumerate(recipe.inputs):
        if kind == "vector":
            inputs.append(keras.Input((WIDTH,)))
            pool.append(inputs[-1])
            x.append(generator.normal(size=(ROWS, WIDTH)).astype("float32"))
        else:
            inputs.append(keras.Input((6,), dtype="int32"))
            pool.append(read_tokens(kind, inputs[-1], number))
            x.append(generator.integers(0, 20, (ROWS, 6)))
    for number, block in enumerate(recipe.blocks):
        # The latest tensors more often than the older ones.
        one, other = (pool[-1 - s % len(pool)] for s in block.sources)
        pool.append(apply_block(block, number, one, other))
    # What no block has used is used here, so that every input matters.
    last = layers.Concatenate()(pool) if len(pool) > 1 else pool[0]
    outputs = [layers.Dense(4, name="logits")(last)]
    y = [generator.integers(0, 4, ROWS)]
    losses = [cross_entropy()]
    if recipe.outputs == 2:
        outputs.append(layers.Dense(2, name="numbers")(pool[-1]))
        y.append(generator.normal(size=(ROWS, 2)).astype("float32"))
        losses.append(keras.losses.MeanSquaredError())
    single = recipe.outputs == 1
    network = keras.Model(
        inputs if len(inputs) > 1 else inputs[0],
        outputs[0] if single else outputs,
    )
    x = x if len(x) > 1 else x[0]
    if recipe.subclassed:
        network = Scaled(network, name="scaled")
        network(x)
    return network, x, *((y[0], losses[0]) if single else (y, losses))


OPTIMIZERS = {
    "momentum": lambda **k: keras.optimizers.SGD(0.05, momentum=0.9, **k),
    "nesterov": lambda **k: keras.optimizers.SGD(
        0.05, momentum=0.9, nesterov=True, **k
    ),
    "adam": lambda **k: keras.optimizers.Adam(1e-2, **k),
    "amsgrad": lambda **k: keras.optimizers.Adam(1e-2, amsgrad=True, **k),
    "adamw": lambda **k: keras.optimizers.AdamW(1e-2, **k),
    "rmsprop": lambda **k: keras.optimizers.RMSprop(1e-2, centered=True, **k),
    "adagrad": lambda **k: keras.optimizers.Adagrad(1e-2, **k),
    "nadam": lambda **k: keras.optimizers.Nadam(1e-2, **k),
    "lion": lambda **k: keras.optimizers.Lion(1e-3, **k),
    "schedule": lambda **k: keras.optimizers.SGD(
        keras.optimizers.schedules.CosineDecay(0.1, 10), **k
    ),
}
CLIPPING = ({}, {"clipnorm": 0.5}, {"clipvalue": 0.1}, {"global_clipnorm": 0.5})
MORE = (
    {},
    {"weight_decay": 1e-2},
    {"use_ema": True, "ema_overwrite_frequency": 2},
    {"gradient_accumulation_steps": 2},
    {"loss_scale_factor": 64.0},
)
optimizers = st.tuples(
    st.sampled_from(sorted(OPTIMIZERS)),
    st.sampled_from(CLIPPING),
    st.sampled_from(MORE),
)


def make_optimizer(recipe):
    """The optimizer that was drawn."""
    name, clipping, more = recipe
    return OPTIMIZERS[name](**clipping, **more)


def make_method(name):
    """A method of the table, for the networks of this file."""
    if name == "fisher_sparse_sam":
        # The last batch of an epoch has two samples.
        return methods.FisherSparseSAM(0.1, num_samples=2, refresh=2)
    return CASES[name].make()


def keras_takes(recipe, optimizer):
    """Whether Keras itself does.

    It cannot unscale the slices of embeddings, nor clip gradients of different
    dtypes together; and its Nadam makes NaN of bfloat16.
    """
    policies = {block.policy for block in recipe.blocks}
    name, clipping, more = optimizer
    if "loss_scale_factor" in more and set(recipe.inputs) & set(TOKENS):
        return False
    if "global_clipnorm" in clipping and policies & {"float64", "bfloat16"}:
        return False
    return not (name == "nadam" and "bfloat16" in policies)


def suits(name, recipe, optimizer):
    """Whether a method takes such a network and optimizer, as documented."""
    if not keras_takes(recipe, optimizer):
        return False
    if recipe.outputs > 1 and name in ("bisam", "imbsam"):
        return False
    moves = name == "wsam"
    return not (moves and "gradient_accumulation_steps" in optimizer[2])


selections = st.one_of(
    st.sampled_from(["all", 1, 0.25, 0.5]),
    st.builds(selection.OutputSide, st.sampled_from([1, 0.3])),
    st.builds(selection.InputSide, st.sampled_from([1, 0.3])),
    st.builds(selection.Random, st.just(0.5), refresh=st.sampled_from([1, 2])),
    st.builds(selection.LargestGradientNorm, st.just(0.4), st.just(1)),
    st.just(selection.KernelsOnly(selection.All())),
)
ways = st.fixed_dictionaries(
    {
        "layers": selections,
        "perturbation_norm": st.sampled_from(["selected", "all"]),
        "schedule": st.sampled_from([None, None, schedules.EverySteps(2)]),
        "num_batch_splits": st.sampled_from([None, None, 2]),
    }
)


def random_states():
    """What the generators of Python and NumPy draw next."""
    return random.getstate(), tuple(map(str, np.random.get_state()))


def look_of(network):
    """What a step may lend a layer, and must take back."""
    kept = ("_dtype_policy", "call", "_losses_override", "_trainable")
    return [
        (
            layer.name,
            sorted(vars(layer)),
            [id(vars(layer).get(name)) for name in kept],
        )
        for layer in _keras.walk_layers(network)
    ]
