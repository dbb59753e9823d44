"""The named data sets: their source, content and normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class DataSource:
    """A named data set.

    Attributes:
        name: by which ``load`` finds it.
        description: its content in a few words.
        splits: its parts; ``all`` if it has none.
        n_classes: number of classes.
        shape: of one example; empty for texts.
        size_mb: of the download; 0 if it comes with the installation.
        files: paths under the data folder.
        mean: of each channel over the training images, pixels in [0, 1] (computed from them;
            tested); none for texts.
        std: standard deviation of each channel, likewise.
        source: where it comes from.
        licence: as its source states it.
        citation: who made it.
        downloads: address and SHA-256 of each file that no library fetches.
    """

    name: str
    description: str
    splits: tuple[str, ...]
    n_classes: int
    shape: tuple[int, ...]
    size_mb: int
    files: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    licence: str
    citation: str
    downloads: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def is_text(self) -> bool:
        """True if its examples are texts."""
        return not self.shape


_BANKING77 = (
    "https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets/master/banking_data/"
)
_CIFAR_SOURCE = "www.cs.toronto.edu/~kriz/cifar.html"
_CIFAR100 = {
    "shape": (3, 32, 32),
    "size_mb": 161,
    "files": ("cifar-100-python/train", "cifar-100-python/test", "cifar-100-python/meta"),
    "mean": (0.507075, 0.486549, 0.440918),
    "std": (0.267334, 0.256438, 0.276150),
    "source": _CIFAR_SOURCE,
    "licence": "none stated",
}

SOURCES: Mapping[str, DataSource] = {
    source.name: source
    for source in (
        DataSource(
            name="digits",
            description="handwritten digits, 1,797 grey images of 8 x 8",
            splits=("train", "test"),
            n_classes=10,
            shape=(1, 8, 8),
            size_mb=0,
            files=(),
            mean=(0.305383,),
            std=(0.376119,),
            source="scikit-learn, part of the installation",
            licence="CC BY 4.0",
            citation="Alpaydin and Kaynak 1998",
        ),
        DataSource(
            name="mnist",
            description="handwritten digits, 60,000 + 10,000 grey images of 28 x 28",
            splits=("train", "test"),
            n_classes=10,
            shape=(1, 28, 28),
            size_mb=12,
            files=tuple(
                f"MNIST/raw/{part}-{kind}"
                for part in ("train", "t10k")
                for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
            ),
            mean=(0.130660,),
            std=(0.308108,),
            source="yann.lecun.com/exdb/mnist",
            licence="none stated",
            citation="LeCun et al. 1998",
        ),
        DataSource(
            name="fashion-mnist",
            description="articles of clothing, 60,000 + 10,000 grey images of 28 x 28",
            splits=("train", "test"),
            n_classes=10,
            shape=(1, 28, 28),
            size_mb=31,
            files=tuple(
                f"FashionMNIST/raw/{part}-{kind}"
                for part in ("train", "t10k")
                for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
            ),
            mean=(0.286041,),
            std=(0.353024,),
            source="github.com/zalandoresearch/fashion-mnist",
            licence="MIT",
            citation="Xiao et al. 2017",
        ),
        DataSource(
            name="cifar10",
            description="objects, 50,000 + 10,000 colour images of 32 x 32",
            splits=("train", "test"),
            n_classes=10,
            shape=(3, 32, 32),
            size_mb=163,
            files=(
                *(f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)),
                "cifar-10-batches-py/test_batch",
                "cifar-10-batches-py/batches.meta",
            ),
            mean=(0.491400, 0.482158, 0.446531),
            std=(0.247032, 0.243485, 0.261588),
            source=_CIFAR_SOURCE,
            licence="none stated",
            citation="Krizhevsky 2009",
        ),
        DataSource(
            name="cifar100",
            description="objects, 50,000 + 10,000 colour images of 32 x 32",
            splits=("train", "test"),
            n_classes=100,
            citation="Krizhevsky 2009",
            **_CIFAR100,  # type: ignore[arg-type]
        ),
        DataSource(
            name="cifar-fs",
            description="CIFAR-100's classes split 64 / 16 / 20, all 600 images of a class",
            splits=("train", "val", "test"),
            n_classes=64,
            citation="Bertinetto et al. 2019",
            **_CIFAR100,  # type: ignore[arg-type]
        ),
        DataSource(
            name="banking77",
            description="questions to a bank, 10,003 + 3,080 texts of 77 intents",
            splits=("train", "test"),
            n_classes=77,
            shape=(),
            size_mb=1,
            files=("banking77/train.csv", "banking77/test.csv"),
            mean=(),
            std=(),
            source="github.com/PolyAI-LDN/task-specific-datasets",
            licence="CC BY 4.0",
            citation="Casanueva et al. 2020",
            downloads={
                "banking77/train.csv": (
                    _BANKING77 + "train.csv",
                    "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
                ),
                "banking77/test.csv": (
                    _BANKING77 + "test.csv",
                    "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d",
                ),
            },
        ),
    )
}

# class numbers of CIFAR-100; Bertinetto et al. 2019
CIFAR_FS_CLASSES: Mapping[str, tuple[int, ...]] = {
    "val": (4, 7, 14, 15, 19, 26, 27, 32, 40, 47, 48, 55, 71, 73, 87, 89),
    "test": (2, 5, 8, 21, 34, 42, 46, 58, 60, 62, 69, 70, 77, 83, 84, 86, 94, 95, 98, 99),
}  # fmt: skip
CIFAR_FS_CLASSES = {
    "train": tuple(
        c for c in range(100) if not any(c in part for part in CIFAR_FS_CLASSES.values())
    ),
    **CIFAR_FS_CLASSES,
}
