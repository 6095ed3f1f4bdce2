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
    raise RuntimeError(
        "keras_lwsam trains on the TensorFlow backend of Keras. Set the "
        "environment variable KERAS_BACKEND=tensorflow before keras is "
        f"imported. Received: backend {backend!r}"
    )
