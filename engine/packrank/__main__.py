"""`python -m packrank` is `packrank`."""

import sys

from packrank.cli import main

sys.exit(main())
