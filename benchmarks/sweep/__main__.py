"""``python -m benchmarks.sweep``."""

import sys

from benchmarks.sweep.command import main

if __name__ == "__main__":
    sys.exit(main())
