"""The same as ``detseg convert``, for those who work in a checkout."""

import sys

from detseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
