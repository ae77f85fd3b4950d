"""`python -m fundl`: the command line."""

import sys

from fundl.cli import main

sys.exit(main())
