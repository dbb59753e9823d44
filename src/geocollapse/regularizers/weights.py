"""Penalties on the weights alone: L2, and the spectral norm of each layer by power iteration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geocollapse.estimate import Estimate
from geocollapse.models import LoadedModel, module_of
from geocollapse.modules.wrapped import Wrapping
from geocollapse.numerics import accumulation_dtype, is_count
from geocollapse.regularizers.penalty import Penalty

_FIRST_ITERATIONS = 15  # from a random vector, as torch's own spectral normalisation does
_MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")  # of attention


class L2Penalty(Penalty):
    """The weighted squared norm of a model's trained parameters, apart from the optimizer.

        loss = cross-entropy + weight/2 ||theta||^2

    Its gradient is weight * theta: with plain SGD the same steps as ``weight_decay=weight``, with
    adaptive or decoupled optimizers others. Biases and scales of normalisations count. Unit of the
    weight: loss/parameter^2. Cost: one sum over the parameters.

    Source: Krogh, Hertz (1991); Loshchilov, Hutter (2019) for the difference to weight decay.

    Args:
        weight: strength lambda, at least 0; at 0 nothing is added, and ``last`` is still measured.
        every: the penalty is added at every m-th call, with ``every`` times the weight.

    Raises:
        ValueError: an argument outside its range, a model without trained parameters.
        TypeError: a model that is no module.

    Examples:
        >>> model = nn.Linear(2, 1)
        >>> penalty = L2Penalty(weight=0.1)
        >>> loss = penalty(model)
        >>> squares = model.weight.square().sum() + model.bias.square().sum()
        >>> bool(torch.isclose(loss, 0.05 * squares))
        True
    """

    def __init__(self, weight: float, *, every: int = 1) -> None:
        super().__init__(weight, every=every)
        self._last: Tensor | None = None

    @property
    def last(self) -> Estimate | None:
        """||theta||^2 at the last penalised step."""
        return _measured(self._last)

    def forward(self, model: nn.Module | LoadedModel) -> Tensor:
        """The weighted penalty (0-d); counts one step."""
        plain = _plain(model)
        first = _trained(plain)[0]
        return self.counted(lambda _: self._penalise(plain), lambda: first.new_zeros(()))

    def _penalise(self, model: nn.Module) -> Tensor:
        half = half_squares(model)
        self._last = 2.0 * half.detach()
        return self.weighted(half)


class SpectralNormPenalty(Penalty):
    """The weighted squared spectral norms of a model's weight matrices, by power iteration.

        loss = cross-entropy + weight/2 sum_l sigma(W_l)^2,  d sigma/d W = u v^T

    u and v are the first singular vectors. They are kept from step to step and improved by
    ``n_iterations`` of u -> W v, v -> W^T u, so that a step costs 2 n + 1 products of each W with a
    vector; sigma is then a little too small where a layer has two singular values of nearly the
    same size. The vectors are part of the ``state_dict``. W is (outputs, inputs) of a linear
    layer, and (channels out, channels in * kernel) of a convolution, whose operator norm lies
    between sigma/sqrt(kernel) and sigma sqrt(kernel); the packed projections of an
    ``nn.MultiheadAttention`` are one matrix. Biases, normalisations and frozen weights do not
    count. Unit of the weight: loss/sigma^2.

    Source: Yoshida, Miyato (2017), arXiv 1705.10941, section 3; Miyato et al. (2018), algorithm 1,
    for vectors that are kept.

    Args:
        weight: strength lambda, at least 0; at 0 nothing is added, and ``last`` is still measured.
        n_iterations: of the power method at each step; the first step takes 15 more, as does each
            step after a matrix was zero or not finite.
        every: the penalty is added at every m-th call, with ``every`` times the weight.
        seed: of the first vectors.

    Raises:
        ValueError: an argument outside its range, a model without linear layers and convolutions,
            or whose weights are all frozen.
        TypeError: a model that is no module.

    Examples:
        >>> model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
        >>> penalty = SpectralNormPenalty(weight=0.1, n_iterations=50)
        >>> loss = penalty(model)
        >>> exact = sum(sigma**2 for sigma in spectral_norms(model).values())
        >>> bool(abs(penalty.last.value / exact - 1.0) < 1e-3)
        True
    """

    def __init__(
        self, weight: float, *, n_iterations: int = 1, every: int = 1, seed: int = 0
    ) -> None:
        super().__init__(weight, every=every)
        if not is_count(n_iterations):
            raise ValueError(
                f"n_iterations: expected at least 1, got {n_iterations}; do n_iterations=1"
            )
        self.n_iterations = n_iterations
        self.seed = seed
        self._left: dict[str, Tensor] = {}
        self._last: Tensor | None = None

    @property
    def last(self) -> Estimate | None:
        """sum_l sigma(W_l)^2 at the last penalised step."""
        return _measured(self._last)

    def forward(self, model: nn.Module | LoadedModel) -> Tensor:
        """The weighted penalty (0-d); counts one step."""
        matrices = _trained_matrices(_plain(model))
        first = next(iter(matrices.values()))
        return self.counted(lambda _: self._penalise(matrices), lambda: first.new_zeros(()))

    def _penalise(self, matrices: Mapping[str, Tensor]) -> Tensor:
        total = torch.stack([self._norm(name, w).square() for name, w in matrices.items()]).sum()
        self._last = total.detach()
        return self.weighted(0.5 * total)

    def get_extra_state(self) -> dict[str, Tensor]:
        """The left singular vectors by the names of their weights."""
        return dict(self._left)

    def set_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from these vectors."""
        self._left = dict(state)

    def _norm(self, name: str, matrix: Tensor) -> Tensor:
        """sigma = u^T W v, whose gradient is u v^T."""
        w = matrix.detach()
        u = self._left.get(name)
        n_iterations = self.n_iterations
        if u is None or not _is_direction(u, len(w)):
            n_iterations += _FIRST_ITERATIONS
            u = torch.randn(len(w), generator=torch.Generator().manual_seed(self.seed))
        u = F.normalize(u.to(w), dim=0)
        eps = max(1e-12, torch.finfo(w.dtype).tiny)  # 1e-12 is 0 in float16
        for _ in range(n_iterations):
            v = F.normalize(w.T @ u, dim=0, eps=eps)
            u = F.normalize(w @ v, dim=0, eps=eps)
        self._left[name] = u
        return torch.dot(u, matrix @ v)


