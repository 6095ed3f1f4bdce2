"""Leaves out the examples of backends that are not the one at hand.

They may not be installed.
"""

import os

_BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")

collect_ignore_glob = [
    f"keras_lwsam/_engines/{name}/*"
    for name in ("tensorflow", "jax", "torch")
    if name != _BACKEND
]
