"""What a record says of the machine and the packages it was made with."""

import csv
import importlib.metadata
import json
import os
import platform


def describe():
    """Dict of versions, processor and cores."""
    packages = ("keras", "tensorflow", "jax", "torch", "keras-hub")
    packages += ("tf_keras", "numpy")
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "packages": versions,
        "system": platform.system(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
    }


def write(path, configuration):
    """Writes the environment and a configuration as JSON."""
    with open(path, "w") as file:
        json.dump(
            {**describe(), "configuration": configuration}, file, indent=1
        )
        file.write("\n")


def record(folder, columns, rows, configuration):
    """Writes environment.json and results.csv: what there is so far.

    Args:
        folder: A `pathlib.Path`, made if it is missing.
        columns: Names of the columns.
        rows: List of dicts.
        configuration: Dict of what was measured how.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "environment.json", configuration)
    with open(folder / "results.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _processor():
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()
