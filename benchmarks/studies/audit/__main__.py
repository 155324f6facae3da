"""``python -m benchmarks.studies.audit``."""

import sys

from benchmarks.studies.audit.command import main

if __name__ == "__main__":
    sys.exit(main())
