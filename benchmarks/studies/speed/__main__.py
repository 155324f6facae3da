"""``python -m benchmarks.studies.speed``."""

import sys

from benchmarks.studies.speed.command import main

if __name__ == "__main__":
    sys.exit(main())
