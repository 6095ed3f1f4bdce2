"""Pictures and a report of training runs. Drawing needs matplotlib."""

from keras_lwsam.plots.comparison import comparison
from keras_lwsam.plots.curves import (
    model_norm_curves,
    norm_curves,
    sharpness_curves,
    training_curves,
)
from keras_lwsam.plots.landscapes import landscape, surface
from keras_lwsam.plots.layers import layer_norms
from keras_lwsam.plots.page import report
from keras_lwsam.plots.run import Run
from keras_lwsam.plots.run import read as read_run
from keras_lwsam.plots.spectra import eigenvalue_spectrum, layer_sharpness

__all__ = [
    "Run",
    "comparison",
    "eigenvalue_spectrum",
    "landscape",
    "layer_norms",
    "layer_sharpness",
    "model_norm_curves",
    "norm_curves",
    "read_run",
    "report",
    "sharpness_curves",
    "surface",
    "training_curves",
]
