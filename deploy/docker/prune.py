"""Takes out of this Python's packages what a server never opens; run while the image is built.

Headers and static libraries are for building against a package, tests for its authors, and console
scripts for people at a shell.
"""

import shutil
import sysconfig
from pathlib import Path

SITE = Path(sysconfig.get_path("purelib"))
SCRIPTS = Path(sysconfig.get_path("scripts"))

FOLDERS = (
    "tensorflow/include",
    "tensorflow/tools/pip_package",
    "tensorflow/compiler/mlir/stablehlo",  # Python bindings that TensorFlow itself never imports
    "**/tests",
    "**/testdata",
)
FILES = ("**/*.h", "**/*.hpp", "**/*.a", "**/*.pyx", "**/*.pxd", "**/*_test.py", "**/*.pyi")
KEPT_SCRIPTS = ("python", "activate")


def main() -> None:
    """Remove it, and say how much that was."""
    before = size()
    for pattern in FOLDERS:
        for folder in sorted(SITE.glob(pattern), reverse=True):
            if folder.is_dir():
                shutil.rmtree(folder)
    for pattern in FILES:
        for file in SITE.glob(pattern):
            file.unlink()
    for script in SCRIPTS.iterdir():
        if not script.name.lower().startswith(KEPT_SCRIPTS):
            script.unlink()
    print(f"{before / 1e6:.0f} MB of packages, {size() / 1e6:.0f} MB after pruning")


def size() -> int:
    """Return the bytes of all files, as they are."""
    return sum(path.lstat().st_size for path in SITE.rglob("*") if not path.is_dir())


if __name__ == "__main__":
    main()
