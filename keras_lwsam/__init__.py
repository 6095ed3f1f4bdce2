"""Sharpness-aware training for Keras 3.

>>> from keras_lwsam import LWSAMModel, callbacks, methods, selection
"""

from keras_lwsam import callbacks, methods, schedules, selection
from keras_lwsam._version import __version__
from keras_lwsam.model import LWSAMModel

__all__ = [
    "LWSAMModel",
    "__version__",
    "callbacks",
    "methods",
    "schedules",
    "selection",
]
