"""The loss of a module as a function of its trained parameters, with two derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from geocollapse.dynamics.products import METHODS, Expansion, Method, Product, filled
from geocollapse.dynamics.trees import Tree, check_tree
from geocollapse.models import LoadedModel, module_of
from geocollapse.modules.borrow import borrowed, cuda_devices
from geocollapse.modules.mixing import (
    check_batch_norm,
    padding_rows,
    running_statistics,
)
from geocollapse.modules.wrapped import Wrapping

T = TypeVar("T")
Loss = Callable[[nn.Module], Tensor]
BatchNorm = Literal["refuse", "running", "batch"]


class NonFiniteError(ValueError):
    """A loss is NaN or infinite, as after steps that diverge."""


class Landscape:
    """A loss E(theta) of a module's trained parameters theta, which are trees: name -> tensor.

    Every evaluation starts from the same random state and the same buffers, so that E is one
    function of theta, also with dropout. Made by ``landscape``, valid inside its block.

    Attributes:
        point: the present parameters theta, without their graph.
    """

    def __init__(self, model: nn.Module, loss: Loss, point: Tree) -> None:
        self.point = point
        self._module = _Applied(model, loss)
        self._devices = cuda_devices(model)
        self._untrained_rows = padding_rows(model)

    def value(self, at: Tree | None = None) -> Tensor:
        """E(theta), 0-d, at the present parameters or at others."""
        with torch.no_grad():
            return check_loss(self.evaluate(self.point if at is None else at)).detach()

    def gradient(self, at: Tree | None = None, *, partial: bool = False) -> Tree:
        """grad E; with ``partial``, zero in parameters that the loss does not depend on."""
        return self.value_and_gradient(at, partial=partial)[1]

    def value_and_gradient(
        self, at: Tree | None = None, *, partial: bool = False
    ) -> tuple[Tensor, Tree]:
        """E and grad E, from one forward and one backward pass."""
        value, found = self.value_and_paths(at)
        if not partial:
            self.check_paths(found)
        return value.detach(), filled(found, self.point)

    def value_and_paths(self, at: Tree | None = None) -> tuple[Tensor, dict[str, Tensor | None]]:
        """E and grad E, with None for parameters that the loss does not depend on."""
        return self.differentiate(_leaves(self.point if at is None else at))

    def hessian(
        self, at: Tree | None = None, *, method: Method = "double_backward", partial: bool = False
    ) -> Product:
        """The product v -> H v with the Hessian at a point, to be applied to many vectors."""
        return self.expand(at, method=method, partial=partial).product

    def expand(
        self, at: Tree | None = None, *, method: Method = "double_backward", partial: bool = False
    ) -> Expansion:
        """E, grad E and the product with the Hessian at a point, from one gradient."""
        if method not in METHODS:
            raise ValueError(
                f"method: expected one of {', '.join(METHODS)}, got {method!r}; do "
                f"method='double_backward'"
            )
        found = METHODS[method](self, self.point if at is None else at, partial)
        return replace(found, product=lambda v: found.product(self.without_padding(v)))

    def without_padding(self, v: Tree) -> Tree:
        """v with zeros at the embeddings of padding, which torch gives no gradient."""
        rows = self._untrained_rows
        return {name: _without_row(z, rows[name]) if name in rows else z for name, z in v.items()}

    def evaluate(self, at: Tree) -> Tensor:
        """E(theta) with its graph, unchecked: a pure function of ``at`` for ``torch.func``."""
        return self.within(at, self._module.loss)

    def within(self, at: Tree, work: Callable[[], T]) -> T:
        """Run ``work`` while the module has the parameters ``at``.

        Backward passes run inside as well, where checkpoints recompute activations from them.
        """
        buffers = {name: b.detach().clone() for name, b in self._module.named_buffers()}
        swapped = {f"model.{name}": tensor for name, tensor in at.items()} | buffers
        with torch.random.fork_rng(devices=self._devices):
            result: T = torch.func.functional_call(self._module, swapped, (work,))
        return result

    def pure_gradient(self, at: Tree) -> Tree:
        """grad E by ``torch.func``, which can be differentiated in forward mode; unchecked."""
        gradient: Tree = torch.func.grad(self.evaluate)(at)
        return gradient

    def descent(self, at: Tree) -> Tree:
        """The field -grad E of gradient flow, to be used by ``flow`` and ``modified_flow``."""
        return {name: -z for name, z in self.pure_gradient(at).items()}

    def differentiate(
        self, leaves: Tree, *, create_graph: bool = False
    ) -> tuple[Tensor, dict[str, Tensor | None]]:
        """E and its gradient in leaves that require gradients; None without a gradient path."""
        value, found = self.within(leaves, lambda: self._reverse(leaves, create_graph))
        if all(gradient is None for gradient in found):
            raise _no_path(list(leaves))
        return value, dict(zip(leaves, found, strict=True))

    def _reverse(
        self, leaves: Tree, create_graph: bool
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        value = check_loss(self._module.loss())
        if not value.requires_grad:
            raise _no_path(list(leaves))
        # With a graph behind it, the graph of the gradient shows operations that have no other.
        one = torch.ones_like(value, requires_grad=create_graph)
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            value, list(leaves.values()), one, create_graph=create_graph, allow_unused=True
        )
        return value, found

    def check_paths(self, found: Mapping[str, Tensor | None]) -> None:
        """Refuse a parameter that the loss does not depend on."""
        missing = [name for name, gradient in found.items() if gradient is None]
        if missing:
            raise _no_path(missing)


@contextmanager
def landscape(
    model: nn.Module | LoadedModel, loss: Loss, *, batch_norm: BatchNorm = "refuse"
) -> Iterator[Landscape]:
    """Lend ``model`` and yield its ``loss`` as a function of the trained parameters.

    The model is handed back as it was, with its buffers and the random state. It is in its own
    mode meanwhile. Attention uses kernels that can be differentiated twice for second derivatives.

    Args:
        model: any module; of DistributedDataParallel or torch.compile, the module inside.
        loss: from the module to a 0-d tensor, such as ``lambda model: criterion(model(x), y)``.
        batch_norm: ``refuse`` batch normalisation in training mode, take its ``running``
            statistics, or those of the ``batch``, with which the loss is that of the batch as a
            whole.

    Raises:
        ValueError: no trained parameter; an unknown ``batch_norm``.
        RuntimeError: batch normalisation in training mode; parameters without a shape yet.
        TypeError: no module, or parameters sharded over processes.
    """
    with landscapes(model, [loss], batch_norm=batch_norm) as (found,):
        yield found


@contextmanager
def landscapes(
    model: nn.Module | LoadedModel, losses: Sequence[Loss], *, batch_norm: BatchNorm = "refuse"
) -> Iterator[list[Landscape]]:
    """Lend ``model`` and yield several of its losses; see ``landscape``."""
    plain = Wrapping.of(module_of(model)).plain
    normalising = _normalising(plain, batch_norm)
    trained = [name for name, p in plain.named_parameters() if p.requires_grad]
    if not trained:
        raise ValueError(
            "model: expected trained parameters, got none that requires gradients; do "
            "model.requires_grad_(True)"
        )
    with ExitStack() as stack:
        stack.enter_context(borrowed(plain, evaluation=False))
        stack.enter_context(normalising)
        stack.enter_context(torch.enable_grad())
        parameters = dict(plain.named_parameters())
        point = {name: parameters[name].detach() for name in trained}
        try:
            yield [Landscape(plain, loss, point) for loss in losses]
        finally:
            torch.clear_autocast_cache()  # it may hold casts of parameters that were swapped in


def gradient(
    model: nn.Module | LoadedModel, loss: Loss, *, batch_norm: BatchNorm = "refuse"
) -> Tree:
    """The gradient of any loss of a module in its trained parameters, as a tree.

        g = grad E(theta),  E(theta) = loss(model)

    Cost: one gradient. The model is left as it was: no ``.grad`` is written.

    Args:
        model: any module.
        loss: from the module to a 0-d tensor.
        batch_norm: see ``landscape``.

    Returns:
        Name -> tensor in the shape and dtype of each parameter that requires gradients.

    Raises:
        ValueError: a loss that is not 0-d or not finite, a trained parameter without a gradient
            path, no trained parameter.
        TypeError: a loss that is no floating tensor.
        RuntimeError: batch normalisation in training mode.

    Examples:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> gradient(model, lambda m: 0.5 * m.weight.square().sum())["weight"].shape
        torch.Size([1, 2])
    """
    with landscape(model, loss, batch_norm=batch_norm) as found:
        return found.gradient()


def hessian_vector_product(
    model: nn.Module | LoadedModel,
    loss: Loss,
    vector: Mapping[str, Tensor],
    *,
    method: Method = "double_backward",
    batch_norm: BatchNorm = "refuse",
) -> Tree:
    """The product H v of a loss's Hessian with a vector of parameter space, as a tree.

        H = grad^2 E(theta):  double_backward       grad <g(theta), v>
                              forward_over_reverse  d/dt g(theta + t v) at 0, by forward mode
                              finite_difference     (g(theta + t v) - g(theta - t v))/(2 t)

    The methods agree to 1e-6 in float64. H is symmetric, so that <u, H v> = <v, H u>. With ReLU and
    max-pooling it is the almost-everywhere Hessian, which finite differences miss where units
    switch between both points. Cost: two gradients, and the memory of one graph more.

    Source: Pearlmutter (1994), Fast exact multiplication by the Hessian.

    Args:
        model: any module.
        loss: from the module to a 0-d tensor.
        vector: v, a tensor for each parameter that requires gradients.
        method: ``double_backward``, ``forward_over_reverse``, or ``finite_difference`` for
            operations that are differentiable only once; not under autocast, whose rounding drowns
            it.
        batch_norm: see ``landscape``.

    Returns:
        Name -> tensor, H v.

    Raises:
        ValueError: a vector of other names or shapes; see ``gradient``.
        TypeError: finite differences in half precision or under autocast; see ``gradient``.
        NotImplementedError: an operation without the derivatives that the method takes.
        RuntimeError: batch normalisation in training mode.

    Examples:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> v = {"weight": torch.tensor([[1.0, -1.0]])}
        >>> hessian_vector_product(model, lambda m: 1.5 * m.weight.square().sum(), v)
        {'weight': tensor([[ 3., -3.]])}
    """
    with landscape(model, loss, batch_norm=batch_norm) as found:
        return found.hessian(method=method)(check_tree("vector", vector, found.point))


class _Applied(nn.Module):
    """A model and its loss as one module, whose parameters ``torch.func`` can swap."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def loss(self) -> Tensor:
        """The loss at the present parameters."""
        return self._loss(self.model)

    def forward(self, work: Callable[[], T]) -> T:
        return work()


