"""One .parquet file with images: its columns, row groups and the metadata of Hugging Face."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from geocollapse.data.columns import Columns, Table

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import FileMetaData

_IMAGES = ("image", "img")  # columns
_LABELS = ("label", "labels")


@dataclass(frozen=True)
class Shard:
    """A .parquet file.

    Attributes:
        path: of the file.
        metadata: its footer.
        image_column: of the images.
        label_column: of the labels.
        class_names: name of class 0, 1, ... as Hugging Face's metadata have it, else None.
    """

    path: Path
    metadata: FileMetaData
    image_column: str
    label_column: str
    class_names: tuple[str, ...] | None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.metadata.num_rows)

    @property
    def group_sizes(self) -> list[int]:
        """Number of rows of each row group."""
        groups = range(self.metadata.num_row_groups)
        return [int(self.metadata.row_group(group).num_rows) for group in groups]

    def read_images(self, group: int) -> pa.ChunkedArray:
        """The column of images of one row group."""
        with damage_named(self.path):
            file = import_parquet().ParquetFile(self.path, metadata=self.metadata)
            with file:
                columns = [self.image_column]
                return file.read_row_group(group, columns, use_threads=False).column(0)

    def read_labels(self) -> pa.ChunkedArray:
        """The column of labels."""
        with damage_named(self.path):
            file = import_parquet().ParquetFile(self.path, metadata=self.metadata)
            with file:
                return file.read([self.label_column], use_threads=False).column(0)


def read_shard(path: Path, columns: Columns) -> Shard:
    """The footer of a file.

    Raises:
        ImportError: pyarrow is missing (the pip command is named).
        ValueError: no .parquet file, missing columns, or no images in the column of images.
    """
    with damage_named(path), import_parquet().ParquetFile(path) as file:
        metadata, schema = file.metadata, file.schema_arrow
    table = Table(path.name, schema.names, "image and label", "in the table")
    image = table.column("image_column", columns.image_column, _IMAGES)
    label = table.column("label_column", columns.label_column, _LABELS)
    if metadata.num_rows:  # columns of an empty table may have no type
        _check_images(schema.field(image), path)
    return Shard(path, metadata, image, label, _class_names(schema.metadata or {}, label))


def import_parquet() -> ModuleType:
    """pyarrow.parquet, or an ImportError with the command that installs it."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            'data: expected pyarrow, which is not installed; do pip install "geocollapse[vision]"'
        ) from error
    module: ModuleType = pyarrow.parquet
    return module


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Let errors of pyarrow name the file."""
    import_parquet()
    import pyarrow as pa

    try:
        yield
    except (FileNotFoundError, PermissionError):  # these name the file
        raise
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"data: expected a .parquet file, got {path}, which cannot be read ({reason}); do "
            f"replace it"
        ) from error


def _check_images(column: pa.Field, path: Path) -> None:
    """Raise a ValueError unless a column holds encoded images or their paths."""
    import pyarrow as pa

    kind = column.type
    inner = [kind.field(i) for i in range(kind.num_fields)] if pa.types.is_struct(kind) else []
    of_name = {part.name: part.type for part in inner} or {"bytes": kind, "path": kind}
    if _is_binary(of_name.get("bytes")) or _is_text(of_name.get("path")):
        return
    raise ValueError(
        f"image_column: expected a struct of bytes or path, got {kind} in column {column.name} of "
        f"{path.name}; do write the encoded images, as Hugging Face's data sets do"
    )


def _is_binary(kind: pa.DataType | None) -> bool:
    import pyarrow as pa

    return kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType | None) -> bool:
    import pyarrow as pa

    return kind is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _class_names(metadata: Mapping[bytes, bytes], column: str) -> tuple[str, ...] | None:
    """The names of a ClassLabel; None without one."""
    try:
        found = json.loads(metadata.get(b"huggingface", b"{}"))
        names = found["info"]["features"][column]["names"]
    except (ValueError, LookupError, TypeError):  # other metadata, or a column of another kind
        return None
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names, key=int)]
    return tuple(map(str, names))
