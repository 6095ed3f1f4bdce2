"""Prints a record of `step_cost` as the README's table."""

import argparse
import csv

NETWORKS = ("resnet20", "vit", "bert")
TITLES = ("ResNet-20", "ViT", "BERT")


def table(path):
    """Markdown lines."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    cells = {(row["network"], row["way"]): row for row in rows}
    head = [f"{t}: time | operations" for t in TITLES]
    yield f"| step | {' | '.join(head)} |"
    yield "|---" * 7 + "|"
    for way in dict.fromkeys(row["way"] for row in rows):
        line = []
        for network in NETWORKS:
            row = cells.get((network, way))
            line.append(f"{float(row['time_ratio']):.2f}" if row else "")
            line.append(row["operations"] if row else "")
        yield f"| {way} | {' | '.join(line)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", help="a results.csv of step_cost")
    print(*table(parser.parse_args().results), sep="\n")


if __name__ == "__main__":
    main()
