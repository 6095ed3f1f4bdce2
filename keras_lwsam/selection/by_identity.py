"""Selections by name and by type."""

import dataclasses
import re

import keras

from keras_lwsam.selection.base import Selection, serializable


@serializable
@dataclasses.dataclass(frozen=True, init=False)
class ByPath(Selection):
    r"""The layers of given paths.

    A pattern is, in this order of precedence, a whole layer path; a regular
    expression that matches whole layer paths; or the name (the end of the
    path, or Keras's `layer.path`) of exactly one layer.

    Args:
        *patterns: Strings.

    >>> from keras_lwsam import selection
    >>> selection.ByPath("head", r"encoder/block_1\d/.*")
    ByPath(patterns=('head', 'encoder/block_1\\d/.*'))
    """

    patterns: tuple[str, ...]

    def __init__(self, *patterns: str):
        for pattern in patterns:
            if not isinstance(pattern, str):
                raise TypeError(
                    "`layers` (or `patterns`) must be layer paths or regular "
                    "expressions. "
                    f"Received: {pattern!r} (of type {type(pattern).__name__})"
                )
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    "`layers` (or `patterns`) must be layer paths or valid "
                    f"regular expressions: {error}. Received: {pattern!r}"
                ) from error
        object.__setattr__(self, "patterns", tuple(patterns))

    def resolve(self, layers, observations=None):
        found = (_matches(pattern, layers) for pattern in self.patterns)
        return tuple(sorted({i for matches in found for i in matches}))

    @classmethod
    def from_config(cls, config):
        return cls(*config["patterns"])


@serializable
@dataclasses.dataclass(frozen=True, init=False)
class ByType(Selection):
    """The layers of given classes.

    With the normalization layers this is SAM-ON, which needs about five times
    the radius of SAM.

    Args:
        *layer_classes: Subclasses of `keras.layers.Layer`.

    >>> import keras
    >>> from keras_lwsam import selection
    >>> sam_on = selection.ByType(
    ...     keras.layers.BatchNormalization, keras.layers.LayerNormalization
    ... )

    References:
        Mueller, Vlaar, Rolnick, Hein: Normalization Layers Are All That
        Sharpness-Aware Minimization Needs, NeurIPS 2023, arXiv:2306.04226.
    """

    layer_classes: tuple[type, ...]

    def __init__(self, *layer_classes: type):
        for layer_class in layer_classes:
            if not isinstance(layer_class, type) or not issubclass(
                layer_class, keras.layers.Layer
            ):
                raise TypeError(
                    "`layer_classes` must be subclasses of keras.layers.Layer,"
                    " such as keras.layers.BatchNormalization. "
                    f"Received: {layer_class!r}"
                )
        object.__setattr__(self, "layer_classes", tuple(layer_classes))

    def resolve(self, layers, observations=None):
        found = tuple(
            i
            for i, layer in enumerate(layers)
            if isinstance(layer.layer, self.layer_classes)
        )
        if self.layer_classes and not found:
            raise ValueError(
                "`layers` selects no trainable layer: none is of the given "
                f"types. Received: {self!r}. The layers: "
                f"{[(x.path, type(x.layer).__name__) for x in layers]}"
            )
        return found

    def get_config(self):
        return {
            "layer_classes": [
                keras.saving.get_registered_name(layer_class)
                for layer_class in self.layer_classes
            ]
        }

    @classmethod
    def from_config(cls, config):
        return cls(*(_layer_class(n) for n in config["layer_classes"]))


def _matches(pattern, layers):
    paths = [layer.path for layer in layers]
    if pattern in paths:
        return [paths.index(pattern)]
    found = [i for i, p in enumerate(paths) if re.fullmatch(pattern, p)]
    if found:
        return found
    found = [i for i, layer in enumerate(layers) if pattern in _names(layer)]
    if not found:
        raise ValueError(
            "`layers` selects no trainable layer. A pattern must match a "
            "whole layer path, such as 'encoder/block_1/.*', or be the name "
            f"of one layer. Received: {pattern!r}. The layer paths: {paths}"
        )
    if len(found) > 1:
        raise ValueError(
            f"`layers` is ambiguous: {pattern!r} is the name of "
            f"{len(found)} layers, {[paths[i] for i in found]}. Give a whole "
            "path, or a regular expression that matches all that you mean. "
            f"Received: {pattern!r}"
        )
    return found


def _names(layer):
    """What else a layer may be called: without parents, number, or root."""
    stem = re.sub(r":\d+$", "", layer.path)
    return {
        layer.path.split("/")[-1],
        layer.path.partition("/")[2],
        stem,
        stem.split("/")[-1],
        getattr(layer.layer, "path", None),
    }


def _layer_class(name):
    found = keras.saving.get_registered_object(name)
    found = found or getattr(keras.layers, name, None)
    if found is None:
        raise ValueError(
            f"The layer class {name!r} of a `ByType` selection is unknown. "
            "Register it with keras.saving.register_keras_serializable, or "
            "pass it as a custom object while loading."
        )
    return found
