"""Entry point of ``python -m arraynn``."""

import sys

from arraynn.cli import main

if __name__ == "__main__":
    sys.exit(main())
