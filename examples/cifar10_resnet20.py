"""ResNet-20 on CIFAR-10.

From He et al. (2016, arXiv:1512.03385): the network, but for shortcuts that are
convolutions; its initialization; SGD with momentum 0.9 at a rate of 0.1;
batches of 128; weight decay 1e-4, in the gradient; 64,000 steps, which are 164
epochs; images shifted by up to 4 pixels and mirrored. From Foret et al. (2021,
arXiv:2010.01412) and their code: a cosine schedule instead of two drops of the
rate, borders filled by reflection, and SAM's radius for CIFAR-10, 0.05.
`--layers all` is SAM; the default is layer-wise SAM.

With `--offline`, on scikit-learn's digits or an npz file such as Fashion-MNIST.
A small network is ResNet-8.
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
            "epochs": 164,
            "batch_size": 128,
            "learning_rate": 0.1,
            "weight_decay": 1e-4,
            "rho": 0.05,
        },
        offline={"epochs": 10, "batch_size": 64},
    )
    return recipe.parse(parser, arguments)


def load(args):
    """Standardized images, shifted and mirrored in training."""
    examples = pipelines.images(args, "cifar10")
    return pipelines.batches(
        args,
        pipelines.standardized(examples),
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
        blocks=1 if args.small else 3,
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
