"""``python -m benchmarks.studies.evidence``."""

import sys

from benchmarks.studies.manifest.command import main

if __name__ == "__main__":
    sys.exit(main())
