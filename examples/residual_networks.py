"""Residual networks for small images: ResNet-20, Wide ResNets."""

import keras


def resnet20(
    classes=10,
    dropout=0.1,
    image_shape=(32, 32, 3),
    initializer="glorot_uniform",
    momentum=0.99,
    blocks=3,
    keras=keras,
):
    """ResNet-20 for CIFAR (He et al. 2016), with dropout in each block.

    The shortcuts across stages are convolutions (option B of the paper).
    `momentum` is that of BatchNorm; one of `blocks` a stage makes it ResNet-8.
    `keras` may be another package of the same interface, such as `tf_keras`.
    """
    layers = keras.layers

    def convolution(x, filters, stride=1, kernel=3, activate=True):
        x = layers.Conv2D(
            filters,
            kernel,
            stride,
            padding="same",
            use_bias=False,
            kernel_initializer=initializer,
        )(x)
        x = layers.BatchNormalization(momentum=momentum)(x)
        return layers.ReLU()(x) if activate else x

    inputs = keras.Input(image_shape)
    x = convolution(inputs, 16)
    for stage, filters in enumerate((16, 32, 64)):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            y = convolution(x, filters, stride)
            y = layers.Dropout(dropout)(y)
            y = convolution(y, filters, activate=False)
            if stride > 1:
                x = convolution(x, filters, stride, kernel=1, activate=False)
            x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(dropout)(x)
    # Also in mixed precision.
    outputs = layers.Dense(classes, dtype="float32")(x)
    return keras.Model(inputs, outputs, name=f"resnet{6 * blocks + 2}")


def wide_resnet(
    depth=28, width=10, classes=100, image_shape=(32, 32, 3), momentum=0.9
):
    """Wide ResNet (Zagoruyko and Komodakis 2016), without dropout.

    Args:
        depth: Number of layers, 4 more than a multiple of 6.
        width: How many times as many filters as a thin one.
        classes: Number of classes.
        image_shape: Shape of an image.
        momentum: That of BatchNorm.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(
            "`depth` must be 4 more than a multiple of 6, such as 10, 16, 28 "
            f"or 40. Received: depth={depth}"
        )
    layers = keras.layers

    def activated(x, name):
        x = layers.BatchNormalization(momentum=momentum, name=f"{name}_norm")(x)
        return layers.ReLU(name=f"{name}_relu")(x)

    def convolution(x, filters, stride, kernel, name):
        return layers.Conv2D(
            filters,
            kernel,
            stride,
            padding="same",
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(
                2.0, "fan_out", "untruncated_normal"
            ),
            name=name,
        )(x)

    inputs = keras.Input(image_shape)
    x = convolution(inputs, 16, 1, 3, "conv")
    for group, filters in enumerate((16, 32, 64), start=1):
        for block in range(1, (depth - 4) // 6 + 1):
            name = f"group{group}_block{block}"
            stride = 2 if group > 1 and block == 1 else 1
            y = activated(x, f"{name}_in")
            # Where the shape changes, the shortcut starts behind the ReLU.
            if block == 1:
                x = convolution(y, filters * width, stride, 1, f"{name}_skip")
            y = convolution(y, filters * width, stride, 3, f"{name}_conv1")
            y = activated(y, f"{name}_mid")
            y = convolution(y, filters * width, 1, 3, f"{name}_conv2")
            x = layers.Add(name=f"{name}_add")([x, y])
    x = layers.GlobalAveragePooling2D(name="pool")(activated(x, "out"))
    # Also in mixed precision.
    outputs = layers.Dense(classes, dtype="float32", name="logits")(x)
    return keras.Model(inputs, outputs, name=f"wide_resnet_{depth}_{width}")
