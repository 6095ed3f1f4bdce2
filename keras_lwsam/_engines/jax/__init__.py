"""Training on JAX."""

from keras_lwsam._engines.jax.engine import JaxEngine

__all__ = ["JaxEngine"]
