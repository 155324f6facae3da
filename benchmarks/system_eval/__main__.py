"""``python -m benchmarks.system_eval``."""

import sys

from benchmarks.system_eval.command import main

if __name__ == "__main__":
    sys.exit(main())
