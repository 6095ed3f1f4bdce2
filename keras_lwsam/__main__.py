"""`python -m keras_lwsam`."""

import sys

from keras_lwsam._command_line import main

if __name__ == "__main__":
    sys.exit(main())
