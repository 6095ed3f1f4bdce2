"""The layers of a network, as this package counts them."""

import collections
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_lwsam import _keras, _structure
from keras_lwsam._tensors import global_norm


class LayerWeights(NamedTuple):
    """A layer that owns trainable weights itself.

    Attributes:
        path: Its unique path, such as `"encoder/block_1/query"`.
        layer: The `keras.layers.Layer`.
        indices: Positions of its weights in the list of all weights.
        weights: The weights, as Keras variables.
        block: The block that it lies in, or `None`; see `_structure`.
        in_head: Whether it lies in the head of the network.
    """

    path: str
    layer: keras.layers.Layer
    indices: tuple[int, ...]
    weights: tuple
    block: str | None = None
    in_head: bool = False

    def only(self, keep) -> "LayerWeights":
        """The same layer with those weights for which `keep` holds."""
        kept = [
            (i, w)
            for i, w in zip(self.indices, self.weights, strict=True)
            if keep(w)
        ]
        return self._replace(
            indices=tuple(i for i, _ in kept),
            weights=tuple(w for _, w in kept),
        )


def all_layers(network) -> list[LayerWeights]:
    """Every layer with weights of its own, frozen or not, input side first.

    Each weight belongs to one layer, the first that owns it. Two layers of the
    same path are told apart by a number: `block/dense:1`, `block/dense:2`.
    """
    found, taken = [], set()
    for layer, path, owners in _keras.walk_paths(network):
        weights = [v for v in _keras.own_weights(layer) if id(v) not in taken]
        taken.update(id(v) for v in weights)
        if weights:
            found.append((path, layer, weights, owners))
    found = _in_order(found, _keras.reading_order(network))
    paths = _unique([path for path, *_ in found])
    owners = [owners for *_, owners in found]
    blocks = _structure.blocks_of(paths, owners)
    heads = _structure.head_of(paths, owners)
    result, start = [], 0
    for i, (_, layer, weights, _) in enumerate(found):
        indices = tuple(range(start, start + len(weights)))
        result.append(
            LayerWeights(
                paths[i], layer, indices, tuple(weights), blocks[i], heads[i]
            )
        )
        start += len(weights)
    return result


def _in_order(found, rank):
    """Layers by the first use of their weights; unused ones stay behind."""
    keys, latest = [], -1
    for _, _, weights, _ in found:
        ranks = [rank[id(v)] for v in weights if id(v) in rank]
        latest = min(ranks, default=latest)
        keys.append(latest)
    order = sorted(range(len(found)), key=lambda i: (keys[i], i))
    return [found[i] for i in order]


def _unique(paths):
    total, count = collections.Counter(paths), collections.Counter()
    unique = []
    for path in paths:
        count[path] += 1
        unique.append(path if total[path] == 1 else f"{path}:{count[path]}")
    return unique


def perturbable(layers, trainable) -> list[LayerWeights]:
    """The layers with what of them can be perturbed now.

    Frozen weights, weights that are not of a floating-point type and weights
    that are overwritten with their gradient take no part.

    Args:
        layers: The result of `all_layers`.
        trainable: The network's trainable variables.
    """
    alive = {id(v) for v in trainable}
    kept = (
        layer.only(
            lambda v: (
                id(v) in alive
                and keras.backend.is_float_dtype(v.dtype)
                and not v.overwrite_with_gradient
            )
        )
        for layer in layers
    )
    return [layer for layer in kept if layer.weights]


def gradient_norms(layers, squared_norms) -> np.ndarray:
    """Each layer's norm, from the squared norms of all weights."""
    squared_norms = np.asarray(squared_norms, "float64")
    return np.sqrt([squared_norms[list(x.indices)].sum() for x in layers])


def weight_norms(layers) -> np.ndarray:
    """Each layer's L2 norm over its weights."""
    norms = (global_norm(layer.weights) for layer in layers)
    return np.array([float(ops.convert_to_numpy(norm)) for norm in norms])
