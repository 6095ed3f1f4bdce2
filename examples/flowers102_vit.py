"""Fine-tunes a Vision Transformer to tell flowers apart.

Oxford Flowers (Nilsback and Zisserman 2008) has 102 kinds, ten images of each
to train on, and 6,149 images to test on. An epoch goes through them 25 times.
`--offline` trains a small transformer on an npz file such as Fashion-MNIST, or
on scikit-learn's digits.

As Dosovitskiy et al. 2021 (arXiv:2010.11929, table 4) fine-tune on these
flowers: SGD with momentum 0.9, batches of 512, no weight decay, clipping to a
global norm of 1, a cosine schedule of 500 steps (here 490); of their learning
rates the largest, which is the default of their code, and as there parts of the
images, mirrored. They do so at 384 x 384 pixels; the size here is that of the
preset. An epoch of warm-up, rho (the default of SAM), and all values of
`--offline`: our choice.
"""

import dataclasses

import keras
import pipelines
import recipe
import tensorflow as tf

PASSES = 25


def parse(arguments=None):
    """The command line."""
    parser = recipe.parser(
        __doc__,
        "flowers102_vit",
        reference={
            "epochs": 10,
            "batch_size": 512,
            "learning_rate": 0.03,
            "weight_decay": 0.0,
            "rho": 0.05,
        },
        offline={"batch_size": 64, "learning_rate": 0.1},
    )
    parser.add_argument(
        "--preset",
        default="vit_base_patch16_224_imagenet21k",
        help="a ViT of KerasHub, or the directory of one (%(default)s)",
    )
    return recipe.parse(parser, arguments)


def load(args):
    """Images of one size, in [0, 255] as presets take them."""
    args.image_size = 28
    if not args.small:
        hub = pipelines.need("keras_hub", "hub")
        converter = hub.layers.ImageConverter.from_preset(args.preset)
        args.image_size = converter.image_size[0]
    size = (args.image_size, args.image_size)
    examples = pipelines.images(args, "oxford_flowers102")
    examples = dataclasses.replace(
        examples, decode=lambda x, decode=examples.decode: 255.0 * decode(x)
    )

    def prepare(image, label):
        return tf.image.resize(image, size), label

    if args.offline is not None:
        shift = pipelines.crop_and_flip(args)

        def augment(image, label, seed):
            return shift(*prepare(image, label), seed)

        return pipelines.batches(args, examples, augment, prepare)
    examples = dataclasses.replace(
        examples,
        train=examples.train.repeat(PASSES),
        train_size=examples.train_size * PASSES,
    )
    # The buffer holds files of all passes: some hundred megabytes.
    return pipelines.batches(
        args, examples, pipelines.resized_crop(args), prepare, buffer=4_000
    )


def small_classifier(data):
    """A ViT of 4 layers, randomly initialised."""
    hub = pipelines.need("keras_hub", "hub")
    converter = hub.layers.ViTImageConverter(
        image_size=data.input_shape[:2], scale=1 / 127.5, offset=-1.0
    )
    backbone = hub.models.ViTBackbone(
        image_shape=data.input_shape,
        patch_size=7,
        num_layers=4,
        num_heads=4,
        hidden_dim=64,
        mlp_dim=128,
    )
    return hub.models.ViTImageClassifier(
        backbone,
        data.classes,
        hub.models.ViTImageClassifierPreprocessor(converter),
    )


def build(args, data):
    """The classifier: pretrained, or small."""
    if args.small:
        classifier = small_classifier(data)
    else:
        hub = pipelines.need("keras_hub", "hub")
        classifier = hub.models.ImageClassifier.from_preset(
            args.preset, num_classes=data.classes
        )
    return recipe.decay_weights(classifier, args.weight_decay)


def settings(args, data):
    """The arguments of `compile`."""
    return {
        "optimizer": recipe.sgd(args, data, warmup=1, global_clipnorm=1.0),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
    }


def main(arguments=None):
    """Fine-tunes, or trains a small classifier."""
    return recipe.run(parse(arguments), load, build, settings)


if __name__ == "__main__":
    main()
