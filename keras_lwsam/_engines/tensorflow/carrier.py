"""How the steps of TensorFlow are called: several of them in one graph."""

from keras_lwsam._engines.carriers import Variables


class Graphs(Variables):
    """Values stay in the variables; a graph may take several steps."""

    takes_several = True

    def count(self, iterator):
        # `train_on_batch` has no iterator of a dataset, and one batch.
        is_dataset = hasattr(iterator, "element_spec")
        return super().count(iterator) if is_dataset else 1
