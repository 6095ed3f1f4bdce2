"""Sharpness-aware training on several machines, by `fit`.

Without the environment variable TF_CONFIG, this starts `--workers` processes on
this machine and, as a cluster manager would, starts all of them again when one
dies; training goes on from the last epoch that all have backed up. (Try it:
kill one.) With TF_CONFIG it is one of the workers: run it so on each machine of
a cluster, with the TF_CONFIG of `tf.distribute.MultiWorkerMirroredStrategy`.

Prints what the first worker logs and writes its epochs to epochs.json, and its
weights to weights.npz, in the directory `--output`.
"""

import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def parse(arguments=None):
    """The command line."""
    from small_task import add_training_arguments, positive

    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--workers",
        type=positive,
        default=2,
        help="processes to start on this machine (default: %(default)s)",
    )
    parser.add_argument(
        "--restarts",
        type=int,
        default=3,
        help="how often to start them again at most (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("multi_worker"),
        help="directory for backups and results (default: %(default)s)",
    )
    add_training_arguments(parser, epochs=5, batch_size=64)
    return parser.parse_args(arguments)


def work(args):
    """One worker: builds the model under the strategy and trains it."""
    import tensorflow as tf

    # Before anything else touches TensorFlow: it meets the other workers.
    strategy = tf.distribute.MultiWorkerMirroredStrategy()

    import keras
    import numpy as np
    from small_task import build_network, compiled, load

    from keras_lwsam import LWSAMModel, callbacks

    (x_train, y_train), (x_test, y_test) = load(args.data)
    keras.utils.set_random_seed(args.seed)
    with strategy.scope():
        network = build_network(x_train.shape[1:], int(y_train.max()) + 1)
        model = LWSAMModel(
            network, args.method, rho=args.rho, layers=args.layers
        )
        compiled(model, args.learning_rate)
    cluster = strategy.cluster_resolver
    has_chief = "chief" in cluster.cluster_spec().jobs
    is_first = cluster.task_id == 0 and (
        cluster.task_type == "chief" or not has_chief
    )
    args.output.mkdir(parents=True, exist_ok=True)
    watchers = [callbacks.BackupAndRestore(args.output / "backup")]
    if is_first:
        print(f"{strategy.num_replicas_in_sync} replicas", flush=True)
        # In front: an epoch that is backed up is written down already, and
        # one that is trained again replaces what was written of it.
        watchers.insert(0, write_epochs(args.output / "epochs.json"))
    model.fit(
        x_train,
        y_train,
        batch_size=args.batch_size,
        epochs=args.epochs,
        callbacks=watchers,
        # The digits come shuffled. In the same order each epoch, a run that was
        # interrupted sees what it would have seen.
        shuffle=False,
        verbose=2 if is_first else 0,
    )
    # All workers take part in what reads or counts, one prints.
    result = model.evaluate(x_test, y_test, verbose=0, return_dict=True)
    if is_first:
        np.savez(args.output / "weights.npz", *network.get_weights())
        print(f"Test accuracy {result['accuracy']:.2%}", flush=True)


def write_epochs(path):
    """A callback that keeps the logs of all epochs in a file."""
    import keras

    known = json.loads(path.read_text()) if path.exists() else {}

    def write(epoch, logs):
        known[str(epoch)] = logs
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(known, indent=1))
        os.replace(unfinished, path)

    return keras.callbacks.LambdaCallback(on_epoch_end=write)


def free_ports(count):
    """Ports that nobody uses now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start(count):
    """Starts the workers on this machine; returns their processes."""
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(count)]}
    processes = []
    for index in range(count):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": cluster, "task": task})
        processes.append(
            subprocess.Popen(
                [sys.executable, *sys.argv],
                env={**os.environ, "TF_CONFIG": config},
            )
        )
    return processes


def watch(processes):
    """Waits for all to end, or for one to fail; returns whether all is well."""
    while any(process.poll() is None for process in processes):
        if any(process.poll() for process in processes):
            break
        time.sleep(0.2)
    for index, process in enumerate(processes):
        if process.poll():
            print(f"Worker {index} died ({process.returncode}).", flush=True)
        process.kill()
        process.wait()
    return all(process.returncode == 0 for process in processes)


def main():
    """Is one of the workers, or starts all of them."""
    args = parse()
    if "TF_CONFIG" in os.environ:
        work(args)
        return
    for _ in range(1 + args.restarts):
        processes = start(args.workers)
        for index, process in enumerate(processes):
            print(f"Worker {index}: process {process.pid}", flush=True)
        if watch(processes):
            return
        print("Starting all again from the last backup.", flush=True)
    sys.exit("The workers died too often.")


if __name__ == "__main__":
    main()
