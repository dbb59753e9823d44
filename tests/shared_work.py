"""The measurements and refusals that the processes of test_processes share, run under torchrun.

Each process writes rank<r>.json into the folder that it is given. In one process the same functions
give the numbers to compare with: their data do not depend on the rank.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import geocollapse as geo
from geocollapse import cli
from geocollapse.measurement.collect import collect_features
from geocollapse.runtime.processes import (
    agreed,
    alone,
    failing_together,
    gather_object,
    gather_rows,
    shards,
    share,
)
from geocollapse.store import RowStore

DTYPES = (
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int8,
    torch.bool,
)


class Rows(Dataset):
    """Labelled rows whose labels are known only after reading."""

    def __init__(self, inputs, labels):
        self.inputs, self.labels = inputs, labels

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        return self.inputs[index], int(self.labels[index])


def network(norm=False, dtype=torch.float32):
    torch.manual_seed(0)
    layers = [
        nn.Linear(8, 24),
        *([nn.BatchNorm1d(24)] if norm else []),
        nn.ReLU(),
        nn.Linear(24, 6),
    ]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(6, 5)).to(dtype)


def examples(n=1003, heavy=False):
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(5, (n,), generator=generator)
    inputs = torch.randn(5, 8, generator=generator)[labels] + torch.randn(n, 8, generator=generator)
    return (inputs * torch.randn(n, 1, generator=generator).exp() if heavy else inputs), labels


def by_class(n):
    inputs, labels = examples(n)
    order = labels.argsort(stable=True)
    return Rows(inputs[order], labels[order])


def everything(measurement):
    """All numbers of a measurement, and those of its features in their order."""
    layers = [layer.to_dict() for layer in measurement.layers]
    for layer in layers:
        del layer["provenance"]
    kept = [layer.kept for layer in measurement.layers]
    arrays = [
        (k.features, k.norms.values, k.norms.variances, k.context.logits, k.context.ids, k.labels)
        for k in kept
    ]
    rows = [
        [None if a is None else a[:40].double().nan_to_num(nan=-1.0).tolist() for a in layer]
        for layer in arrays
    ]
    return {"layers": layers, "rows": rows}


def estimate(found):
    return {**found.to_dict(), "indices": found.indices.tolist()}


def cubes(x):
    """Heavy-tailed outputs that share inputs, so that one probe of them has a variance."""
    return (x[:, :3] + x[:, 1:4] - 0.5 * x[:, 2:5]) ** 3


class Reader(nn.Module):
    """A text model: the mean over the tokens, without padding, of an embedding."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.head = nn.Embedding(30, 8), nn.Linear(8, 3)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask[..., None].float()
        return self.head((self.tokens(input_ids).tanh() * mask).sum(dim=1) / mask.sum(dim=1))


def texts(n):
    """A loader of token sequences that pads each batch to its own longest."""
    sequences = [([1 + (7 * i + j) % 29 for j in range(1 + 5 * i % 11)], i % 3) for i in range(n)]

    def collate(rows):
        width = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
        labels = torch.tensor([label for _, label in rows])
        return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}

    return DataLoader(sequences, batch_size=32, collate_fn=collate)


def sampled(n, *, drop_last=False, epoch=0, ranks=None):
    """A loader whose sampler repeats or drops examples so that all processes have equally many."""
    dataset = TensorDataset(*examples(n))
    rank, world = share()
    sampler = None
    if world > 1 and (ranks is None or rank in ranks):
        sampler = DistributedSampler(dataset, world, rank, shuffle=True, drop_last=drop_last)
        sampler.set_epoch(epoch)
    return DataLoader(dataset, batch_size=32, sampler=sampler)


class Strided(Sampler):
    """A distributed sampler of one's own: every n-th of the even positions."""

    def __init__(self, n):
        self.n, (self.rank, self.num_replicas) = n, share()

    def __iter__(self):
        return iter(range(2 * self.rank, self.n, 2 * self.num_replicas))


def strided(ranks=None):
    dataset = TensorDataset(*examples(203))
    return DataLoader(
        dataset,
        batch_size=32,
        sampler=Strided(203) if ranks is None or share()[0] in ranks else None,
    )


def wrapped(*, then=lambda model: model):
    """A network in DistributedDataParallel, which would exchange buffers at each forward pass."""
    model = network(norm=True)
    return then(nn.parallel.DistributedDataParallel(model)) if share()[1] > 1 else model


