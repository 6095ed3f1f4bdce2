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
        print(_cards.read(_named(arguments.name)), end="")
    except FileNotFoundError as error:
        raise CommandError(error) from error


def _named(text):
    """The name of the method that a user may mean by a text."""
    plain = {_plain(name): name for name in methods.NAMES}
    if _plain(text) not in plain:
        try:
            methods.get(text)  # It knows which names are near.
        except ValueError as error:
            raise UsageError(error) from error
    return plain[_plain(text)]


def _plain(name):
    return name.lower().replace("_", "").replace("-", "")
