"""Images in class folders, read one at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from geocollapse.data.image_files import FilesOfFolder, ImageFiles
from geocollapse.data.labelled import UNLABELLED, About, LabelledImages
from geocollapse.data.naming import in_order
from geocollapse.data.pixels import one_at_a_time
from geocollapse.data.preprocessing import ImagePreprocessing, import_torchvision

_NO_CLASSES = ("__MACOSX", "__pycache__")  # folders that programs leave behind

_Seen = set[tuple[int, int]]  # device and inode of the folders that were read, or never will be


def read_folder(
    path: Path,
    name: str,
    split: str,
    preprocessing: ImagePreprocessing,
    *,
    require_labels: bool = True,
) -> LabelledImages:
    """The images of a folder with one folder for each class, whose name is the class's.

    Hidden files and folders are left out. Links are followed, and each folder is read once: a link
    that leads back to a folder above, or into another class, adds nothing.

    Args:
        path: of the folder.
        name: of the data set.
        split: recorded with it.
        preprocessing: of each image.
        require_labels: refuse a folder of images without class folders, whose images are of one
            class, ``unlabelled``.

    Raises:
        ValueError: no class folders, one without images, two that are the same folder, or a file
            that cannot be read like an image, such as a named pipe.
    """
    found = {entry.name: entry.path for entry in _entries(path) if _may_hold_images(entry)}
    if not found and not require_labels:
        found = {UNLABELLED: os.fspath(path)}
    classes = sorted(found)  # as torchvision's ImageFolder, on which models are trained
    _check_classes(path, {name: found[name] for name in classes})
    seen = {_identity(folder) for folder in found.values()}
    seen |= {_identity(folder) for folder in (path, *path.resolve().parents)}
    paths: list[str] = []
    labels: list[int] = []
    for label, class_name in enumerate(classes):
        images = _once(list(_images(found[class_name], seen)))
        if not images:
            raise ValueError(
                f"data: expected images in each class folder of {path}, got none in "
                f"{class_name!r}; do remove it, or give the folder above the classes"
            )
        paths += images
        labels += [label] * len(images)
    about = About(name, split, tuple(classes), notes=_note_on_order(classes))
    files = ImageFiles(FilesOfFolder(path, tuple(paths)), preprocessing)
    return one_at_a_time(files, torch.tensor(labels), about, preprocessing)


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What a folder holds, sorted by name, without hidden files and folders."""
    with os.scandir(folder) as entries:
        return sorted(
            (entry for entry in entries if not entry.name.startswith(".")),
            key=lambda entry: entry.name,
        )


def _may_hold_images(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir() and entry.name not in _NO_CLASSES


def _once(images: Sequence[os.DirEntry[str]]) -> list[str]:
    """The paths of images, without links to those that are there or were linked before."""
    if not any(image.is_symlink() for image in images):
        return [image.path for image in images]
    known = {os.path.realpath(image.path) for image in images if not image.is_symlink()}
    paths = []
    for image in images:
        target = os.path.realpath(image.path)
        if not image.is_symlink() or target not in known:
            known.add(target)
            paths.append(image.path)
    return paths


def _images(folder: str, seen: _Seen) -> Iterator[os.DirEntry[str]]:
    """The image files of a folder, then those of the folders in it that were not seen."""
    endings: tuple[str, ...] = import_torchvision().datasets.folder.IMG_EXTENSIONS
    entries = _entries(folder)
    for entry in entries:
        if entry.name.lower().endswith(endings) and not entry.is_dir():
            if not entry.is_file():
                raise ValueError(
                    f"data: expected image files, got {entry.path}, which is a broken link, a "
                    f"named pipe or a device; do remove it"
                )
            yield entry
    for entry in filter(_may_hold_images, entries):
        identity = _identity(entry.path)
        if identity not in seen:
            seen.add(identity)
            yield from _images(entry.path, seen)


def _identity(folder: str | os.PathLike[str]) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _check_classes(path: Path, found: dict[str, str]) -> None:
    if not found:
        raise ValueError(
            f"data: expected a folder for each class in {path}, got no folders; do move the images "
            f"of each class into one"
        )
    first: dict[tuple[int, int], str] = {}
    for name, folder in found.items():
        other = first.setdefault(_identity(folder), name)
        if other != name:
            raise ValueError(
                f"data: expected a folder for each class in {path}, got links that make {other!r} "
                f"and {name!r} the same one; do remove a link"
            )


def _note_on_order(classes: list[str]) -> tuple[str, ...]:
    """A note where the order of the classes is not that of their numbers."""
    if classes == in_order(classes):
        return ()
    return (
        "classes: numbered by letters (10 before 2), as torchvision's ImageFolder does; outputs of "
        "a model that numbers them by value fit other classes",
    )
