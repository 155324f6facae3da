"""``python -m benchmarks.studies.amortised``."""

import sys

from benchmarks.studies.amortised.command import main

if __name__ == "__main__":
    sys.exit(main())
