"""Residual networks for small images: ResNet-20 and Wide ResNets."""

import keras


def resnet20(
    classes=10,
    dropout=0.1,
    image_shape=(32, 32, 3),
    initializer="glorot_uniform",
    momentum=0.99,
    keras=keras,
):
    """ResNet-20 for CIFAR (He et al. 2016), with dropout in each block.

    The shortcuts across stages are convolutions (option B of the paper).
    `momentum` is that of BatchNorm. `keras` may be another package of the same
    interface, such as `tf_keras`.
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
        for block in range(3):
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
    return keras.Model(inputs, outputs, name="resnet20")
