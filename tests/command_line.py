"""Commands to run, and files to run them on."""

import numpy as np

from keras_lwsam import LWSAMModel
from keras_lwsam._command_line import main
from tests.networks import vectors
from tests.support import cross_entropy, dense_network


def files(folder):
    """A network, and wrappers of it that have been trained or not."""
    network = dense_network(sizes=(5, 6, 6, 3))
    network.save(folder / "network.keras")
    model = LWSAMModel(network, layers=1)
    model.compile("sgd", cross_entropy())
    model.save(folder / "new.keras")
    model.fit(vectors(), np.zeros(12), verbose=0)
    model.save(folder / "run.keras")
    return folder


def run(capsys, *argv):
    """Exit code, output, and the error, which is one line or nothing."""
    try:
        code = main([str(argument) for argument in argv])
    except SystemExit as stop:
        code = stop.code
    output, error = capsys.readouterr()
    if code:
        assert output == ""
        assert error.startswith("keras_lwsam: error: ")
        assert error.count("\n") == 1
    else:
        assert error == ""
    return code, output, error
