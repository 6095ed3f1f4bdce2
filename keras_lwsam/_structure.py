"""Where the blocks of a network, and its head, are."""

import collections
import re

import keras

# How families of flat networks name the layers of a block. What the groups
# hold is the name of the block.
_NAMES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # ResNet, DenseNet, EfficientNet, ConvNeXt, MobileNetV2, VGG, Xception.
        r"((?:.*?_)?(?:stage_?\d+_)?block_?\d+[a-z]?)(?:_.*)?",
        # MobileNetV3.
        r"(expanded_conv(?:_\d+)?)_.*",
        # MobileNet: a block is a depthwise and a pointwise convolution.
        r"conv_(?:dw|pw)_(\d+)(?:_bn)?",
        # NASNet.
        r"(?:normal|reduction|adjust|separable)_.*_((?:stem_|reduce_)?\d+)",
    )
]


def blocks_of(paths, owners) -> list[str | None]:
    """The name of the block that each layer lies in; `None`: in no block.

    A block is one of several parts of the same class that lie side by side,
    as the layers of a transformer do; the outermost such part, but no stage,
    which is a row of blocks. Where at least half of the layers lie in none, as
    in a flat network, blocks are what the names of at least half say.

    Args:
        paths: Paths of the layers.
        owners: For each layer, `(name, part)` pairs: the parts of the network
            that it lies in, from the outside.
    """
    families = collections.defaultdict(set)
    for chain in owners:
        for _, family, part in _parts(chain):
            families[family].add(id(part))
    blocks = [
        next(
            (
                path
                for path, family, part in _parts(chain)
                if len(families[family]) > 1 and not _is_stage(part)
            ),
            None,
        )
        for chain in owners
    ]
    names = [path.rpartition("/")[2] for path in paths]
    by_names = (
        [match and match[1] for match in map(pattern.fullmatch, names)]
        for pattern in _NAMES
    )
    for found in (blocks, *by_names):
        if 2 * found.count(None) <= len(paths):
            return found
    return [None] * len(paths)


def _parts(chain):
    """Of each part in a chain: its path, what siblings share, the part."""
    path, parent = "", None
    for name, part in chain:
        path = f"{path}/{name}" if path else name
        yield path, (parent, type(part)), part
        parent = id(part)


def _is_stage(part):
    return "stage" in type(part).__name__.lower()


def head_of(paths, owners) -> list[bool]:
    """Whether each layer lies in the head.

    The head is the part called `head`; else what lies behind the backbone, an
    inner network with at least half of the layers; else the last layer. Where
    nothing lies behind the backbone there is none.

    Args:
        paths: Paths of the layers, input side first.
        owners: As for `blocks_of`.
    """
    named = ["head" in path.split("/") for path in paths]
    if any(named):
        return named
    inner = [
        id(chain[0][1])
        if chain and isinstance(chain[0][1], keras.Model)
        else None
        for chain in owners
    ]
    last = len(paths) - 2
    for part in set(inner) - {None}:
        if 2 * inner.count(part) >= len(paths):
            last = max(i for i, other in enumerate(inner) if other == part)
    return [i > last for i in range(len(paths))]