def streamed(num_classes, portion):
    """CollapseMetric of examples in blocks of classes, uneven ones or all in the last process."""
    from geocollapse.integrations.metrics import CollapseMetric

    features, labels = examples(211)
    order, (rank, world) = labels.argsort(stable=True), share()
    own = {
        "uneven": order[:5] if rank < world - 1 else order[5 * (world - 1) :],
        "one": order[: 0 if rank < world - 1 else None],
    }
    metric, rows = CollapseMetric(num_classes), own[portion]
    for part in rows.split(40) if len(rows) else ():
        metric.update(features[part], labels[part])
    found = [metric.compute()]
    metric.update(features[rows], labels[rows])  # the local state is back after compute
    found += [metric.compute()]
    return [{name: float(value) for name, value in values.items()} for values in found]


def streamed_alone():
    """Work of the first process alone leaves the next gathering of all as it is."""
    from geocollapse.integrations.metrics import CollapseMetric

    metric, found = CollapseMetric(), None
    metric.update(*examples(211))
    if share()[0] == 0:
        with alone():
            found = float(metric.compute()["cdnv"])
            assert metric.statistics.n_samples == 211
    return [
        agreed(found),
        float(metric.compute()["cdnv"]),
    ]  # the same examples twice have the same moments


def sent():
    """Rows of each dtype, in uneven counts and more dimensions, or in one process alone."""
    rank, world = share()
    found = {
        "object": gather_object("a" * 3),
        "agreed": agreed(3.5 if rank == 0 else -1.0),
        "dtypes": {},
    }
    for dtype in DTYPES:
        rows = (torch.arange(24).reshape(6, 2, 2) % 3).to(dtype)
        own = rows[:0] if rank == 0 else rows[(rank - 1) * 4 : rank * 4]
        gathered = gather_rows(own)
        assert gathered.dtype == dtype
        found["dtypes"][str(dtype)] = gathered.double().tolist()
    last = list(shards(torch.ones(3, 2) if rank == world - 1 else None))
    return found | {"last": torch.cat(last).tolist(), "none": list(shards(None))}


def hashed():
    """Estimators as functions of the position: each process takes every n-th row."""
    rank, world = share()
    x, indices = examples(60)[0], torch.arange(60)
    own = indices[rank::world]
    norms = gather_rows(geo.squared_jacobian_norms(network().eval(), x[own], indices=own))
    return norms[gather_rows(own).argsort()].tolist()


def reads_all():
    """Unshared measurements stay right in a process group, also in one process of it alone."""
    x, y = examples(300)
    model = network().eval()
    comparison = geo.compare_complexity(model, cubes, x)
    found = {
        "compared": comparison.difference.value,
        "features": collect_features(model, (x, y)).features.tolist(),
    }
    value = None
    if share()[0] == 0:
        with alone():
            value = geo.measure(model, (x, y)).geometric_complexity.value
    return found | {"alone": agreed(value)}


CASES = {
    "whole": lambda: everything(geo.measure(network(), examples(), batch_size=50)),
    "rtol": lambda: everything(geo.measure(network(), examples(4000), batch_size=64, rtol=0.2)),
    "more probes": lambda: everything(geo.measure(network(), examples(), batch_size=64, rtol=0.05)),
    "max_samples": lambda: everything(
        geo.measure(network(), examples(), batch_size=50, max_samples=301)
    ),
    "layers": lambda: everything(
        geo.measure(
            network(), examples(), layer=["0", "2"], input_std=[0.5] * 8, estimator="rademacher"
        )
    ),
    "labels from batches": lambda: everything(
        geo.measure(network(), by_class(400), batch_size=200, n_probes=1)
    ),
    "one batch for all": lambda: everything(
        geo.measure(network(), examples(60), batch_size=100, n_probes=1)
    ),
    "bfloat16": lambda: everything(
        geo.measure(network(dtype=torch.bfloat16), examples(300), batch_size=64)
    ),
    "sampler": lambda: everything(geo.measure(network(), sampled(203))),
    "sampler that drops": lambda: everything(geo.measure(network(), sampled(203, drop_last=True))),
    "sampler, other epochs": lambda: everything(
        geo.measure(network(), sampled(203, epoch=share()[0]))
    ),
    "sampler in one": lambda: everything(geo.measure(network(), sampled(203, ranks=[0]))),
    "sampler of one's own": lambda: everything(geo.measure(network(), strided())),
    "texts": lambda: everything(geo.measure(Reader(), texts(300), input_layer="tokens")),
    "wrapped": lambda: everything(geo.measure(wrapped(), examples(300), batch_size=64)),
    "wrapped, compiled": lambda: everything(
        geo.measure(wrapped(then=torch.compile), examples(300), batch_size=64)
    ),
    "heavy tail": lambda: estimate(
        geo.geometric_complexity(cubes, examples(heavy=True)[0], batch_size=40)
    ),
    "complexity rtol": lambda: estimate(
        geo.geometric_complexity(cubes, examples(4000), rtol=0.3, n_probes=2, batch_size=90)
    ),
    "aligned": lambda: estimate(
        geo.geometric_complexity(
            network().eval(), examples()[0], estimator="aligned", n_probes=1, max_samples=600
        )
    ),
    "exact": lambda: estimate(
        geo.geometric_complexity(network().eval(), examples(150)[0], layer="", estimator="exact")
    ),
    "metric, uneven": lambda: streamed(None, "uneven"),
    "metric, declared": lambda: streamed(5, "uneven"),
    "metric, in one": lambda: streamed(None, "one"),
    "metric, in one, declared": lambda: streamed(5, "one"),
    "metric, alone": streamed_alone,
    "hashed": hashed,
    "reads all": reads_all,
}


