"""Schema versions of the files of a run: older ones are read, newer ones refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

# The version of each file that this code writes. A file without a version is of version 1.
#   state.json 2: the whole state of the optimizer (1: momentum buffers of SGD alone)
VERSIONS: Mapping[str, int] = {
    "sweep.yaml": 1,
    "config.yaml": 1,
    "history.jsonl": 1,
    "result.json": 1,
    "state.json": 2,
}


def check_version(content: Mapping[str, object], path: Path) -> None:
    """Refuse the content of a file that was written by a newer version of this package.

    Raises:
        ValueError: its ``schema_version`` is newer than this code knows.
    """
    version = content.get("schema_version", 1)
    known = VERSIONS[path.name.removesuffix(".gz")]
    if not isinstance(version, int) or version > known:
        raise ValueError(
            f"{path}: expected schema_version {known} or older, got {version!r}; "
            "do update geocollapse"
        )


def versioned(name: str, content: Mapping[str, object]) -> dict[str, object]:
    """The content of the file ``name`` with its version in front."""
    return {"schema_version": VERSIONS[name], **content}


def unversioned(content: Mapping[str, object]) -> dict[str, object]:
    """The content of a file without its version."""
    return {key: value for key, value in content.items() if key != "schema_version"}
