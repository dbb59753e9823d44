"""From the gradient in the parameters to the gradient in the inputs: the transfer inequality."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from geocollapse.models import LoadedModel, module_of
from geocollapse.modules.borrow import borrowed
from geocollapse.modules.wrapped import Wrapping
from geocollapse.numerics import check_finite

Scalar = Callable[[Tensor], Tensor]

_ELEMENTWISE = (
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.ReLU6),
    *(nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Identity, nn.Dropout),
)
_DENSE = (nn.Linear, nn.Flatten, *_ELEMENTWISE)


@dataclass(frozen=True)
class TransferInequality:
    """Both sides of the transfer inequality at each example.

    Attributes:
        input_norms: ||grad_x f||^2 (n,).
        parameter_norms: ||grad_theta f||^2 (n,), over the weights and biases of all layers.
        factors: sum_l (1 + ||h_{l-1}||^2)/||A_l||_op^2 (n,).
    """

    input_norms: Tensor
    parameter_norms: Tensor
    factors: Tensor

    @property
    def ratios(self) -> Tensor:
        """Left over right side (n,), at most 1; NaN where grad_theta f is zero."""
        return self.input_norms * self.factors / self.parameter_norms

    @property
    def ratio(self) -> float:
        """The mean ratio over the examples that have one; NaN if none has."""
        ratios = self.ratios
        defined = ratios[ratios.isfinite()]
        return float(defined.mean()) if len(defined) else math.nan


def transfer_inequality(
    model: nn.Module | LoadedModel, inputs: Tensor, scalar: Scalar | None = None
) -> TransferInequality:
    """Both sides of the inequality by which flatness in the parameters lowers the input gradient.

        ||grad_x f||^2 sum_l (1 + ||h_{l-1}||^2)/||A_l||_op^2 <= ||grad_theta f||^2

    over the dense layers a_l = W_l h_{l-1} + b_l, with h_{l-1} the input of layer l and A_l = d
    a_l/dx; the 1 is the bias, and missing in a layer without one. It follows layer by layer from
    grad_x f = A_l^T delta_l and grad_{theta_l} f = delta_l (h_{l-1}, 1)^T. Equality for one layer
    and one output. Invariant to scaling f. A true inequality says nothing by itself: the ratio
    tells how tight it is. Cost: one forward and three backward passes, and for each example and
    layer the eigenvalues of a matrix of the layer's width. The model runs in its own precision;
    operator norms and sums are in float64.

    Source: Dherin, Munn, Rosca, Barrett (2022), arXiv 2209.13083, transfer theorem; the form over
    all layers: this project.

    Args:
        model: linear layers and element-wise activations one after the other, in evaluation mode.
        inputs: (n, ...).
        scalar: from the output (n, C) to f (n,), each from its own row; None for a model with one
            output.

    Returns:
        Both sides, an entry an example, in float64 on the CPU.

    Raises:
        ValueError: a model with other layers, whose layers do not follow each other, or that uses
            a parameter twice; no ``scalar`` for several outputs; NaN or infinity among the inputs,
            the parameters or the gradients; no example; a layer that takes more than one vector
            an example.
        TypeError: a model that is no module; inputs that are no floating tensor.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> found = transfer_inequality(model, torch.randn(20, 4))
        >>> found.ratios.shape, bool((found.ratios <= 1.0).all())
        (torch.Size([20]), True)
    """
    plain = Wrapping.of(module_of(model)).plain
    _check_dense(plain)
    _check_inputs(inputs)
    _check_parameters(plain)
    with borrowed(plain), torch.enable_grad():
        x = inputs.detach().clone().requires_grad_()
        with _recorded(plain) as layers:
            output = plain(x)
        _check_used_once(layers)
        _check_rows(layers, len(x))
        chain = _Chain.of(layers)
        _check_chain(chain, layers, x)
        total = _scalar_of(output, scalar).sum()
        (of_x, *deltas) = torch.autograd.grad(total, [x, *(layer.after for layer in layers)])
    sizes = chain.operator_norms(len(x))
    weights = [_squares(layer.before) + float(layer.bias is not None) for layer in layers]
    pairs = zip(deltas, weights, strict=True)
    check_finite("gradient", of_x)
    return TransferInequality(
        _squares(of_x),
        torch.stack([_squares(delta) * weight for delta, weight in pairs]).sum(dim=0),
        torch.stack([w / size for w, size in zip(weights, sizes, strict=True)]).sum(dim=0),
    )


@dataclass
class _Layer:
    """A dense layer in one forward pass: W_l and b_l, and h_{l-1} and a_l of the examples."""

    weight: Tensor
    bias: Tensor | None
    before: Tensor
    after: Tensor


@contextmanager
def _recorded(model: nn.Module) -> Iterator[list[_Layer]]:
    """Record what goes into the linear layers and what comes out, in the order they run."""
    layers: list[_Layer] = []

    def record(module: nn.Linear, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        layers.append(_Layer(module.weight, module.bias, given[0], output))
        return output.clone()  # an activation in place would overwrite a_l

    handles = [
        module.register_forward_hook(record)
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        yield layers
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class _Chain:
    """The Jacobians A_l of dense layers that follow each other, as products of W_l and slopes D."""

    weights: list[Tensor]
    slopes: list[Tensor]

    @classmethod
    def of(cls, layers: list[_Layer]) -> _Chain:
        """The slopes of the activations between the layers, from one backward pass each."""
        slopes = []
        for last, layer in pairwise(layers):
            # element-wise, so that the derivative of the sum is the diagonal D
            (slope,) = torch.autograd.grad(
                layer.before.sum(), last.after, retain_graph=True, allow_unused=True
            )
            if slope is None or slope.shape != layer.before.shape:
                raise _not_dense("layers that do not follow each other")
            slopes.append(slope.double())
        return cls([layer.weight.detach().double() for layer in layers], slopes)

    def operator_norms(self, n_examples: int) -> list[Tensor]:
        """||A_l||_op^2 (n,) of each layer, from A_l A_l^T = W_l D A_{l-1} A_{l-1}^T D W_l^T."""
        first = self.weights[0] @ self.weights[0].T
        norms = [torch.linalg.eigvalsh(first)[-1].expand(n_examples)]
        gram = first.expand(n_examples, -1, -1)
        for weight, slope in zip(self.weights[1:], self.slopes, strict=True):
            gram = weight @ (slope[:, :, None] * gram * slope[:, None, :]) @ weight.T
            norms.append(torch.linalg.eigvalsh(gram)[:, -1])
        return [norm.cpu() for norm in norms]

    def back(self, v: Tensor) -> Tensor:
        """A_L^T v (n, d)."""
        for weight, slope in zip(self.weights[:0:-1], self.slopes[::-1], strict=True):
            v = (v @ weight) * slope
        return v @ self.weights[0]


def _check_dense(model: nn.Module) -> None:
    """Refuse a model with other layers than linear ones and element-wise activations."""
    for name, module in model.named_modules():
        if not any(module.children()) and not isinstance(module, _DENSE):
            raise _not_dense(f"{type(module).__name__} in {name or 'the model itself'!r}")
    if not any(isinstance(module, nn.Linear) for module in model.modules()):
        raise _not_dense("no linear layer")


def _check_inputs(inputs: object) -> None:
    """Refuse anything but a finite floating tensor of at least one example."""
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        got = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise TypeError(
            f"inputs: expected a floating tensor (n, ...), got {got}; do "
            f"torch.as_tensor(inputs).float()"
        )
    if inputs.ndim == 0 or inputs.numel() == 0:
        raise ValueError(
            f"inputs: expected shape (n, ...) with at least one example, got "
            f"{tuple(inputs.shape)}; do pass some examples"
        )
    check_finite("inputs", inputs)


def _check_parameters(model: nn.Module) -> None:
    """Refuse NaN and infinity among the parameters."""
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise ValueError(
                f"model: expected finite parameters, got NaN or infinity in {name!r}; do check the "
                f"training"
            )


def _check_used_once(layers: list[_Layer]) -> None:
    """Refuse layers that are unused or share a parameter, whose gradient has a cross term."""
    if not layers:
        raise _not_dense("no linear layer in the forward pass")
    used = [id(p) for layer in layers for p in (layer.weight, layer.bias) if p is not None]
    if len(set(used)) < len(used):
        raise _not_dense("a weight or bias that is used twice")


def _check_rows(layers: list[_Layer], n: int) -> None:
    """Refuse layers that take anything but one vector for each example, such as one a token."""
    for layer in layers:
        if layer.before.ndim != 2 or len(layer.before) != n:
            raise ValueError(
                f"inputs: expected one vector for each of {n} examples in every layer, got shape "
                f"{tuple(layer.before.shape)}; do inputs.flatten(1), or one example a token"
            )


def _check_chain(chain: _Chain, layers: list[_Layer], x: Tensor) -> None:
    """Refuse a model that does more than its layers one after the other, such as shortcuts."""
    last = layers[-1].after
    v = torch.linspace(-1.0, 1.0, last.shape[1], dtype=torch.float64, device=last.device)
    (found,) = torch.autograd.grad(
        last, x, v.to(last).expand_as(last), retain_graph=True, allow_unused=True
    )
    expected = chain.back(v.expand(len(x), -1))
    if found is None or found[0].numel() != expected.shape[1]:
        raise _not_dense("layers that do not follow each other")
    check_finite("gradient", found)
    difference = (found.flatten(1).double() - expected).norm()
    if not bool(difference <= 1e-3 * expected.norm()):
        raise _not_dense("more than its layers one after the other, such as a shortcut")


def _not_dense(got: str) -> ValueError:
    return ValueError(
        f"model: expected linear layers and element-wise activations one after the other, got "
        f"{got}; do nn.Sequential(nn.Linear(...), nn.ReLU(), nn.Linear(...))"
    )


def _scalar_of(output: Tensor, scalar: Scalar | None) -> Tensor:
    """f (n,) of the output."""
    n = len(output)
    if scalar is None and output.numel() != n:
        raise ValueError(
            f"scalar: expected a function of the output for {tuple(output.shape[1:])} outputs, got "
            f"None; do scalar=lambda z: z[:, 0]"
        )
    f = output.reshape(n) if scalar is None else scalar(output)
    if not isinstance(f, Tensor) or f.shape != (n,) or not f.requires_grad:
        got = f"shape {tuple(f.shape)}" if isinstance(f, Tensor) else type(f).__name__
        without = ", without a gradient" if isinstance(f, Tensor) and not f.requires_grad else ""
        raise ValueError(
            f"scalar: expected ({n},) numbers with a gradient, one for each example, got "
            f"{got}{without}; do scalar=lambda z: z[:, 0]"
        )
    return f


def _squares(rows: Tensor) -> Tensor:
    """Squared norm of each row (n,), in float64 on the CPU."""
    return rows.detach().flatten(1).double().square().sum(dim=1).cpu()