def other(value, instead):
    """``value``, and ``instead`` in the last process."""
    rank, world = share()
    return instead if rank == world - 1 else value


def differently_weighted():
    model = network()
    with torch.no_grad():
        model[0].weight[0, 0] += other(0.0, 1e-6)
    return model


def with_nan():
    x, y = examples(400)
    rows, labels = Rows(x, y), y.clone()
    rows.inputs = x.clone()
    if share()[0] == share()[1] - 1:
        rows.inputs[2:] = torch.nan  # the first examples are compared
    return DataLoader(rows, batch_size=50), labels


def other_labels():
    x, y = examples(100)
    return x, y.roll(other(0, 1))


def other_inputs():
    x, y = examples(100)
    x[50] += other(0.0, 1.0)
    return x, y


def shard(n):
    """Each process's own part, all of the same length."""
    rank, world = share()
    return examples(n * world)[0][rank::world]


def otherwise_built():
    model = network().eval()
    model[1] = other(model[1], nn.Tanh())
    return model


class Tokens(nn.Module):
    """A model of sequences (n, tokens, 4)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.body(x).tanh().mean(dim=1))


def sequences(n):
    x, y = examples(n)
    return x.reshape(n, 2, 4), y


def without_statistics():
    return nn.Sequential(
        nn.Linear(8, 6), nn.BatchNorm1d(6, track_running_stats=other(True, False)), nn.Linear(6, 5)
    )


class Ending(Rows):
    """Rows that, behind the first ones, end the program in the last process."""

    def __init__(self, ending):
        super().__init__(*examples(400))
        self.ending = ending

    def __getitem__(self, index):
        if index > 1 and other(False, True):
            raise self.ending
        return super().__getitem__(index)


def without_room():
    """The last process cannot allocate what the first one sends."""
    empty = torch.empty

    def full(*size, **kwargs):
        if size == ((3, 7),):
            raise RuntimeError("out of memory")
        return empty(*size, **kwargs)

    with failing_together(), mock.patch.object(torch, "empty", other(empty, full)):
        gather_rows(torch.ones(3, 7))


def without_disk():
    """The last process cannot keep what the others have read, once it has kept its own."""
    write, own = RowStore.write, share()[0] + 1 == share()[1]

    def full(store, rows, values):
        if len(rows) > 64:
            raise OSError("no space left")
        write(store, rows, values)

    with mock.patch.object(RowStore, "write", full if own else write):
        return geo.measure(network(), examples(600), layer=["0", "2"], batch_size=64)


def without_end():
    """The last process fails when all has been exchanged."""
    with failing_together():
        gather_object(None)
        if other(False, True):
            raise MemoryError("out of memory")


def part_wrapped():
    return nn.Sequential(
        nn.Identity(), nn.parallel.DistributedDataParallel(network(norm=True))
    ).eval()


BAD = {
    "sampler": lambda: geo.measure(
        network(),
        DataLoader(Rows(*examples(50)), sampler=DistributedSampler(Rows(*examples(50)), 7, 0)),
    ),
    "stream": lambda: geo.measure(network(), iter([examples(50)])),
    "stream of inputs": lambda: geo.geometric_complexity(cubes, iter([examples(50)])),
    "seconds": lambda: geo.measure(network(), examples(50), max_seconds=3.0),
    "length": lambda: geo.measure(network(), examples(other(100, 101))),
    "positions": lambda: geo.measure(network(), other_labels()),
    "seed": lambda: geo.measure(network(), examples(100), seed=other(0, 1)),
    "weights": lambda: geo.measure(differently_weighted(), examples(100)),
    "inputs": lambda: geo.measure(network(), other_inputs()),
    "shards": lambda: geo.geometric_complexity(
        network().eval(), shard(300), layer="", estimator="exact"
    ),
    "shards to read": lambda: geo.measure(network(), Rows(shard(300), examples(300)[1])),
    "architecture": lambda: geo.measure(otherwise_built(), examples(100)),
    "callable": lambda: geo.geometric_complexity(
        lambda x: cubes(x) * other(1.0, 1.01), examples(100)[0]
    ),
    "classifier": lambda: geo.measure(network(), examples(100), classifier=other(None, "4")),
    "layer": lambda: geo.measure(network(), examples(100), layer=other("0", "2")),
    "pool": lambda: geo.measure(Tokens(), sequences(100), layer="body", pool=other("mean", "cls")),
    "input_std": lambda: geo.measure(network(), examples(100), input_std=other(0.5, 0.25)),
    "autocast": lambda: geo.measure(network(), examples(100), autocast=other(None, torch.bfloat16)),
    "class_names": lambda: geo.measure(
        network(), examples(100), class_names=other(None, list("abcde"))
    ),
    "population": lambda: geo.geometric_complexity(
        cubes, examples(100)[0], population=other("dataset", "distribution")
    ),
    "sampler of one's own in one": lambda: geo.measure(network(), strided(ranks=[0])),
    "part wrapped": lambda: geo.measure(part_wrapped(), examples(100)),
    "argument": lambda: geo.measure(network(), examples(100), n_probes=other(1, 0)),
    "argument of complexity": lambda: geo.geometric_complexity(
        cubes, examples(100)[0], n_probes=other(1, 0)
    ),
    "statistics": lambda: geo.measure(without_statistics(), examples(100)),
    "exit": lambda: geo.measure(network(), DataLoader(Ending(SystemExit(3)), batch_size=32)),
    "interrupt": lambda: geo.measure(
        network(), DataLoader(Ending(KeyboardInterrupt()), batch_size=32)
    ),
    "room": without_room,
    "disk": without_disk,
    "end": without_end,
    "one fails": lambda: geo.measure(network(), with_nan()[0]),
    "one fails at once": lambda: geo.geometric_complexity(
        other(cubes, lambda x: x.unknown), examples(100)[0], batch_size=30
    ),
}


def refusal(work):
    try:
        work()
    except (
        ValueError,
        RuntimeError,
        AttributeError,
        OSError,
        MemoryError,
        SystemExit,
        KeyboardInterrupt,
    ) as error:
        return f"{type(error).__name__}: {error}"
    return None


MODEL = """
import os, torch

