"""`python -m packrank` is `packrank`."""

import sys

from packrank.commands.cli import main

sys.exit(main())
