"""`python -m ullage` is the command `ullage`."""

import sys

from ullage.cli import main

sys.exit(main())
