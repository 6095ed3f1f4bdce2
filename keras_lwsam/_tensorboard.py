"""TensorBoard event files, written by TensorFlow."""


def summary_writer(log_dir):
    """A writer of event files into a directory."""
    import tensorflow as tf

    return tf.summary.create_file_writer(str(log_dir))


def write_scalars(writer, scalars, step):
    """Writes a dict from tag to number at a step.

    Reading the files takes TensorBoard; writing them does not.
    """
    import tensorflow as tf

    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = "scalars"
    with writer.as_default():
        for tag, number in scalars.items():
            value = tf.constant(number, tf.float32)
            tf.summary.write(tag, value, step=step, metadata=metadata)
    writer.flush()
