"""TensorBoard event files, written by TensorFlow where it is installed."""


def summary_writer(log_dir):
    """A writer of event files into a directory."""
    import tensorflow as tf

    return tf.summary.create_file_writer(str(log_dir))


def write_scalars(writer, scalars, step):
    """Writes a dict from tag to number at a step, for TensorBoard."""
    import tensorflow as tf

    with writer.as_default():
        for tag, number in scalars.items():
            tf.summary.scalar(tag, number, step=step)
    writer.flush()
