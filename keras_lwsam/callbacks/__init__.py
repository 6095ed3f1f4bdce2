"""Callbacks: looking at training."""

from keras_lwsam.callbacks.layer_norm_tracker import LayerNormTracker

__all__ = ["LayerNormTracker"]