def _leaves(at: Tree) -> Tree:
    return {name: tensor.detach().requires_grad_() for name, tensor in at.items()}


def _without_row(z: Tensor, row: int) -> Tensor:
    kept = z.clone()
    kept[row] = 0.0
    return kept


def _normalising(model: nn.Module, batch_norm: str) -> AbstractContextManager[None]:
    """How batch normalisation in training mode is treated while the model is lent."""
    if batch_norm not in get_args(BatchNorm):
        raise ValueError(
            f"batch_norm: expected 'refuse', 'running' or 'batch', got {batch_norm!r}; do "
            f"batch_norm='running'"
        )
    if batch_norm == "refuse":
        check_batch_norm(model)
    return running_statistics(model) if batch_norm == "running" else nullcontext()


def check_loss(value: object) -> Tensor:
    """Return a loss, which must be a finite, floating 0-d tensor."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(
            f"loss: expected a floating tensor, got {got}; do return the loss itself, not its "
            f".item()"
        )
    if value.ndim != 0:
        raise ValueError(
            f"loss: expected a 0-d tensor, got shape {tuple(value.shape)}; do loss.mean()"
        )
    if not bool(torch.isfinite(value)):
        raise NonFiniteError(
            f"loss: expected a finite number, got {float(value.detach())}; do look for NaN "
            f"and infinity in the inputs and parameters"
        )
    return value


def _no_path(names: Sequence[str]) -> ValueError:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return ValueError(
        f"loss: expected a gradient path to every trained parameter, got none to {names[0]!r}"
        f"{more}; do requires_grad_(False) for parameters that the loss does not depend on"
    )
