"""`report`: the report of a recorded run."""

import pathlib

from keras_lwsam._command_line.arguments import CommandError

TEXT = """\
Writes the report of a recorded run, one HTML file that needs no other, and
prints its path.
"""
EXAMPLES = """\
examples:
  keras-lwsam report runs/first
  keras-lwsam report runs/first --output first.html
"""


def add_to(commands):
    """Adds the command to the parser."""
    command = commands.add_parser(
        "report",
        help="write the report of a recorded run",
        description=TEXT,
        epilog=EXAMPLES,
    )
    command.add_argument(
        "run_dir",
        metavar="RUN_DIR",
        type=pathlib.Path,
        help="the folder of the run",
    )
    command.add_argument(
        "--output",
        metavar="PATH",
        type=pathlib.Path,
        help="where to write it (default: into the folder)",
    )
    command.set_defaults(run=run)


def run(arguments):
    """Writes the report and prints its path."""
    if not arguments.run_dir.is_dir():
        raise CommandError(
            "There is no such folder. Expected that of a recorded run. "
            f"Received: {str(arguments.run_dir)!r}"
        )
    try:
        from keras_lwsam import plots

        print(plots.report(arguments.run_dir, arguments.output))
    except ImportError as error:
        raise CommandError(
            "Reports need more packages: pip install 'keras-lwsam[plots]'. "
            f"Received: {error}"
        ) from error
    except (OSError, TypeError, ValueError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise CommandError(error) from error
