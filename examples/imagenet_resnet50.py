"""ResNet-50 on ImageNet.

From Goyal et al. (2017, arXiv:1706.02677): SGD with momentum 0.9, a rate of 0.1
for 256 images (scale it with `--batch-size`), reached in 5 epochs of linear
warm-up; 90 epochs; averages of BatchNorm with momentum 0.9; blocks that begin
as the identity, and a small classifier; parts of the images of 8 to 100 % of
the area, mirrored; weight decay 1e-4, in the gradient, here of all weights.
Usual since, and in Foret et al. (2021, arXiv:2010.01412): a cosine schedule,
and labels smoothed by 0.1. From there: SAM's radius for ImageNet, 0.05.
`--layers all` is SAM; the default is layer-wise SAM.

ImageNet is not free to download: put its archives into `downloads/manual` of
`--data-dir`, as tensorflow-datasets says of `imagenet2012`. With `--offline`,
on scikit-learn's digits or an npz file such as Fashion-MNIST. A small network
is ResNet-8, and takes images of 32 pixels.
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
        "imagenet_resnet50",
        reference={
            "epochs": 90,
            "batch_size": 256,
            "learning_rate": 0.1,
            "weight_decay": 1e-4,
            "rho": 0.05,
        },
        offline={"epochs": 10, "batch_size": 64, "learning_rate": 0.025},
    )
    parser.add_argument(
        "--image-size", type=positive, help="pixels a side (224; small 32)"
    )
    args = recipe.parse(parser, arguments)
    args.image_size = args.image_size or (32 if args.small else 224)
    return args


def load(args):
    """Standardized parts of images, and labels as vectors."""
    examples = pipelines.images(args, "imagenet2012", "validation")
    return pipelines.batches(
        args,
        pipelines.one_hot(pipelines.standardized(examples)),
        augment=pipelines.resized_crop(args),
        prepare=pipelines.center_crop(args),
        buffer=10_000,
    )


def build(args, data):
    """The network."""
    if args.small:
        network = residual_networks.resnet20(
            data.classes, 0.0, data.input_shape, momentum=0.9, blocks=1
        )
    else:
        body = keras.applications.ResNet50(
            include_top=False,
            weights=None,
            input_shape=data.input_shape,
            pooling="avg",
        )
        for layer in body.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = 0.9
                if layer.name.endswith("_3_bn"):
                    # The last of a block.
                    layer.gamma.assign(keras.ops.zeros(layer.gamma.shape))
        head = keras.layers.Dense(
            data.classes,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            # Also in mixed precision.
            dtype="float32",
            name="logits",
        )
        network = keras.Model(body.input, head(body.output), name="resnet50")
    return recipe.decay_weights(network, args.weight_decay)


def settings(args, data):
    """The arguments of `compile`."""
    return {
        "optimizer": recipe.sgd(args, data, warmup=5),
        "loss": keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=0.1
        ),
        "metrics": [
            "accuracy",
            keras.metrics.TopKCategoricalAccuracy(5, name="top_5"),
        ],
    }


def main(arguments=None):
    """Trains, tests, and writes the results."""
    return recipe.run(parse(arguments), load, build, settings)


if __name__ == "__main__":
    main()
