"""Methods: what becomes of the gradients in a training step."""

import difflib

from keras_lwsam.methods.base import Method, TwoGradientMethod, Update
from keras_lwsam.methods.gnp import GNP
from keras_lwsam.methods.sam import SAM

__all__ = ["GNP", "SAM", "Method", "TwoGradientMethod", "Update", "get"]

# What `method="..."` may name.
NAMES = {"gnp": GNP, "sam": SAM}


def get(method, rho=None) -> Method:
    """The method that the arguments of `LWSAMModel` describe.

    Args:
        method: A name, such as `"sam"`, or a `Method`.
        rho: Radius for a method given by name; its own default if `None`.

    Returns:
        A `Method`.

    Raises:
        TypeError: If `method` is neither a name nor a `Method`.
        ValueError: If the name is unknown, or `rho` accompanies a `Method`.

    Example:

    >>> from keras_lwsam import methods
    >>> methods.get("gnp", rho=0.05)
    GNP(rho=0.05, alpha=0.8)
    """
    if isinstance(method, Method):
        if rho is not None:
            raise ValueError(
                "`rho` is given twice: a `Method` instance has its own "
                f"radius. Write `method={type(method).__name__}(rho={rho!r})` "
                f"and leave `rho` out. Received: method={method!r}, "
                f"rho={rho!r}"
            )
        return method
    if not isinstance(method, str):
        raise TypeError(
            "`method` must be a name such as 'sam' or an instance of a class "
            "of `keras_lwsam.methods`, such as `methods.SAM(rho=0.05)`. "
            f"Received: method={method!r} (of type {type(method).__name__})"
        )
    if method not in NAMES:
        near = difflib.get_close_matches(method.lower(), NAMES, cutoff=0.4)
        hint = " or ".join(repr(n) for n in near)
        raise ValueError(
            f"`method` names no method of this library. "
            f"{f'Did you mean {hint}? ' if near else ''}"
            f"The names are: {', '.join(sorted(NAMES))}. "
            f"Received: method={method!r}"
        )
    return NAMES[method]() if rho is None else NAMES[method](rho=rho)