def network():
    torch.manual_seed(0)
    hidden = [torch.nn.Linear(64, 16), torch.nn.ReLU()]
    return torch.nn.Sequential(torch.nn.Flatten(), *hidden, torch.nn.Linear(16, 10))

def missing():
    if os.environ.get("RANK") == "1":
        raise FileNotFoundError("weights: expected a file, got nothing; do look here")
    return network()

def leaving():
    if os.environ.get("RANK") == "1":
        raise SystemExit(3)
    return network()
"""


def arguments(folder, factory):
    """Of the command line, which measures a factory of MODEL."""
    (folder / "model.py").write_text(MODEL)
    return [
        "measure",
        f"{folder / 'model.py'}:{factory}",
        "digits",
        "--subset",
        "500",
        "--batch-size",
        "64",
        "--json",
    ]


def command(folder, factory, rank):
    """Exit code, stdout and stderr of the command, which makes and ends its own process group."""
    out, err = io.StringIO(), io.StringIO()
    own = folder / f"model-of-{rank}"
    own.mkdir()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(
            [*arguments(own, factory), "--save-features", str(own / "features.npz"), "--quiet"]
        )
    assert not torch.distributed.is_initialized()
    return {
        "code": code,
        "out": out.getvalue(),
        "err": err.getvalue(),
        "wrote": (own / "features.npz").exists(),
    }


def main(folder, factory):
    """Everything in a group that meets in a file, then the command line in torchrun's own."""
    rank, n_processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=n_processes
    )
    cases = (
        CASES
        if n_processes == 2
        else {name: CASES[name] for name in CASES if not name.startswith("metric")}
    )
    found = {"cases": {name: work() for name, work in cases.items()}, "sent": sent()}
    found["refused"] = {name: refusal(work) for name, work in BAD.items()}
    found["after"] = {name: CASES[name]() for name in ("one batch for all", "rtol")}
    torch.distributed.destroy_process_group()
    found["command"] = command(folder, factory, rank)
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
