"""Training data from a folder with a folder of images, or of texts, for each class."""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ladle.export.data.dataset import BYTE_PIXELS, Dataset
from ladle.export.data.holdout import Labels, holdout
from ladle.export.data.holdout import split as hold_out
from ladle.export.data.pictures import Source, decode
from ladle.export.data.texts import read_text, text_dataset
from ladle.export.errors import DataError

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
_TEXTS = (".txt",)
_NAMED = 5
_ARCHIVE_LEFTOVER = "__MACOSX"


def read_folder(
    path: Path, size: tuple[int, int] | None = None, *, group_by: str | None = None
) -> Dataset:
    """Read the images under `path`, a folder for each class, named as the class.

    Where there are folders `train` and `test`, these hold the classes of the two parts. All images
    are brought to `size`, or to the size of most; they are read in colour if any has colours.
    Hidden files and folders are passed over, and so is what macOS puts into archives. Where no
    file is an image, `.txt` files in UTF-8 are the examples, each one text.

    Args:
        path: The folder.
        size: Height and width of the images; None for those of most.
        group_by: A regular expression that finds in a file's path below `path`, such as
            `cats/anna-3.jpg`, the group that it belongs to: the expression's first group, or all
            that it matches. All files of a group are trained on, or all are held out.

    Raises:
        DataError: There are none, fewer than two classes, or one cannot be read.
    """
    parts = [path / "train", path / "test"]
    split = not all(part.is_dir() for part in parts)
    if group_by is not None and not split:
        raise DataError(f"{path}: group by: its folders train and test say what is held out")
    roots = [path] if split else parts
    kinds = _IMAGES if any(_class_files(root, _IMAGES) for root in roots) else _TEXTS
    if kinds is _TEXTS and not any(_class_files(root, _TEXTS) for root in roots):
        kinds = _IMAGES
    listings = [_list_classes(root, kinds) for root in roots]
    passed_over = _passed_over(roots, kinds)
    labels = tuple(sorted(listings[0]))
    if len(labels) < 2:
        raise DataError(
            f"{path}: expected a folder of images for each class, at least two;"
            f" got {', '.join(labels) or 'none'}"
        )
    files: list[Path] = []
    targets: list[int] = []
    parts_held: list[NDArray[np.bool_]] = []
    for index, listing in enumerate(listings):
        for label, members in listing.items():
            if label not in labels:
                raise DataError(f"{path}: test: class {label} has no images to train on")
            files.extend(members)
            targets.extend([labels.index(label)] * len(members))
            parts_held.append(holdout(len(members)) if split else np.full(len(members), index == 1))
    held_out, notes = np.concatenate(parts_held), tuple[str, ...]()
    groups = None
    if group_by is not None:
        groups = _groups(path, files, group_by)
        held_out, notes = hold_out(str(path), np.array(targets), groups, regression=False)
    notes += passed_over
    if kinds is _TEXTS:
        texts = [read_text(file) for file in files]
        return text_dataset(
            path.name, texts, held_out, np.array(targets), labels, groups=groups, notes=notes
        )
    sources: list[Source] = [(str(file), partial(Path, file)) for file in files]
    decoded = decode(path.name, lambda: sources, held_out, size, notes)
    return decoded.dataset(path.name, np.array(targets), labels, BYTE_PIXELS, groups=groups)


def _groups(path: Path, files: list[Path], group_by: str) -> NDArray[np.int64]:
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise DataError(
            f"group by: expected a regular expression, got {group_by}: {error}"
        ) from None
    groups = Labels()
    for file in files:
        below = file.relative_to(path).as_posix()
        found = pattern.search(below)
        name = found and (found[1] if pattern.groups else found[0])
        if not name:
            raise DataError(f"{file}: group by: {group_by} finds no group in {below}")
        groups.add(name)
    return groups.result()[1]


def _class_files(path: Path, kinds: tuple[str, ...]) -> bool:
    """Return whether a folder below `path` has a file of these kinds."""
    try:
        return any(
            file.suffix.lower() in kinds
            for folder in _visible(path)
            if folder.is_dir()
            for file in _visible(folder)
        )
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _list_classes(path: Path, kinds: tuple[str, ...]) -> dict[str, list[Path]]:
    try:
        listing: dict[str, list[Path]] = {}
        for folder in _visible(path):
            if folder.is_dir():  # blanks around a name don't count, as in a table
                files = [file for file in _visible(folder) if file.suffix.lower() in kinds]
                listing.setdefault(folder.name.strip(), []).extend(files)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    what = "texts" if kinds is _TEXTS else "images"
    for name, files in listing.items():
        if not files:
            raise DataError(f"{path / name}: expected {what} ({', '.join(kinds)}), got none")
    return listing


def _passed_over(roots: list[Path], kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Return a note about what lies among the examples and is none."""
    try:
        others = Counter(
            file.suffix.lower() or file.name
            for root in roots
            for folder in _visible(root)
            if folder.is_dir()
            for file in _visible(folder)
            if file.suffix.lower() not in kinds
        )
    except OSError as error:
        raise DataError(f"{roots[0]}: cannot be read: {error.strerror or error}") from error
    if not others:
        return ()
    named = ", ".join(f"{count} {kind}" for kind, count in others.most_common(_NAMED))
    return (f"{others.total()} entries are passed over, which are not {', '.join(kinds)}: {named}",)


def _visible(folder: Path) -> list[Path]:
    return [
        entry
        for entry in sorted(folder.iterdir())
        if not entry.name.startswith(".") and entry.name != _ARCHIVE_LEFTOVER
    ]
