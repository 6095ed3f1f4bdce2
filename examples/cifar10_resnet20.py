"""ResNet-20 on CIFAR-10, by layer-wise SAM.

Training as in the layer-wise paper

With `--offline`, on scikit-learn's digits or an npz file such as Fashion-MNIST.
"""

import keras
import pipelines
import recipe
import residual_networks


def parse(arguments=None):
    """The command line."""
    parser = recipe.parser(
        __doc__,
        "cifar10_resnet20",
        reference={
            "epochs": 200,
            "batch_size": 128,
            "learning_rate": 0.1,
            "weight_decay": 1e-4,
            "rho": 0.05,
        },
        offline={"epochs": 10, "batch_size": 64},
    )
    return recipe.parse(parser, arguments)


def load(args):
    """Images in [0, 1], shifted and mirrored in training."""
    return pipelines.batches(
        args,
        pipelines.images(args, "cifar10"),
        augment=pipelines.crop_and_flip(args),
    )


def build(args, data):
    """The network."""
    network = residual_networks.resnet20(
        data.classes,
        dropout=0.0,
        image_shape=data.input_shape,
        initializer="he_normal",
        momentum=0.9,
    )
    return recipe.decay_weights(network, args.weight_decay)


def settings(args, data):
    """The arguments of `compile`."""
    return {
        "optimizer": recipe.sgd(args, data),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
    }


def main(arguments=None):
    """Trains, tests, and writes the results."""
    return recipe.run(parse(arguments), load, build, settings)


if __name__ == "__main__":
    main()
