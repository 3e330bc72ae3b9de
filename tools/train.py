"""The same as ``detseg train``, for those who work in a checkout."""

import sys

from detseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
