"""Input pipelines of the big examples: from examples to batches, seeded.

What an epoch shows depends on the seed and on the number of the epoch alone:
training that goes on where it was stopped sees what it would have seen.
"""

import dataclasses
import importlib
import pathlib
import sys
from collections.abc import Callable

import keras
import numpy as np
import small_task
import tensorflow as tf


def unchanged(x):
    """The same."""
    return x


@dataclasses.dataclass
class Examples:
    """Single examples `(x, y)`, as they are read.

    Attributes:
        train: `tf.data.Dataset` to train on, in a fixed order.
        test: The same, to test on.
        train_size: Number of examples to train on.
        test_size: Number of examples to test on.
        classes: Number of classes.
        name: What the results call them.
        decode: What makes an input of what is read, such as an image of its
            file; done after shuffling.
    """

    train: tf.data.Dataset
    test: tf.data.Dataset
    train_size: int
    test_size: int
    classes: int
    name: str
    decode: Callable = unchanged


@dataclasses.dataclass
class Data:
    """Batches, and what they are of.

    Attributes:
        train: `tf.data.Dataset` of batches, one epoch.
        test: `tf.data.Dataset` of batches.
        steps: Batches in an epoch.
        classes: Number of classes.
        summary: Dict for the results: name, sizes.
        clock: A callback that `train` needs, or `None`.
    """

    train: tf.data.Dataset
    test: tf.data.Dataset
    steps: int
    classes: int
    summary: dict
    clock: keras.callbacks.Callback | None = None

    @property
    def input_shape(self):
        """Shape of one input, where it is one tensor."""
        return tuple(self.train.element_spec[0].shape[1:])


class Clock(keras.callbacks.Callback):
    """Tells the pipeline which epoch it is."""

    def __init__(self, seed):
        super().__init__()
        self.seed, self.epoch = seed, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def __call__(self):
        yield np.array([self.seed, self.epoch], "int64")


def batches(
    args, examples, augment=None, prepare=None, mix=None, buffer=50_000
):
    """The `Data` of examples, shuffled anew in each epoch.

    Args:
        args: The command line: `batch_size`, `limit`, `seed`.
        examples: `Examples`; the first `--limit` are trained on.
        augment: Function of `x, y, seed`, with a seed for the stateless
            functions of `tf.random` and `tf.image`; makes of an example what
            is trained on. Defaults to `None`: `prepare`.
        prepare: Function of `x, y`, makes of an example what is tested on.
            Defaults to `None`: it stays as it is.
        mix: Function of `x, y` on whole batches to train on, or `None`.
        buffer: Out of how many examples the next is drawn.
    """
    size = min(examples.train_size, args.limit or examples.train_size)
    if args.batch_size > size:
        sys.exit(f"--batch-size {args.batch_size}: there are {size} examples.")
    steps = size // args.batch_size
    clock = Clock(args.seed)
    prepare = prepare or (lambda x, y: (x, y))
    augment = augment or (lambda x, y, seed: prepare(x, y))
    parallel = {"num_parallel_calls": tf.data.AUTOTUNE}

    def epoch(now):
        seed = tf.random.stateless_uniform(
            (3,), now, minval=None, maxval=None, dtype=tf.int64
        )
        # Of this function; where it is 0, no seed of a shuffle can be a tensor.
        tf.compat.v1.set_random_seed(1)
        shuffled = examples.train.take(size).shuffle(
            min(buffer, size), seed=seed[0], reshuffle_each_iteration=False
        )
        return shuffled.enumerate().map(
            lambda index, example: augment(
                examples.decode(example[0]),
                example[1],
                tf.random.fold_in(seed[1:], index),
            ),
            **parallel,
        )

    now = tf.TensorSpec((2,), tf.int64)
    train = tf.data.Dataset.from_generator(clock, output_signature=now)
    train = train.flat_map(epoch).batch(args.batch_size, drop_remainder=True)
    if mix is not None:
        train = train.map(mix, **parallel)
    train = train.apply(tf.data.experimental.assert_cardinality(steps))
    test = examples.test.map(
        lambda x, y: prepare(examples.decode(x), y), **parallel
    ).batch(args.batch_size)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return Data(
        *(d.prefetch(2).with_options(options) for d in (train, test)),
        steps=steps,
        classes=examples.classes,
        summary={
            "name": examples.name,
            "train": size,
            "test": examples.test_size,
            "classes": examples.classes,
        },
        clock=clock,
    )


