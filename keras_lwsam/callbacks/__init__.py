"""Callbacks: looking at training, and going on with it."""

from keras_lwsam.callbacks.backup_and_restore import BackupAndRestore
from keras_lwsam.callbacks.layer_norm_tracker import LayerNormTracker
from keras_lwsam.callbacks.run_recorder import RunRecorder
from keras_lwsam.callbacks.sharpness_tracker import SharpnessTracker
from keras_lwsam.callbacks.trajectory_recorder import TrajectoryRecorder

__all__ = [
    "BackupAndRestore",
    "LayerNormTracker",
    "RunRecorder",
    "SharpnessTracker",
    "TrajectoryRecorder",
]
