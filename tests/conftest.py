"""What every test shares: the CPU, four devices of it, and a clean start.

The backend is that of the environment variable `KERAS_BACKEND`, TensorFlow by
default. Tests of what is one backend's own are marked with its name, and left
out on the others.
"""

import gc
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=4"
    if os.environ["KERAS_BACKEND"] == "jax"
    else "",
)

import keras
import pytest

BACKEND = keras.backend.backend()

if BACKEND == "tensorflow":
    import tensorflow as tf

    # Logical devices of one processor: replicas for a MirroredStrategy.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 4,
    )


def pytest_collection_modifyitems(config, items):
    """Leaves out what the backend at hand does not have."""
    others = {"tensorflow", "jax", "torch"} - {BACKEND} | {f"not_{BACKEND}"}
    kept = [
        item for item in items if not any(map(item.get_closest_marker, others))
    ]
    config.hook.pytest_deselected(items=[i for i in items if i not in kept])
    items[:] = kept


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
