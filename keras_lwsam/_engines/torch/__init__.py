"""Training on PyTorch."""

from keras_lwsam._engines.torch.engine import TorchEngine

__all__ = ["TorchEngine"]
