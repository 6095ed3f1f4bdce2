"""Checks of plain arguments. Each returns the value, ready to be used."""

import math
import numbers
import os


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


def count(name, value):
    """A positive integer."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(
            f"`{name}` must be a positive int. "
            f"Received: {name}={value!r} (of type {type(value).__name__})"
        )
    if value < 1:
        raise ValueError(
            f"`{name}` must be a positive int. Received: {name}={value!r}"
        )
    return int(value)


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


def _interval(minimum, maximum):
    if maximum < math.inf:
        return f"a finite number between {minimum:g} and {maximum:g}"
    if minimum > -math.inf:
        return f"a finite number that is at least {minimum:g}"
    return "a finite number"