def need(module, extra):
    """A module of an optional package, or how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        sys.exit(f"{error}. Install it: pip install 'keras-lwsam[{extra}]'")


def catalogue(args, name, test_split="test", **arguments):
    """Builder info and the two splits of a set of tensorflow-datasets.

    Args:
        args: The command line: `data_dir`.
        name: Name in the catalogue, such as "cifar10".
        test_split: The split to test on.
        **arguments: Further arguments of `tfds.load`.
    """
    datasets = need("tensorflow_datasets", "datasets")
    (train, test), info = datasets.load(
        name,
        split=["train", test_split],
        data_dir=args.data_dir,
        with_info=True,
        **arguments,
    )
    return info, train, test


def images(args, name, test_split="test"):
    """`Examples` of images in [0, 1], of three channels, with labels.

    With `--offline`: those of an npz file, or scikit-learn's digits.

    Args:
        args: The command line: `offline`, `data_dir`.
        name: Name in the catalogue of tensorflow-datasets.
        test_split: The split to test on.
    """
    if args.offline is not None:
        train, test = small_task.load(args.offline or None)
        return Examples(
            tf.data.Dataset.from_tensor_slices(train),
            tf.data.Dataset.from_tensor_slices(test),
            train_size=len(train[1]),
            test_size=len(test[1]),
            classes=int(train[1].max()) + 1,
            name=pathlib.Path(args.offline).name or "digits",
            decode=in_color,
        )
    raw = need("tensorflow_datasets", "datasets").decode.SkipDecoding()
    info, train, test = catalogue(
        args,
        name,
        test_split,
        as_supervised=True,
        # Files take less room in the buffer that they are shuffled in.
        decoders={"image": raw},
    )
    shape = (*info.features["image"].shape[:2], 3)

    def decode(file):
        image = tf.io.decode_image(file, channels=3, expand_animations=False)
        image.set_shape(shape)
        return tf.image.convert_image_dtype(image, tf.float32)

    return Examples(
        train,
        test,
        train_size=len(train),
        test_size=len(test),
        classes=info.features["label"].num_classes,
        name=name,
        decode=decode,
    )


def in_color(image):
    """An image of three channels."""
    one = image.shape[-1] == 1
    return tf.image.grayscale_to_rgb(image) if one else image


def standardized(examples, sample=1000):
    """Images whose channels have about mean 0 and standard deviation 1.

    Args:
        examples: `Examples` of images.
        sample: How many of them, the first to train on, give mean and
            deviation.
    """
    total, squares, count = 0.0, 0.0, 0
    for x, _ in examples.train.take(sample):
        image = examples.decode(x).numpy().astype("float64")
        total += image.sum((0, 1))
        squares += (image**2).sum((0, 1))
        count += image.shape[0] * image.shape[1]
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 1e-6))
    mean, deviation = mean.astype("float32"), deviation.astype("float32")
    return dataclasses.replace(
        examples, decode=lambda x: (examples.decode(x) - mean) / deviation
    )


def one_hot(examples):
    """Labels as vectors, which label smoothing and mixed images need."""
    train, test = (
        split.map(lambda x, y: (x, tf.one_hot(y, examples.classes)))
        for split in (examples.train, examples.test)
    )
    return dataclasses.replace(examples, train=train, test=test)


def crop_and_flip(args):
    """Augmentation for `batches`: shifts by up to an eighth, and mirrors.

    Of CIFAR's images that are 4 pixels. What comes in at the border is the
    image reflected. Digits, whose mirror images are none, are not mirrored.
    """

    def augment(image, label, seed):
        pad = max(1, image.shape[0] // 8)
        seeds = tf.random.split(seed)
        padded = tf.pad(image, ((pad, pad), (pad, pad), (0, 0)), "REFLECT")
        shifted = tf.image.stateless_random_crop(padded, image.shape, seeds[0])
        return mirrored(args, shifted, seeds[1]), label

    return augment


def resized_crop(args):
    """Augmentation for `batches`: parts of the image, and mirrors.

    As is usual for ImageNet: of 8 to 100 % of the area, with an aspect ratio
    of 3/4 to 4/3, brought to `args.image_size`.
    """
    whole = tf.zeros((1, 0, 4))

    def augment(image, label, seed):
        seeds = tf.random.split(seed)
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.shape(image),
            whole,
            seeds[0],
            area_range=(0.08, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3),
            min_object_covered=0.1,
            use_image_if_no_bounding_boxes=True,
        )
        part = tf.slice(image, begin, size)
        part.set_shape((None, None, image.shape[-1]))
        part = tf.image.resize(part, (args.image_size,) * 2)
        return mirrored(args, part, seeds[1]), label

    return augment


def center_crop(args):
    """For `batches`: 7/8 of the smaller side, brought to `args.image_size`."""

    def prepare(image, label):
        shape = tf.shape(image)
        side = 7 * tf.reduce_min(shape[:2]) // 8
        begin = (shape[:2] - side) // 2
        part = image[begin[0] : begin[0] + side, begin[1] : begin[1] + side]
        return tf.image.resize(part, (args.image_size,) * 2), label

    return prepare


def mirrored(args, image, seed):
    """The image or its mirror image; of scikit-learn's digits, the image."""
    if args.offline == "":
        return image
    return tf.image.stateless_random_flip_left_right(image, seed)
