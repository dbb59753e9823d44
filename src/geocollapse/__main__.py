"""``python -m geocollapse``: the same as the command ``geocollapse``."""

import sys

from geocollapse.cli import main

if __name__ == "__main__":
    sys.exit(main())
