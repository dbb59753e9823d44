"""The gradient norm of the training loss as a penalty on it: explicit gradient regularisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import get_args

import torch
from torch import Tensor, nn

from geocollapse.dynamics import BatchNorm, landscape
from geocollapse.estimate import Estimate
from geocollapse.features.entry import run_model
from geocollapse.inputs import Inputs, n_rows, rows_of, tensors_of
from geocollapse.jacobian import in_right_order
from geocollapse.models import LoadedModel, module_of
from geocollapse.modules.second_derivatives import twice_differentiable
from geocollapse.modules.wrapped import Wrapping
from geocollapse.numerics import is_count
from geocollapse.regularizers.call import check_batch_settings, check_call, uncompiled
from geocollapse.regularizers.gradients import (
    apart,
    check_modules,
    gradients_of,
    inner_product,
    naming_the_loss,
    trained_parameters,
)
from geocollapse.regularizers.known import CheckedModels
from geocollapse.regularizers.penalty import Penalty
from geocollapse.regularizers.pieces import BatchShare, beside, example_numbers, no_penalty

Criterion = Callable[..., Tensor]


class GradientNorm(Penalty):
    """The weighted squared gradient norm of the training loss on a batch, differentiable.

        loss = C + weight * 1/m sum_k ||grad C_k||^2,  C_k = criterion(model(x_k), y_k)

    over the m micro-batches k of the batch; m = 1 for ||grad C||^2. Gradient descent of rate h adds
    h/4 ||grad C||^2 to its loss by itself, and SGD the term of its mini-batches: weight = h/4 gives
    a small rate the implicit regulariser of the rate h. In expectation over batches,

        1/m sum_k ||g_k||^2 = ||g||^2 + (N - B)/(N - 1) Gamma/B

    for micro-batches of B of N examples, whose gradients have the total variance Gamma around g. A
    parameter that the loss does not depend on counts 0. With ReLU and max-pooling the gradient is
    the almost-everywhere one; with dropout both terms are of networks drawn at random, as the loss
    is. Under float16 autocast the gradients, which are not scaled, may vanish: use bfloat16. Unit
    of the weight: parameter^2/loss. Cost: about two more gradients for the penalised share of the
    batch, and the memory of one graph more; micro-batches, a share of the batch and ``running``
    statistics take a forward pass of their own.

    Source: Barrett, Dherin (2021), arXiv 2009.11162, explicit gradient regularisation; Smith,
    Dherin, Barrett, De (2021), arXiv 2101.12176, for mini-batches.

    Args:
        weight: strength of the penalty, at least 0; at 0 nothing is added, and ``last`` is still
            measured.
        n_micro_batches: m, parts of consecutive rows whose sizes differ by at most 1. Across
            processes each one's batch counts as m of its own.
        batch_fraction: share of the batch, drawn at random, that the penalty is taken on.
        every: the penalty is added at every m-th call, with ``every`` times the weight.
        seed: of the share.
        batch_norm: ``refuse`` batch normalisation in training mode, take its ``running`` statistics
            in the penalty, or those of each micro-``batch``, as the loss does. The running
            statistics are updated once, by the forward pass of the whole batch.

    Raises:
        ValueError: an argument outside its range, fewer examples than micro-batches, one example
            in a micro-batch where batch normalisation needs more, targets of another length, a loss
            that is not 0-d or not finite, no gradient path to any parameter.
        TypeError: a model that is no module, a loss that is no floating tensor.
        RuntimeError: batch normalisation in training mode, a compiled module inside, sparse
            gradients, gradients switched off.
        NotImplementedError: an operation without a second derivative.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        >>> penalty = GradientNorm(weight=0.1)
        >>> x, y = torch.randn(16, 4), torch.arange(16) % 3
        >>> criterion = nn.CrossEntropyLoss()
        >>> logits, norm_loss = penalty(model, criterion, x, y)
        >>> (criterion(logits, y) + norm_loss).backward()
        >>> bool(abs(norm_loss.detach() - 0.1 * penalty.last.value) < 1e-6)
        True
    """

    def __init__(
        self,
        weight: float = 0.1,
        *,
        n_micro_batches: int = 1,
        batch_fraction: float = 1.0,
        every: int = 1,
        seed: int = 0,
        batch_norm: BatchNorm = "refuse",
    ) -> None:
        super().__init__(weight, every=every)
        check_batch_settings(batch_fraction, batch_norm, get_args(BatchNorm))
        if not is_count(n_micro_batches):
            raise ValueError(
                f"n_micro_batches: expected at least 1, got {n_micro_batches}; do n_micro_batches=1"
            )
        self.n_micro_batches = n_micro_batches
        self.batch_fraction = batch_fraction
        self.seed = seed
        self.batch_norm: BatchNorm = batch_norm
        self._checked = CheckedModels()
        self._norms: Tensor | None = None

    @property
    def last(self) -> Estimate | None:
        """Unweighted 1/m sum_k ||grad C_k||^2 of this process at the last penalised step.

        Its standard error is over the micro-batches, NaN for one.
        """
        if self._norms is None:
            return None
        norms = self._norms.cpu().double()
        m = len(norms)
        error = float(norms.std()) / math.sqrt(m) if m > 1 else math.nan
        dof = m - 1.0 if m > 1 else math.inf
        return Estimate(float(norms.mean()), error, m, population="distribution", dof=dof)

    def forward(
        self, model: nn.Module | LoadedModel, criterion: Criterion, x: Inputs, targets: Tensor
    ) -> tuple[object, Tensor]:
        """The model's output for ``x`` and the weighted penalty (0-d); counts one step.

        Args:
            model: the model that is trained, or what ``models.load`` gives.
            criterion: from the model's output and targets to the mean loss (0-d) of the examples.
            x: one tensor (n, ...), or tensors by the names of the model's arguments, such as
                ``input_ids`` and ``attention_mask``.
            targets: (n, ...), a row for each example.
        """
        return self._call(module_of(model), criterion, x, targets)

    @uncompiled
    def _call(
        self, model: nn.Module, criterion: Criterion, x: Inputs, targets: Tensor
    ) -> tuple[object, Tensor]:
        check_call(x, None)
        _check_targets(targets, n_rows(x))
        return self.counted(
            lambda step: self._penalise(model, criterion, x, targets, step),
            lambda: (run_model(model, x), no_penalty(x)),
        )

    def _penalise(
        self, model: nn.Module, criterion: Criterion, x: Inputs, targets: Tensor, step: int
    ) -> tuple[object, Tensor]:
        wrapped = Wrapping.of(model)
        numbers = example_numbers(step, x)
        share = BatchShare.drawn(self.batch_fraction, numbers, self.seed)
        if share.n_penalised < self.n_micro_batches:
            raise ValueError(
                f"n_micro_batches: expected at most {share.n_penalised}, the penalised examples, "
                f"got {self.n_micro_batches}; do larger batches"
            )
        parts = share.rows.tensor_split(self.n_micro_batches)
        with _naming_lone_examples(len(parts[-1])):
            return self._penalise_parts(wrapped, criterion, x, targets, parts)

    def _penalise_parts(
        self,
        wrapped: Wrapping,
        criterion: Criterion,
        x: Inputs,
        targets: Tensor,
        parts: tuple[Tensor, ...],
    ) -> tuple[object, Tensor]:
        """The output and the penalty of the micro-batches with these rows."""
        first = rows_of(x, parts[0])
        of_first = targets[parts[0].to(targets.device)]
        plain = wrapped.plain
        self._checked.check([plain], lambda: self._look(plain, criterion, first, of_first))

        def work(x: Inputs) -> tuple[object, Tensor]:
            if len(parts[0]) == n_rows(x) and self.weight > 0.0 and self.batch_norm != "running":
                output, norm = self._norm(plain, criterion, x, targets)
                norms = norm[None]
            else:
                output, norms = beside(
                    wrapped,
                    x,
                    lambda: self._norms_of(plain, criterion, x, targets, parts),
                    within=apart(plain, self.batch_norm),
                    draws_apart=self.weight == 0.0,  # as without the penalty
                )
            self._norms = norms.detach()
            return output, self.weighted(norms.mean())

        return wrapped.run(work, x)

    def _norms_of(
        self,
        model: nn.Module,
        criterion: Criterion,
        x: Inputs,
        targets: Tensor,
        parts: tuple[Tensor, ...],
    ) -> Tensor:
        """||grad C_k||^2 (m,) of the micro-batches with these rows."""
        norms = [
            self._norm(model, criterion, rows_of(x, rows), targets[rows.to(targets.device)])[1]
            for rows in parts
        ]
        return torch.stack(norms)

    def _norm(
        self, model: nn.Module, criterion: Criterion, x: Inputs, targets: Tensor
    ) -> tuple[object, Tensor]:
        """The output of a forward pass, and ||grad C||^2 (0-d) of its loss."""
        with twice_differentiable(), in_right_order(tensors_of(x)[0]):
            output = run_model(model, x)
            loss = criterion(output, targets)
            found = gradients_of(loss, trained_parameters(model), keeps_graph=self.weight > 0.0)
        norm = inner_product(found, found)
        return output, loss.new_zeros(()) if norm is None else norm

    def _look(self, model: nn.Module, criterion: Criterion, x: Inputs, targets: Tensor) -> None:
        """Refuse a model or loss that cannot be penalised, by one product with its Hessian."""
        check_modules(model)

        def loss(lent: nn.Module) -> Tensor:
            return criterion(run_model(lent, x), targets)

        with naming_the_loss(), landscape(model, loss, batch_norm=self.batch_norm) as found:
            near = found.expand(partial=True)
            near.product(near.gradient)


@contextmanager
def _naming_lone_examples(smallest: int) -> Iterator[None]:
    """Name the micro-batches where batch normalisation refuses one of a single example.

    Convolutions have statistics over the pixels of one example, so that the layers must decide.

    Raises:
        ValueError: batch normalisation refused a single example.
    """
    try:
        yield
    except ValueError as error:
        if smallest > 1 or "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"x: expected at least 2 examples in each micro-batch for the statistics of batch "
            f"normalisation, got {smallest}; do larger batches, or batch_norm='running'"
        ) from error


def _check_targets(targets: object, n_examples: int) -> None:
    if isinstance(targets, Tensor) and targets.ndim > 0 and len(targets) == n_examples:
        return
    shape = tuple(targets.shape) if isinstance(targets, Tensor) else None
    got = type(targets).__name__ if shape is None else f"shape {shape}"
    raise ValueError(
        f"targets: expected a tensor with a row for each of {n_examples} examples, got {got}; do "
        f"pass the labels of the batch"
    )
