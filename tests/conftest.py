"""What every test shares: the CPU, four devices of it, and a clean start."""

import gc
import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import pytest
import tensorflow as tf

# Logical devices of one processor: replicas for a MirroredStrategy.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 4,
)


# What is imported stays, and so do many graphs, in TensorFlow's registries: to
# search them for garbage again and again takes a good part of the time.
gc.freeze()
gc.set_threshold(100_000, 50, 100)


@pytest.fixture(autouse=True, scope="module")
def _collect_garbage():
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _clean_start():
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
    # Garbage is collected after each module.
    keras.utils.clear_session(free_memory=False)
