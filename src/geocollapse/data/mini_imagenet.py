"""mini-ImageNet in its usual tree of image folders, which its licence lets nobody pass on."""

from __future__ import annotations

from pathlib import Path

NAME = "mini-imagenet"


def folder_of(root: Path) -> str:
    """mini-ImageNet under ``root`` as ``folder:PATH``.

    The tree is ``mini-imagenet/{train,val,test}/CLASS/IMAGE`` with 64, 16 and 20 classes.

    Source: Vinyals et al. (2016); splits of Ravi and Larochelle (2017).

    Raises:
        FileNotFoundError: no such tree.
    """
    path = root / NAME
    missing = [split for split in ("train", "val", "test") if not (path / split).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"data: expected {NAME}/train, val and test with a folder for each class under {root}, "
            f"missing {', '.join(missing)}, and no download, since ImageNet asks each user to "
            f"agree to its terms; do put them there, or --data-root / GEOCOLLAPSE_DATA to where "
            f"they are"
        )
    return f"folder:{path}"
