"""`python -m nnrepl`."""

import sys

from nnrepl.cli import main

sys.exit(main())
