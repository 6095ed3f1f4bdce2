"""Selections by the part that layers play in their network."""

import dataclasses
import re

from keras_lwsam import _arguments
from keras_lwsam.selection.base import Selection, serializable

# Normalization layers of Keras and KerasHub, and of one's own.
_NORMALIZATION = re.compile(r".*norm(alization)?(v\d+)?", re.IGNORECASE)


@serializable
@dataclasses.dataclass(frozen=True)
class Head(Selection):
    """The head of the network, as `layers="head"` says.

    It is the part called `head`; else the layers behind the backbone, an inner
    network with at least half of the layers, as a KerasHub task has; else the
    last layer.

    >>> from keras_lwsam import selection
    >>> selection.get("head")
    Head()
    """

    def resolve(self, layers, observations=None):
        found = tuple(i for i, layer in enumerate(layers) if layer.in_head)
        if not found:
            raise ValueError(
                "`layers='head'` selects no trainable layer: the head is "
                "frozen, or the network has none, as when its embeddings make "
                "its output. Name layers, or take the last block by "
                "`layers='last_blocks:1'`. Received the layer paths: "
                f"{[layer.path for layer in layers]}"
            )
        return found


@serializable
@dataclasses.dataclass(frozen=True)
class LastBlocks(Selection):
    """The last blocks and what lies behind them, as `"last_blocks:2"` says.

    Blocks are the parts of the same class that lie side by side, as the layers
    of a transformer do; in flat networks, such as those of
    `keras.applications`, what the names of the layers say. What lies behind
    the first selected block costs nothing more to perturb, so the layers
    between the blocks, and the head, are selected too.

    Args:
        num_blocks: The number of blocks, a positive int.

    >>> from keras_lwsam import selection
    >>> selection.get("last_blocks:2")
    LastBlocks(num_blocks=2)
    """

    num_blocks: int

    def __post_init__(self):
        _arguments.count("num_blocks", self.num_blocks)
        object.__setattr__(self, "num_blocks", int(self.num_blocks))

    def resolve(self, layers, observations=None):
        # By the place of the first layer, input side first.
        first = {}
        for i, layer in enumerate(layers):
            if layer.block is not None:
                first.setdefault(layer.block, i)
        if len(first) < self.num_blocks:
            raise ValueError(
                "`layers='last_blocks:N'` asks for more trainable blocks than "
                "this network is known to have; name layers, or take "
                "`selection.OutputSide`. "
                f"Received: num_blocks={self.num_blocks}. "
                f"The blocks: {list(first)}. "
                f"The layer paths: {[layer.path for layer in layers]}"
            )
        start = list(first.values())[-self.num_blocks]
        return tuple(range(start, len(layers)))


@serializable
@dataclasses.dataclass(frozen=True)
class Normalization(Selection):
    """The normalization layers, as `layers="normalization"` says: SAM-ON.

    Those whose class is named so: `BatchNormalization`, `LayerNormalization`,
    the `RMSNorm` of a language model. SAM-ON needs about five times the radius
    of SAM.

    >>> from keras_lwsam import selection
    >>> selection.get("normalization")
    Normalization()

    References:
        Mueller, Vlaar, Rolnick, Hein: Normalization Layers Are All That
        Sharpness-Aware Minimization Needs, NeurIPS 2023, arXiv:2306.04226.
    """

    def resolve(self, layers, observations=None):
        found = tuple(
            i
            for i, layer in enumerate(layers)
            if _NORMALIZATION.fullmatch(type(layer.layer).__name__)
        )
        if not found:
            raise ValueError(
                "`layers='normalization'` selects no trainable layer: none is "
                "a normalization layer. Received the layers: "
                f"{[(x.path, type(x.layer).__name__) for x in layers]}"
            )
        return found


def preset(text: str) -> Selection | None:
    """The selection of a preset's name; `None` if it is no such name."""
    if text == "head":
        return Head()
    if text == "normalization":
        return Normalization()
    if not re.match(r"last_blocks\b", text):
        return None
    match = re.fullmatch(r"last_blocks:([1-9]\d*)", text)
    if not match:
        raise ValueError(
            "`layers='last_blocks:N'` must say how many blocks, such as "
            f"'last_blocks:2'. Received: layers={text!r}"
        )
    return LastBlocks(int(match[1]))
