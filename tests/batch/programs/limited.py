"""`ladle predict` in a process whose files can't have more than some bytes: `limited.py BYTES ...`.

To a program this looks like a full disk.
"""

from __future__ import annotations

import resource
import sys

from ladle.cli import main

if __name__ == "__main__":
    size = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    sys.exit(main(["predict", *sys.argv[2:]]))
