"""Input pipelines of the big examples: from examples to batches, seeded.

What an epoch shows depends on the seed and on the number of the epoch alone:
training that goes on where it was stopped sees what it would have seen.
"""

import dataclasses
import importlib
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
    """`Examples` of images in [0, 1] with labels.

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
            name=args.offline or "digits",
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
    shape = info.features["image"].shape

    def decode(file):
        image = tf.io.decode_image(
            file, channels=shape[-1], expand_animations=False
        )
        image.set_shape(shape)
        return tf.image.convert_image_dtype(image, tf.float32)

    return Examples(
        train,
        test,
        train_size=info.splits["train"].num_examples,
        test_size=info.splits[test_split].num_examples,
        classes=info.features["label"].num_classes,
        name=name,
        decode=decode,
    )


def crop_and_flip(args):
    """Augmentation for `batches`: shifts by up to an eighth, and mirrors.

    Of CIFAR's images that are 4 pixels. What comes in at the border is the
    image reflected. Digits, whose mirror images are none, are not mirrored.
    """

    def augment(image, label, seed):
        height, width, channels = image.shape
        pad = max(1, height // 8)
        seeds = tf.random.split(seed)
        padded = tf.pad(image, ((pad, pad), (pad, pad), (0, 0)), "REFLECT")
        image = tf.image.stateless_random_crop(
            padded, (height, width, channels), seeds[0]
        )
        if args.offline != "":
            image = tf.image.stateless_random_flip_left_right(image, seeds[1])
        return image, label

    return augment
