"""``python -m benchmarks.studies.transfer``."""

import sys

from benchmarks.studies.transfer.command import main

if __name__ == "__main__":
    sys.exit(main())
