"""Sharpness-aware training for Keras 3.

>>> from keras_lwsam import LWSAMModel, callbacks, methods, selection
"""

from keras_lwsam import (
    analysis,
    callbacks,
    costs,
    methods,
    plots,
    schedules,
    selection,
)
from keras_lwsam._version import __version__
from keras_lwsam.model import LWSAMModel

__all__ = [
    "LWSAMModel",
    "__version__",
    "analysis",
    "callbacks",
    "costs",
    "methods",
    "plots",
    "schedules",
    "selection",
]