def spectral_norms(model: nn.Module | LoadedModel) -> dict[str, float]:
    """The spectral norm of each weight matrix of a model, by a singular value decomposition.

        sigma(W) = max_v ||W v||/||v||

    Of linear layers, of convolutions as matrices (channels out, channels in * kernel), and of the
    packed projections of ``nn.MultiheadAttention`` as one matrix (3 E, E); frozen ones too. The
    product of those of a network of linear layers and 1-Lipschitz activations bounds its Lipschitz
    constant. Cost: O(m n min(m, n)) a layer.

    Args:
        model: any module.

    Returns:
        Name of the weight -> sigma; a weight that layers share once.

    Raises:
        ValueError: a model without linear layers and convolutions.
        TypeError: a model that is no module.

    Examples:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.diag(torch.tensor([3.0, 1.0])))
        >>> spectral_norms(model)
        {'weight': 3.0}
    """
    return {
        name: float(torch.linalg.matrix_norm(w.detach().double().cpu(), ord=2))
        for name, w in _matrices(_plain(model))
    }


def half_squares(model: nn.Module) -> Tensor:
    """||theta||^2/2 (0-d) over the trained parameters, whose gradient is theta.

    In the dtype of the first parameter; the sum over the parameters is in float64.

    Raises:
        ValueError: no parameter is trained.

    Examples:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[3.0, 1.0]]))
        >>> float(half_squares(model).detach())
        5.0
    """
    parameters = _trained(model)
    device = parameters[0].device
    wide = accumulation_dtype(device)
    squares = [p.square().sum().to(wide).to(device) for p in parameters]
    return 0.5 * torch.stack(squares).sum().to(parameters[0].dtype)


def _plain(model: nn.Module | LoadedModel) -> nn.Module:
    """The module inside DistributedDataParallel or torch.compile."""
    return Wrapping.of(module_of(model)).plain


def _trained(model: nn.Module) -> list[nn.Parameter]:
    found = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not found:
        raise ValueError(
            "model: expected trained parameters, got none that requires gradients; do "
            "model.requires_grad_(True)"
        )
    return found


def _trained_matrices(model: nn.Module) -> dict[str, Tensor]:
    """The matrices that training moves, by name."""
    found = {name: matrix for name, matrix in _matrices(model) if matrix.requires_grad}
    if not found:
        raise ValueError(
            "model: expected trained weights of linear layers or convolutions, got none that "
            "requires gradients; do model.requires_grad_(True)"
        )
    return found


def _matrices(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights of linear layers and convolutions as matrices (outputs, inputs), by name."""
    seen: dict[int, Tensor] = {}  # holds computed weights, whose ids would be given out again
    for name, module in model.named_modules():
        for key, weight in _weights(module):
            if id(weight) not in seen:
                seen[id(weight)] = weight
                yield f"{name}.{key}".lstrip("."), _rows_first(weight, module)
    if not seen:
        raise ValueError(
            "model: expected linear layers or convolutions, got none; do L2Penalty for other "
            "parameters"
        )


def _weights(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The weights of one layer, with the graphs of those that are computed from others."""
    keys: tuple[str, ...] = ()
    if isinstance(module, (*_MATRICES, *_TRANSPOSED)):
        keys = ("weight",)
    if isinstance(module, nn.MultiheadAttention):
        keys = _PROJECTIONS
    with torch.enable_grad():
        found = [(key, getattr(module, key)) for key in keys]
    return [(key, weight) for key, weight in found if weight is not None]


def _rows_first(weight: Tensor, module: nn.Module) -> Tensor:
    """The matrix (outputs, inputs) of a weight."""
    with torch.enable_grad():
        # transposed convolutions store (channels in, channels out, kernel)
        rows = weight.transpose(0, 1) if isinstance(module, _TRANSPOSED) else weight
        return rows.flatten(1)


def _is_direction(u: Tensor, n_rows: int) -> bool:
    """False for the vector of a matrix that was zero or not finite, or of another size."""
    return len(u) == n_rows and bool(u.isfinite().all()) and bool(u.any())


def _measured(value: Tensor | None) -> Estimate | None:
    """An exact value as an Estimate; None before the first penalised step."""
    if value is None:
        return None
    return Estimate(float(value), 0.0, n_samples=1, dof=math.inf, scale="linear")
