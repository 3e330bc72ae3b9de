"""The same as ``detseg export``, for those who work in a checkout."""

import sys

from detseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
