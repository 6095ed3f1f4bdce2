"""Selections: which layers are perturbed."""

import numbers
from decimal import Decimal

from keras_lwsam.selection.base import Observations, Selection, check_number
from keras_lwsam.selection.by_gradient_norm import (
    LargestGradientNorm,
    SmallestGradientNorm,
)
from keras_lwsam.selection.by_identity import ByPath, ByType
from keras_lwsam.selection.by_position import (
    All,
    InputSide,
    OutputSide,
    Random,
)
from keras_lwsam.selection.kernels_only import KernelsOnly
from keras_lwsam.selection.presets import (
    Head,
    LastBlocks,
    Normalization,
    preset,
)
from keras_lwsam.selection.within_budget import WithinBudget

__all__ = [
    "All",
    "ByPath",
    "ByType",
    "Head",
    "InputSide",
    "KernelsOnly",
    "LargestGradientNorm",
    "LastBlocks",
    "Normalization",
    "Observations",
    "OutputSide",
    "Random",
    "Selection",
    "SmallestGradientNorm",
    "WithinBudget",
    "get",
]

# A quarter of the layers, chosen once an epoch: "few critical layers" as in the
# paper, and few traces. Accuracy did not decide between the numbers tried; see
# benchmarks/records/2026-11-21_default_selection.
DEFAULT = LargestGradientNorm(0.25)


def get(layers) -> Selection:
    """The selection that the `layers` argument of `LWSAMModel` describes.

    Args:
        layers: `None` (the default selection), an int, a float in (0, 1],
            `"all"`, `"15%"` (a budget), `"head"`, `"last_blocks:N"`,
            `"normalization"`, a layer path or regular expression, a list of
            those, or a `Selection`.

    Returns:
        A `Selection`.

    Raises:
        TypeError: If `layers` is none of these.
        ValueError: If a number is out of range, or a pattern is malformed.

    Example:

    >>> from keras_lwsam import selection
    >>> selection.get("all")
    All()
    >>> selection.get("last_blocks:2")
    LastBlocks(num_blocks=2)
    >>> selection.get("12.5%")
    WithinBudget(overhead=0.125)
    """
    if layers is None:
        return DEFAULT
    if isinstance(layers, Selection):
        return layers
    if isinstance(layers, str):
        return _by_name(layers)
    if isinstance(layers, numbers.Real):
        check_number("layers", layers)
        return LargestGradientNorm(layers)
    if isinstance(layers, (list, tuple)):
        return ByPath(*layers)
    raise TypeError(
        "`layers` must be None, a number of layers, a share of them, 'all', "
        "a budget such as '15%', 'head', 'last_blocks:N', 'normalization', a "
        "layer path, a list of layer paths, or a `selection.Selection`. "
        f"Received: layers={layers!r} (of type {type(layers).__name__})"
    )


def _by_name(text):
    if text == "all":
        return All()
    if not text.endswith("%"):
        return preset(text) or ByPath(text)
    try:
        # Of decimal digits: 15 % are 0.15, not 0.15 and a little more.
        return WithinBudget(float(Decimal(text[:-1].strip()) / 100))
    except (ArithmeticError, ValueError) as error:
        raise ValueError(
            "`layers='15%'` says how much slower a step may get, in per cent "
            f"above 0. Received: layers={text!r}"
        ) from error
