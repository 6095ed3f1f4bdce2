"""What the commands have in common: their parser, options and errors."""

import argparse


class CommandError(Exception):
    """An error that is told in one line."""

    exit_code = 1


class UsageError(CommandError):
    """The command was not given what it takes."""

    exit_code = 2


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and whose texts keep their lines."""

    def __init__(self, **kwargs):
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **kwargs,
        )

    def error(self, message):
        self.exit(
            2, f"keras_lwsam: error: {message} (see `{self.prog} --help`)\n"
        )


def add_network(command):
    """Adds the arguments of a command that looks at a saved network."""
    command.add_argument(
        "file",
        metavar="MODEL.keras",
        help="a saved network, or a saved LWSAMModel",
    )
    command.add_argument(
        "--batch-size",
        type=positive,
        default=32,
        metavar="N",
        help="samples in a batch (default: 32)",
    )
    command.add_argument(
        "--length",
        type=positive,
        default=128,
        metavar="N",
        help="size of other dimensions that the network leaves open, such as "
        "the length of a sequence (default: 128)",
    )
    command.add_argument(
        "--json", action="store_true", help="print JSON, for other programs"
    )


def positive(text):
    """A positive integer, from the command line."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(
            f"expected a positive integer. Received: {text!r}"
        )
    return number
