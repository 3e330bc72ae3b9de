"""The same as ``detseg eval``, for those who work in a checkout."""

import sys

from detseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
