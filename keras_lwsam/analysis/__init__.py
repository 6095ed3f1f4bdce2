"""Looking at a network: sharpness, curvature, loss landscapes."""

from keras_lwsam.analysis.directions import (
    Directions,
    LineTo,
    RandomDirections,
)
from keras_lwsam.analysis.hessian import hessian_eigenvalues, hessian_trace
from keras_lwsam.analysis.landscape import Landscape
from keras_lwsam.analysis.loss_landscape import loss_landscape
from keras_lwsam.analysis.objective import Objective
from keras_lwsam.analysis.sharpness import (
    Estimate,
    average_sharpness,
    sharpness,
)
from keras_lwsam.analysis.trajectory import TrajectoryPlane

__all__ = [
    "Directions",
    "Estimate",
    "Landscape",
    "LineTo",
    "Objective",
    "RandomDirections",
    "TrajectoryPlane",
    "average_sharpness",
    "hessian_eigenvalues",
    "hessian_trace",
    "loss_landscape",
    "sharpness",
]
