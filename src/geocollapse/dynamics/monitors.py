"""Monitors of a training loop: corridors and the edge of stability, step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from torch import nn

from geocollapse.dynamics.corridor import CorridorDiagnostics, check_lr, diagnose
from geocollapse.dynamics.eigenvalues import Solver
from geocollapse.dynamics.losses import BatchNorm, Loss, landscape
from geocollapse.dynamics.products import Method
from geocollapse.dynamics.trees import Tree, cosine, minus, norm
from geocollapse.models import LoadedModel

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class CorridorRecord(CorridorDiagnostics):
    """The corridor diagnostics of one update, and the path up to it.

    Attributes:
        step: its number, from 0.
        turn: cos(g_t, g_t-1) with the gradient of the update before; NaN at the first.
        path: the sum of ||theta_t - theta_t-1|| over the updates.
        distance: ||theta_t - theta_0||.
    """

    step: int
    turn: float
    path: float
    distance: float

    @property
    def path_straightness(self) -> float:
        """distance/path in [0, 1], 1 on a straight line; NaN before the first move."""
        return self.distance / self.path if self.path > 0.0 else math.nan


class CorridorMonitor:
    """The corridor diagnostics over training, with the straightness of its path.

        turn cos(g_t, g_t-1),  path straightness ||theta_T - theta_0||/sum_t ||theta_t - theta_t-1||

    Pass the same loss each time, such as that of a fixed batch: turns between gradients of
    different batches measure their noise. Between updates that are not at every step the path is
    taken as straight. Cost of an update: ``corridor_diagnostics``; memory: three copies of the
    parameters.

    Source: Dherin, Rosca (2024), arXiv 2402.08818; the diagnostics are this library's.

    Args:
        lr: h of the diagnostics.
        method: of the Hessian-vector products; see ``hessian_vector_product``.
        batch_norm: see ``landscape``.

    Attributes:
        records: one entry an update.

    Raises:
        ValueError: ``lr`` that is not positive.

    Examples:
        >>> import torch
        >>> model = nn.Linear(2, 1, bias=False).double()
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> loss = lambda m: m.weight.square().sum()
        >>> monitor = CorridorMonitor(lr=0.1)
        >>> for _ in range(3):
        ...     _ = monitor.update(model, loss)
        ...     optimizer.zero_grad()
        ...     loss(model).backward()
        ...     _ = optimizer.step()
        >>> round(monitor.records[-1].path_straightness, 6), len(monitor.to_frame())
        (1.0, 3)
    """

    def __init__(
        self,
        lr: float = 0.1,
        *,
        method: Method = "double_backward",
        batch_norm: BatchNorm = "refuse",
    ) -> None:
        check_lr(lr)
        self.lr = lr
        self.method = method
        self.batch_norm = batch_norm
        self.records: list[CorridorRecord] = []
        self._first: Tree | None = None
        self._point: Tree = {}
        self._gradient: Tree = {}

    def update(self, model: nn.Module | LoadedModel, loss: Loss) -> CorridorRecord:
        """Measure the present parameters, and add the record.

        Raises:
            ValueError, RuntimeError: see ``corridor_diagnostics``.
        """
        with landscape(model, loss, batch_norm=self.batch_norm) as found:
            here, gradient = diagnose(found, self.lr, straightness=False, method=self.method)
            point = {name: tensor.clone() for name, tensor in found.point.items()}
        first = self._first
        turn = math.nan if first is None else cosine(gradient, self._gradient)
        path = self.records[-1].path + norm(minus(point, self._point)) if self.records else 0.0
        distance = 0.0 if first is None else norm(minus(point, first))
        self._first = point if first is None else first
        self._point = point
        self._gradient = gradient
        record = CorridorRecord(
            **asdict(here), step=len(self.records), turn=turn, path=path, distance=distance
        )
        self.records.append(record)
        return record

    def to_frame(self) -> pd.DataFrame:
        """One row an update."""
        frame = _frame(self.records)
        frame["path_straightness"] = [record.path_straightness for record in self.records]
        return frame


@dataclass(frozen=True)
class SharpnessRecord:
    """The curvature of the loss at one update.

    Attributes:
        step: the number of the update, from 0.
        loss: E.
        lr: h.
        sharpness: lambda_max.
        threshold: 2/h; above it gradient descent is unstable.
        curvature: ||H g^||, along the gradient; NaN where that is zero.
        gradient_norm: ||g||.
        residual: ||H u - lambda_max u||.
        n_products: Hessian-vector products of this update.
    """

    step: int
    loss: float
    lr: float
    sharpness: float
    threshold: float
    curvature: float
    gradient_norm: float
    residual: float
    n_products: int

    @property
    def is_stable(self) -> bool:
        """True below the edge of stability: lambda_max < 2/h."""
        return self.sharpness < self.threshold


class SharpnessMonitor:
    """The sharpness over training beside the edge of stability 2/h, and ||H g^||.

        lambda_max(H) against 2/h;  ||H g^|| with g^ = g/||g||, at most the spectral norm of H

    Full-batch gradient descent raises the sharpness to 2/h and stays there. Pass the loss that is
    trained on: the full batch, or a large fixed part of it. Cost of an update: one gradient with
    its graph and about 25 Hessian-vector products of two gradients each at the first, about 12
    afterwards, each from the eigenvector before; update every 10 to 100 steps.

    Source: Cohen et al. (2021), arXiv 2103.00065; Rosca, Wu, Qin, Dherin (2023), arXiv 2302.01952,
    for ||H g^||.

    Args:
        tolerance: relative accuracy of the sharpness.
        method: of the Hessian-vector products; see ``hessian_vector_product``.
        batch_norm: see ``landscape``.

    Attributes:
        records: one entry an update.

    Examples:
        >>> model = nn.Linear(2, 1, bias=False).double()
        >>> monitor = SharpnessMonitor()
        >>> record = monitor.update(model, lambda m: 3.0 * m.weight.square().sum(), lr=0.5)
        >>> round(record.sharpness, 6), record.threshold, record.is_stable
        (6.0, 4.0, False)
    """

    def __init__(
        self,
        *,
        tolerance: float = 1e-3,
        method: Method = "double_backward",
        batch_norm: BatchNorm = "refuse",
    ) -> None:
        self.tolerance = tolerance
        self.method = method
        self.batch_norm = batch_norm
        self.records: list[SharpnessRecord] = []
        self._vector: Tree | None = None

    def update(self, model: nn.Module | LoadedModel, loss: Loss, lr: float) -> SharpnessRecord:
        """Measure the present parameters, and add the record.

        Args:
            model: any module.
            loss: from the module to a 0-d tensor.
            lr: h of the present step.

        Raises:
            ValueError, RuntimeError: see ``sharpness``.
        """
        check_lr(lr)
        with landscape(model, loss, batch_norm=self.batch_norm) as found:
            here = found.expand(method=self.method)
            solver = Solver(tolerance=self.tolerance, start=self._vector)
            top = solver.solve(here.product, found.point, 1)
            size = norm(here.gradient)
            curvature = norm(here.product(here.gradient)) / size if size > 0.0 else math.nan
        self._vector = top.vectors[0]
        record = SharpnessRecord(
            step=len(self.records),
            loss=float(here.value),
            lr=lr,
            sharpness=top.largest,
            threshold=2.0 / lr,
            curvature=curvature,
            gradient_norm=size,
            residual=float(top.residuals[0]),
            n_products=top.n_products + 1,
        )
        self.records.append(record)
        return record

    def to_frame(self) -> pd.DataFrame:
        """One row an update."""
        return _frame(self.records)


def _frame(records: Sequence[CorridorRecord] | Sequence[SharpnessRecord]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame([asdict(record) for record in records])
