"""A KerasCV classifier on Imagenette, with RandAugment and CutMix.

A ResNet-18 of KerasCV, randomly initialised, on the ten classes of ImageNet
that make up Imagenette. SGD as for ImageNet (Goyal et al. 2017,
arXiv:1706.02677): momentum 0.9, a rate of 0.1 for 256 images, 5 epochs of
warm-up, weight decay 1e-4, in the gradient; with a cosine schedule. CutMix as
there in Yun et al. (2019, arXiv:1905.04899): every batch, alpha 1. RandAugment
as there in Cubuk et al. (2020, arXiv:1909.13719): 2 operations of magnitude 9
out of 10. SAM's radius for ImageNet, 0.05 (Foret et al. 2021,
arXiv:2010.01412). The number of epochs, 100, and images of 160 pixels are this
example's own choice. `--layers all` is SAM; the default is layer-wise SAM.

Both augmentations draw from generators of their own: a run that goes on after
an interruption sees other draws than one that was not interrupted.

With `--offline`, on scikit-learn's digits or an npz file such as Fashion-MNIST.
A small network has two blocks, and takes images of 32 pixels.
"""

import dataclasses

import keras
import pipelines
import recipe
from small_task import positive


def parse(arguments=None):
    """The command line."""
    parser = recipe.parser(
        __doc__,
        "keras_cv_classifier",
        reference={
            "epochs": 100,
            "batch_size": 256,
            "learning_rate": 0.1,
            "weight_decay": 1e-4,
            "rho": 0.05,
        },
        offline={"epochs": 10, "batch_size": 64, "learning_rate": 0.025},
    )
    parser.add_argument(
        "--image-size", type=positive, help="pixels a side (160; small 32)"
    )
    parser.add_argument(
        "--operations",
        type=int,
        default=2,
        help="of RandAugment, on each image; 0: none (%(default)s)",
    )
    parser.add_argument(
        "--magnitude",
        type=float,
        default=0.9,
        help="of those operations, in [0, 1] (%(default)s)",
    )
    parser.add_argument(
        "--cutmix",
        type=float,
        default=1.0,
        help="alpha of CutMix; 0: none (%(default)s)",
    )
    args = recipe.parse(parser, arguments)
    args.image_size = args.image_size or (32 if args.small else 160)
    return args


def mixture(args):
    """RandAugment and CutMix of whole batches."""
    keras_cv = pipelines.need("keras_cv", "cv")
    steps = []
    if args.operations:
        steps.append(
            keras_cv.layers.RandAugment(
                value_range=(0, 255),
                augmentations_per_image=args.operations,
                magnitude=args.magnitude,
                seed=args.seed,
            )
        )
    if args.cutmix:
        steps.append(keras_cv.layers.CutMix(alpha=args.cutmix, seed=args.seed))

    def mix(images, labels):
        batch = {"images": images, "labels": labels}
        for step in steps:
            batch = step(batch, training=True)
        return batch["images"], batch["labels"]

    return mix


def load(args):
    """Parts of images, with values from 0 to 255, and labels as vectors."""
    examples = pipelines.images(args, "imagenette/160px-v2", "validation")
    in_bytes = dataclasses.replace(
        examples, decode=lambda x: 255 * examples.decode(x)
    )
    return pipelines.batches(
        args,
        pipelines.one_hot(in_bytes),
        augment=pipelines.resized_crop(args),
        prepare=pipelines.center_crop(args),
        mix=mixture(args),
    )


def build(args, data):
    """A backbone of KerasCV and a classifier on it.

    Its presets, even those without weights, would be downloaded.
    """
    models = pipelines.need("keras_cv", "cv").models
    filters, blocks = (64, 128, 256, 512), (2, 2, 2, 2)
    if args.small:
        filters, blocks = (64, 128), (1, 1)
    backbone = models.ResNetBackbone(
        stackwise_filters=list(filters),
        stackwise_blocks=list(blocks),
        stackwise_strides=[1] + [2] * (len(filters) - 1),
        block_type="basic_block",
        include_rescaling=True,
        input_shape=data.input_shape,
    )
    network = models.ImageClassifier(
        backbone=backbone, num_classes=data.classes, activation=None
    )
    return recipe.decay_weights(network, args.weight_decay)


def settings(args, data):
    """The arguments of `compile`."""
    return {
        "optimizer": recipe.sgd(args, data, warmup=5),
        "loss": keras.losses.CategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
    }


def main(arguments=None):
    """Trains, tests, and writes the results."""
    return recipe.run(parse(arguments), load, build, settings)


if __name__ == "__main__":
    main()
