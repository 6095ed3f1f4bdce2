"""The command line: `python -m keras_lwsam`, or `keras-lwsam`."""

import contextlib
import os
import pathlib
import sys
from collections.abc import Sequence

from keras_lwsam._command_line import cost, layers, methods, report
from keras_lwsam._command_line.arguments import CommandError, Parser
from keras_lwsam._version import __version__

TEXT = """\
Sharpness-aware training for Keras 3: what it would cost on a saved network,
reports of runs, and the methods.
"""
EXAMPLES = """\
examples:
  keras-lwsam layers network.keras
  keras-lwsam cost network.keras --layers 0.25
  keras-lwsam report runs/first
  keras-lwsam methods look_sam

Exit codes: 0 success, 1 failure (such as a damaged file), 2 wrong usage.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments after the name of the program. Defaults to those of
            the process.

    Returns:
        The exit code.

    Raises:
        SystemExit: After `--help` and `--version`, and on wrong usage.
    """
    with contextlib.suppress(AttributeError):
        # Names of layers may have letters that the terminal has not.
        sys.stdout.reconfigure(errors="replace")
    try:
        arguments = _parser().parse_args(argv)
        arguments.run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except CommandError as error:
        message = " ".join(str(error).split())
        print(f"keras_lwsam: error: {message}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read the output has seen enough. Python would complain when it
        # flushes what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"keras_lwsam: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _program():
    """What the user has called."""
    called = pathlib.Path(sys.argv[0]).name
    return "python -m keras_lwsam" if called == "__main__.py" else "keras-lwsam"


def _parser():
    parser = Parser(
        prog=_program(),
        description=TEXT,
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "--version", action="version", version=f"keras_lwsam {__version__}"
    )
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    for command in (layers, cost, report, methods):
        command.add_to(commands)
    return parser
