"""``python -m detseg``, and with it ``torchrun -m detseg``."""

import sys

from detseg.cli import main

if __name__ == "__main__":
    sys.exit(main())
