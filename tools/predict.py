"""The same as ``detseg predict``, for those who work in a checkout."""

import sys

from detseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
