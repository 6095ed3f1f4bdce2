"""Training on TensorFlow."""

from keras_lwsam._engines.tensorflow.engine import TensorFlowEngine

__all__ = ["TensorFlowEngine"]
