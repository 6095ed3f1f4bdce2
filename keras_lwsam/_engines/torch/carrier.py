"""How a step of PyTorch is called: on a list with one batch."""

from keras_lwsam._engines.carriers import Variables


class Batches(Variables):
    """Values stay in the variables; a batch comes in a list."""

    def function(self, function):
        return lambda data: function(iter(data))

    def step(self, compiled):
        return lambda iterator: compiled([next(iterator)])
