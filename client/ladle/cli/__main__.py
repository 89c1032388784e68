"""`python -m ladle.cli` is `ladle`."""

import sys

from ladle.cli import main

if __name__ == "__main__":
    sys.exit(main())
