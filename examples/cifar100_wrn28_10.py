"""Wide ResNet-28-10 on CIFAR-100.

From the code of Foret et al. (2021, arXiv:2010.01412), github.com/google-
research/sam: SGD with Nesterov momentum 0.9, a rate of 0.1 and a cosine
schedule; batches of 256; 200 epochs; weight decay 5e-4 of all weights, in the
gradient; gradients clipped to a norm of 5; images shifted by up to 4 pixels,
borders reflected, and mirrored. From the paper: SAM's radius for CIFAR-100,
0.1. The network is that of Zagoruyko and Komodakis (2016, arXiv:1605.07146),
with convolutions as shortcuts where the code pads. `--layers all` is SAM; the
default is layer-wise SAM.

With `--offline`, on scikit-learn's digits or an npz file such as Fashion-MNIST.
A small network is of depth 10 and width 1.
"""

import keras
import pipelines
import recipe
import residual_networks
from small_task import positive


def parse(arguments=None):
    """The command line."""
    parser = recipe.parser(
        __doc__,
        "cifar100_wrn28_10",
        reference={
            "epochs": 200,
            "batch_size": 256,
            "learning_rate": 0.1,
            "weight_decay": 5e-4,
            "rho": 0.1,
        },
        offline={"epochs": 10, "batch_size": 64},
    )
    parser.add_argument(
        "--depth",
        type=positive,
        help="layers, 4 more than a multiple of 6 (28; small 10)",
    )
    parser.add_argument(
        "--width", type=positive, help="multiple of the filters (10; small 1)"
    )
    args = recipe.parse(parser, arguments)
    args.depth = args.depth or (10 if args.small else 28)
    args.width = args.width or (1 if args.small else 10)
    if args.depth < 10 or (args.depth - 4) % 6:
        parser.error("--depth must be 4 more than a multiple of 6, as 10 or 28")
    return args


def load(args):
    """Standardized images, shifted and mirrored in training."""
    examples = pipelines.images(args, "cifar100")
    return pipelines.batches(
        args,
        pipelines.standardized(examples),
        augment=pipelines.crop_and_flip(args),
    )


def build(args, data):
    """The network."""
    network = residual_networks.wide_resnet(
        args.depth, args.width, data.classes, data.input_shape
    )
    return recipe.decay_weights(network, args.weight_decay)


def settings(args, data):
    """The arguments of `compile`."""
    return {
        "optimizer": recipe.sgd(args, data, nesterov=True, global_clipnorm=5.0),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
    }


def main(arguments=None):
    """Trains, tests, and writes the results."""
    return recipe.run(parse(arguments), load, build, settings)


if __name__ == "__main__":
    main()
