"""``python -m benchmarks.prune``."""

import sys

from benchmarks.prune.command import main

sys.exit(main())
