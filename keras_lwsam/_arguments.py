"""Checks of plain arguments. Each returns the value, ready to be used."""

import math
import numbers
import os
from collections.abc import Collection


def real(name, value, minimum=-math.inf, maximum=math.inf):
    """A finite real number between `minimum` and `maximum`, as a float."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"`{name}` must be a real number. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or not minimum <= number <= maximum:
        raise ValueError(
            f"`{name}` must be {_interval(minimum, maximum)}. "
            f"Received: {name}={value!r}"
        )
    return number


def count(name, value, minimum=1):
    """An integer that is at least `minimum`, which is 0 or 1."""
    expected = "a positive int" if minimum else "a non-negative int"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(
            f"`{name}` must be {expected}. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    if value < minimum:
        raise ValueError(
            f"`{name}` must be {expected}. Received: {name}={value!r}"
        )
    return int(value)


def share_or_count(name, value):
    """A share in (0, 1], as a float, or a positive integer."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return count(name, value)
    return share(name, value)


def share(name, value):
    """A share in (0, 1], as a float."""
    number = real(name, value, 0.0, 1.0)
    if number == 0.0:
        raise ValueError(
            f"`{name}` must be a share in (0, 1]. Received: {name}={value!r}"
        )
    return number


def positive(name, value):
    """A finite real number above 0, as a float."""
    number = real(name, value, minimum=0.0)
    if number == 0.0:
        raise ValueError(
            f"`{name}` must be positive. Received: {name}={value!r}"
        )
    return number


def threshold(name, value):
    """A real number, which may be infinite."""
    if isinstance(value, float) and math.isinf(value):
        return value
    return real(name, value)


def instance(name, value, expected, hint):
    """An instance of a class."""
    if not isinstance(value, expected):
        raise TypeError(
            f"`{name}` must be {hint}. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    return value


def boolean(name, value):
    """`True` or `False`."""
    if not isinstance(value, bool):
        raise TypeError(
            f"`{name}` must be True or False. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    return value


def path(name, value):
    """A path of the file system, or `None`."""
    if value is not None and not isinstance(value, str | os.PathLike):
        raise TypeError(
            f"`{name}` must be a path. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    return value


def choice(name, value, choices):
    """One of `choices`, strings or `None`."""
    if not isinstance(value, str | None) or value not in choices:
        expected = ", ".join(repr(c) for c in choices)
        raise ValueError(
            f"`{name}` must be one of {expected}. Received: {name}={value!r}"
        )
    return value


def refresh(value):
    """`"epoch"`, a number of steps, or `None`."""
    if value is None or (isinstance(value, str) and value == "epoch"):
        return value
    if (
        isinstance(value, bool)
        or not isinstance(value, numbers.Integral)
        or value < 1
    ):
        raise ValueError(
            "`refresh` must be 'epoch', a positive number of steps, or None. "
            f"Received: refresh={value!r}"
        )
    return int(value)


def epochs(name, value):
    """Every so many epochs, an int, or a collection of epochs."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return count(name, value)
    if isinstance(value, str) or not isinstance(value, Collection):
        raise TypeError(
            f"`{name}` must be a positive int, every so many epochs, or a "
            "collection of epochs, counted from 0. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    return frozenset(count(name, epoch, minimum=0) for epoch in value)


def _interval(minimum, maximum):
    if maximum < math.inf:
        return f"a finite number between {minimum:g} and {maximum:g}"
    if minimum > -math.inf:
        return f"a finite number that is at least {minimum:g}"
    return "a finite number"
