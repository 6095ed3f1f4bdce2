"""`methods`: the methods, and the card of each."""

from keras_lwsam import _cards, methods
from keras_lwsam._command_line.arguments import CommandError, UsageError

TEXT = """\
The methods in one line each; or the card of one of them: its rule, arguments,
cost and caveats.
"""
EXAMPLES = """\
examples:
  keras-lwsam methods
  keras-lwsam methods look_sam
"""


def add_to(commands):
    """Adds the command to the parser."""
    command = commands.add_parser(
        "methods",
        help="list the methods, or print the card of one",
        description=TEXT,
        epilog=EXAMPLES,
    )
    command.add_argument("name", metavar="NAME", nargs="?", help="a method")
    command.set_defaults(run=run)


def run(arguments):
    """Prints the list, or the card."""
    if arguments.name is None:
        width = max(map(len, methods.NAMES))
        for name, method in methods.NAMES.items():
            print(f"{name:{width}}  {method.__doc__.strip().splitlines()[0]}")
        return
    try:
        name = methods.name_of(arguments.name.lower())
    except ValueError as error:
        raise UsageError(error) from error
    try:
        print(_cards.read(name), end="")
    except FileNotFoundError as error:
        raise CommandError(error) from error
