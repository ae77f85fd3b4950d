"""`python -m fundl`: the command line."""

import sys

from fundl.cli import main

if __name__ == "__main__":
    sys.exit(main())
