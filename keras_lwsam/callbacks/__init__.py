"""Callbacks: looking at training, and going on with it."""

from keras_lwsam.callbacks.backup_and_restore import BackupAndRestore
from keras_lwsam.callbacks.layer_norm_tracker import LayerNormTracker

__all__ = ["BackupAndRestore", "LayerNormTracker"]
