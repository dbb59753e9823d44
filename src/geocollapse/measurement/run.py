"""``measure`` a model in one pass over its data; ``measure_features`` of a features file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from geocollapse.arrays import Labels
from geocollapse.collapse.labelled import check_two_labels
from geocollapse.complexity.setup import Data, Model, Request, Setup, set_up
from geocollapse.complexity.stopping import StoppingRule
from geocollapse.features import Pool
from geocollapse.jacobian import Estimator
from geocollapse.measurement.classifier import head_at, match_outputs
from geocollapse.measurement.compute import measure_layer
from geocollapse.measurement.context import context_of
from geocollapse.measurement.one_pass import read_once
from geocollapse.measurement.result import Measurement
from geocollapse.runtime.processes import failing_together
from geocollapse.store import KeptLayer, read_features


@failing_together()
def measure(
    model: Model,
    data: Data,
    *,
    layer: str | Sequence[str] | None = None,
    classifier: str | None = None,
    labels: Labels | None = None,
    ignore_index: int | None = None,
    estimator: Estimator | None = None,
    n_probes: int | Literal["auto"] = "auto",
    rtol: float | None = None,
    atol: float | None = None,
    max_samples: int | None = None,
    max_seconds: float | None = None,
    pool: Pool | None = None,
    input_layer: str | None = None,
    batch_size: int | None = None,
    memory_limit: int | None = None,
    autocast: torch.dtype | None = None,
    input_std: Sequence[float] | float | None = None,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Measurement:
    """Measure geometric complexity, neural and geometric collapse, and bounds in one pass.

    The model runs in evaluation mode and is handed back as it was. Every example goes forward once;
    each is probed once, and max(200, 20 C) of them twice to learn the error of the probes. A first
    Ctrl-C ends with what was read so far, a random sample of the data (of a stream: its beginning),
    marked ``interrupted``. With a process group, each process reads its share of the batches and
    all return the same measurement, with the features of all. Cost: one forward pass, one
    vector-Jacobian product with respect to the input, and O(n p (C + p)) for the measures of the
    features.

    Source: Munn, Dherin, Gonzalvo (2024); definitions 1 to 4.

    Args:
        model: a module, or a callable from inputs to features (n, p).
        data: a DataLoader, a map-style data set, a pair (inputs, labels), or a stream of batches. A
            batch may be a mapping of ``labels`` and the model's inputs by name (``input_ids``,
            ``attention_mask``). Labels that are known before the data are read may be names of
            classes, which are numbered in alphabetical order.
        layer: ``NAME``, ``NAME:in``, ``""`` for the model's output, or None for the input of its
            classifier. Several layers are measured in the same pass, by one forward-mode sweep for
            all or a backward pass each.
        classifier: name of the linear classifier, for accuracy, NC3 and NC4; None to look for it.
        labels: (n,) labels of a map-style data set whose examples are slow to read; they replace
            those of its batches.
        ignore_index: leave out the examples with this label, such as -100. Labels must be known
            before a map-style data set is read (its ``targets``, or ``labels=``).
        estimator: of ||J||_F^2, see ``geocollapse.squared_jacobian_norms``. None: ``rademacher``
            for one layer; for several, ``input`` if all operations of the model have a forward
            mode, else ``rademacher``.
        n_probes: probes for each example.
        rtol: probe, in a random order, until the relative half-width of the interval of geometric
            complexity is at most this; collapse uses all examples.
        atol: probe, in a random order, until the standard error is at most this.
        max_samples: probe at most this many examples; collapse uses all.
        max_seconds: probe no further batch after this time; collapse uses all.
        pool: ``mean`` averages maps and token sequences over positions, ``cls`` takes the first
            token, ``last`` the last one (padding, by ``attention_mask``, is no token), None
            flattens them.
        input_layer: the layer that embeds integer inputs; Jacobians are taken with respect to its
            output. None for the inputs themselves or, in a transformers model, for its own
            embedding of tokens.
        batch_size: examples that go through the model together; a loader's own by default.
        memory_limit: bytes that the graph of a batch may take; batches are made small enough.
        autocast: ``torch.bfloat16`` or ``torch.float16`` to run the model under ``torch.autocast``;
            squares, means and variances are summed in float64 either way. For float64 throughout:
            ``model.double()``.
        input_std: standard deviation by which each input channel was divided; gives ``gc_pixel``.
            A data set's ``std`` by default.
        class_names: name of class 0, 1, ...; a data set's ``classes`` by default.
        seed: of the probes and of the sample.
        progress: show a progress bar with the projected time on stderr.

    Returns:
        A Measurement.

    Raises:
        TypeError, ValueError: integer inputs and no layer that embeds them, labels that are not
            integers, an unknown layer (the nearest names are listed), an ambiguous embedding (the
            candidates are listed), NaN features, gradients that overflow, a single class, an empty
            loader, contradictory stopping arguments, a memory limit too small for one example, a
            forward pass in which the model raises; with several processes, a stream,
            ``max_seconds``, or data, settings or weights that differ between them.
        RuntimeError: a model that mixes the examples of a batch even in evaluation mode, or draws
            at random; names the module. Checked with three forward passes of two examples, and
            two more for texts with a mask, whose features must not change with padding. Also
            features that change with the inputs but have no gradients (``torch.no_grad``,
            ``.detach()`` in the model).

    Examples:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> m = measure(model, (torch.randn(300, 4), torch.arange(300) % 3))
        >>> m.layers[0].layer, m.features.shape, m.nc1_rank
        ('2:in', torch.Size([300, 8]), 2)
    """
    request = Request(
        layer=layer,
        classifier=classifier,
        pool=pool,
        input_layer=input_layer,
        labels=labels,
        ignore_index=ignore_index,
        class_names=class_names,
        batch_size=batch_size,
        memory_limit=memory_limit,
        autocast=autocast,
        estimator=estimator,
        n_probes=n_probes,
        rule=StoppingRule(rtol, atol, max_samples, max_seconds),
        seed=seed,
        input_std=input_std,
    )
    with set_up(model, data, request) as setup:
        if known := setup.examples.class_counts():
            check_two_labels(list(known))
        kept = keep_layers(setup, progress=progress)
    return Measurement(tuple(map(measure_layer, kept)))


def measure_features(path: str | Path, *, device: torch.device | str = "cpu") -> Measurement:
    """Measure the features of a file, without the model that produced them.

    A file of ``Measurement.save_features`` gives the numbers of that measurement again. A file with
    only ``features`` and ``labels`` gives all but geometric complexity and geometric collapse,
    which are NaN with a warning. Cost: one reading of the file (safetensors is mapped, not read
    into memory) and O(n p (C + p)).

    Args:
        path: ``.safetensors``, ``.npz``, or ``.pt`` (read with ``weights_only=True``).
        device: where to compute; features above 4 GiB stay where they are.

    Raises:
        FileNotFoundError: no such file.
        ValueError, TypeError: a damaged file, missing keys, shapes that do not fit each other, a
            single class.

    Examples:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/features.npz"
        >>> model = torch.nn.Linear(4, 3)
        >>> m = measure(model, (torch.randn(300, 4), torch.arange(300) % 3))
        >>> m.save_features(path)
        >>> measure_features(path).geometric_collapse.value == m.geometric_collapse.value
        True
    """
    return Measurement((measure_layer(read_features(path, device=device)),))


def keep_layers(setup: Setup, *, progress: bool = False) -> list[KeptLayer]:
    """The record of each layer from one pass over the data."""
    notes = match_outputs(setup)  # of how the outputs were matched to the classes
    reading = read_once(setup, progress=progress)
    context = context_of(setup, reading, notes)
    feature_map = setup.feature_map
    is_named = setup.request.classifier is not None
    kept = []
    for layer, taken in zip(feature_map.layers, reading.layers, strict=True):
        head, no_head = head_at(layer, feature_map, setup.embedding, is_named=is_named)
        kept.append(KeptLayer(str(layer), taken.features, taken.norms, head, context, no_head))
    return kept
