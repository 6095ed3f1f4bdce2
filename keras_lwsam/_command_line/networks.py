"""Saved networks, and what steps on them cost."""

import contextlib
import importlib
import os
import pathlib
import sys
import warnings
import zipfile
from typing import NamedTuple

import keras

from keras_lwsam import LWSAMModel
from keras_lwsam._command_line.arguments import CommandError
from keras_lwsam.costs import Costs, layer_costs

# Their classes are registered when they are imported.
_PACKAGES = ("keras_hub", "keras_cv")


class Saved(NamedTuple):
    """A saved network.

    Attributes:
        network: The network.
        costs: What steps on it cost.
        wrapper: The `LWSAMModel` around it, or `None`.
    """

    network: keras.Model
    costs: Costs
    wrapper: LWSAMModel | None

    @property
    def selected(self) -> list[str]:
        """Paths of the layers that were perturbed when it was saved."""
        return self.wrapper.selected_layers if self.wrapper else []


def load(arguments) -> Saved:
    """The network in a file, and its costs.

    Args:
        arguments: Those of `arguments.add_network`.

    Raises:
        CommandError: If the file cannot be read.
    """
    path = pathlib.Path(arguments.file)
    _check(path)
    # Another process may be training on the GPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    with _silent():
        model = _load(path)
        wrapper = model if isinstance(model, LWSAMModel) else None
        network = wrapper.model if wrapper else model
        try:
            costs = layer_costs(
                network,
                batch_size=arguments.batch_size,
                length=arguments.length,
            )
        except (TypeError, ValueError) as error:
            raise CommandError(error) from error
    if not costs.layers:
        raise CommandError(
            "The network has no trainable layer, so there is nothing to "
            f"perturb. Received: {str(path)!r}"
        )
    if wrapper and wrapper.perturbation_norm == "all":
        costs = costs.adapted(of_all=True)
    return Saved(network, costs, wrapper)


def _check(path):
    expected = "Expected a file written by `model.save`, named ....keras."
    received = f"Received: {str(path)!r}"
    if not path.is_file():
        raise CommandError(f"There is no such file. {expected} {received}")
    if path.suffix != ".keras":
        raise CommandError(
            f"The name of the file does not end in .keras. {expected} "
            "Files of weights alone, and of other formats, do not tell what "
            f"the network is. {received}"
        )
    if not zipfile.is_zipfile(path):
        raise CommandError(f"The file is damaged. {expected} {received}")


def packages_in(path) -> list[str]:
    """The packages of tasks and backbones that a saved network is made with."""
    with zipfile.ZipFile(path) as archive:
        config = archive.read("config.json").decode()
    return [name for name in _PACKAGES if f'"{name}>' in config]


def _load(path):
    try:
        # Keras finds classes of packages that have been imported.
        for package in packages_in(path):
            importlib.import_module(package)
        # Not compiled: optimizer and loss say nothing about the network.
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:
        raise CommandError(
            "The file cannot be loaded: it is damaged, or it needs classes "
            "or functions of your own. Those are not executed from here; "
            "import them in Python, load the network, and call "
            "keras_lwsam.costs.layer_costs(network). "
            f"Received: {str(path)!r}; the error is "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, keras.Model):
        raise CommandError(
            "The file holds no keras.Model. "
            f"Received: {str(path)!r}, which holds a {type(model).__name__}"
        )
    return model


@contextlib.contextmanager
def _silent():
    """Leaves out what TensorFlow's runtime writes to the standard error."""
    try:
        sys.stderr.flush()
        descriptor = os.dup(2)
    except (AttributeError, OSError):
        # There is no standard error.
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        os.dup2(descriptor, 2)
        os.close(descriptor)
        os.close(nowhere)
