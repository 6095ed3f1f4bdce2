"""Engines: what a training step needs of the backend, and nothing else."""

import keras


def current():
    """The engine class of the active Keras backend.

    Raises:
        RuntimeError: If there is none for it.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from keras_lwsam._engines.tensorflow import TensorFlowEngine

        return TensorFlowEngine
    if backend == "jax":
        from keras_lwsam._engines.jax import JaxEngine

        return JaxEngine
    if backend == "torch":
        from keras_lwsam._engines.torch import TorchEngine

        return TorchEngine
    raise RuntimeError(
        "keras_lwsam trains on the TensorFlow, JAX and PyTorch backends of "
        "Keras. Set the environment variable KERAS_BACKEND to one of "
        "tensorflow, jax and torch before keras is imported. "
        f"Received: backend {backend!r}"
    )
