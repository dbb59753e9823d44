"""Fitting a Morse network: batches of data and noise, early stopping, the warning of collapse."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from geocollapse.arrays import Array
from geocollapse.estimate import GeocollapseWarning
from geocollapse.modules.borrow import in_mode
from geocollapse.morse.noise import (
    Box,
    Noise,
    NoiseName,
    as_box,
    as_noise,
    check_inside,
)
from geocollapse.numerics import check_finite
from geocollapse.runtime.progress import Advance, progress_bar

if TYPE_CHECKING:
    from geocollapse.morse.density import Density

COLLAPSED = 0.9  # a mean density of uniform noise from which on a fit is called collapsed
_MOST_HELD_OUT = 1024  # examples, so that looking at them costs little
_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How a Morse network is fitted, by Adam.

    Attributes:
        n_steps: steps at most.
        batch_size: data of one step, drawn with replacement.
        noise_share: noise of one step, as a share of the batch.
        learning_rate: of Adam.
        held_out: share of the data that is not trained on, for early stopping; 0 for none.
        look_every: steps between two looks at the held-out share.
        patience: looks without a better loss after which the fit stops.
        progress: show a progress bar on stderr.
    """

    n_steps: int = 1500
    batch_size: int = 256
    noise_share: float = 0.25
    learning_rate: float = 1e-3
    held_out: float = 0.1
    look_every: int = 100
    patience: int = 5
    progress: bool = False

    def __post_init__(self) -> None:
        counts = ("n_steps", "batch_size", "look_every", "patience")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name}: expected at least 1, got {getattr(self, name)}; do {name}=100"
                )
        for name in ("learning_rate", "noise_share"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(
                    f"{name}: expected a positive number, got {value}; do leave it out"
                )
        if not 0.0 <= self.held_out < 1.0:
            raise ValueError(
                f"held_out: expected a share from 0 to below 1, got {self.held_out}; do "
                f"held_out=0.1"
            )

    @property
    def n_noise(self) -> int:
        """Noise examples of one step."""
        return max(1, round(self.noise_share * self.batch_size))


@dataclass(frozen=True)
class FitRecord:
    """How a fit went.

    Attributes:
        n_steps: steps taken.
        best_step: after which the parameters are those that were kept.
        stopped_early: the held-out loss had not improved for a while.
        steps: of the looks.
        losses: the held-out loss at each look, or of the last batch without a held-out share.
        noise_density: mean density of uniform noise in the box after the fit; near 1 if the network
            has collapsed.
    """

    n_steps: int
    best_step: int
    stopped_early: bool
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    noise_density: float


@dataclass(frozen=True, eq=False)
class _Data:
    """Data (n, ...) with labels (n,), or without."""

    x: Tensor
    y: Tensor | None

    def rows(self, rows: Tensor) -> _Data:
        x = self.x.index_select(0, rows)  # three times as fast as x[rows]
        return _Data(x, None if self.y is None else self.y[rows])


@dataclass(frozen=True, eq=False)
class _Task:
    """What is fitted, to which data, against which noise."""

    network: Density
    data: _Data
    trained: Tensor  # rows of the data: a copy of them would cost as much as many steps
    held_out: _Data | None
    noise: Noise | None
    held_noise: Tensor | None
    weight: float
    settings: FitSettings
    generator: torch.Generator

    def batch_loss(self) -> Tensor:
        """The loss of a new batch of data and noise."""
        rows = self.trained
        size = (self.settings.batch_size,)
        chosen = torch.randint(len(rows), size, generator=self.generator, device=rows.device)
        noise = None
        if self.noise is not None:
            noise = self.noise.draw(self.settings.n_noise, self.generator)
        return self._loss(self.data.rows(rows[chosen]), noise)

    @torch.no_grad()
    def held_out_loss(self) -> float | None:
        """The loss of the held-out share, with the map in evaluation mode."""
        if self.held_out is None:
            return None
        with in_mode(self.network, training=False):
            return float(self._loss(self.held_out, self.held_noise))

    def _loss(self, part: _Data, noise: Tensor | None) -> Tensor:
        return self.network.loss_at(part.x, noise, labels=part.y, weight=self.weight)


class _Best:
    """The best parameters so far, and the looks."""

    def __init__(self, map: nn.Module) -> None:
        self.map = map
        self.loss = math.inf
        self.step = 0
        self.state: dict[str, Tensor] = {}
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.n_worse = 0

    def look(self, step: int, loss: float) -> None:
        """Keep the parameters if their loss is the smallest so far."""
        self.steps.append(step)
        self.losses.append(loss)
        if loss < self.loss:
            self.loss = loss
            self.step = step
            self.state = {name: t.detach().clone() for name, t in self.map.state_dict().items()}
            self.n_worse = 0
        else:
            self.n_worse += 1


def fit(
    network: Density,
    x: Array,
    y: Tensor | None,
    *,
    noise: NoiseName | Array | None,
    box: Box | Sequence[Array] | None,
    weight: float,
    seed: int,
    settings: FitSettings | None,
) -> FitRecord:
    """Fit the map of ``network`` to data; see ``MorseNetwork.fit``."""
    settings = FitSettings() if settings is None else settings
    if not (math.isfinite(weight) and weight > 0.0):
        raise ValueError(
            f"weight: expected a positive number, got {weight}; do noise=None to fit without noise"
        )
    map = _trainable(network)
    data = _checked(network.enter(x))
    whole = Box.around(data) if box is None else as_box(box, data)
    if box is not None:
        _check_data_inside(data, whole)
    found = None if noise is None else as_noise(noise, data, whole)
    if box is not None and found is not None:
        check_inside(found, whole)
    generator = torch.Generator(data.device).manual_seed(seed)
    labels = None if y is None else y.to(data.device)
    task = _task(network, _Data(data, labels), found, weight, settings, generator)
    network.keep_box(whole)
    devices = [data.device] if data.device.type == "cuda" else []
    with (
        in_mode(network, training=True),
        torch.random.fork_rng(devices),
        progress_bar("fit", shown=settings.progress) as bar,
    ):
        torch.manual_seed(seed)  # of what is random in the map, such as dropout
        best, n_steps = _trained(task, map, bar)
    if best.state:
        map.load_state_dict(best.state)
    density = mean_density(network, whole.draw(_CHUNK, generator))
    _warn_of_collapse(density, has_noise=found is not None)
    return FitRecord(
        n_steps=n_steps,
        best_step=best.step,
        stopped_early=n_steps < settings.n_steps,
        steps=tuple(best.steps),
        losses=tuple(best.losses),
        noise_density=density,
    )


@torch.no_grad()
def mean_density(network: Density, x: Tensor) -> float:
    """The mean of mu over examples (n, ...), with the map in evaluation mode."""
    with in_mode(network, training=False):
        return float(network.density(x).mean())


def _trained(task: _Task, map: nn.Module, bar: Advance) -> tuple[_Best, int]:
    """Take the steps; returns the best parameters and the number of steps."""
    settings = task.settings
    parameters = [parameter for parameter in map.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate, fused=_fuses(parameters))
    best = _Best(map)
    for step in range(1, settings.n_steps + 1):
        loss = task.batch_loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % settings.look_every and step < settings.n_steps:
            continue
        held_out = task.held_out_loss()
        value = float(loss.detach()) if held_out is None else held_out
        if not math.isfinite(value):
            raise RuntimeError(
                f"loss: expected a finite number, got {value} at step {step}; do a smaller "
                f"learning rate than {settings.learning_rate:g}, or a smaller scale"
            )
        best.look(step, value)
        bar(step, settings.n_steps, f"loss {value:.3g}")
        if held_out is not None and best.n_worse >= settings.patience:
            return best, step
    if task.held_out is None:  # the loss of single batches chooses nothing
        best.state = {}
        best.step = settings.n_steps
    return best, settings.n_steps


def _task(
    network: Density,
    data: _Data,
    noise: Noise | None,
    weight: float,
    settings: FitSettings,
    generator: torch.Generator,
) -> _Task:
    """Split the data, and draw the noise that the held-out share is looked at with."""
    n = len(data.x)
    n_held = min(round(settings.held_out * n), n - 1)
    order = torch.randperm(n, generator=generator, device=generator.device).to(data.x.device)
    looked_at = min(n_held, _MOST_HELD_OUT)
    held_noise = None
    if noise is not None and n_held:
        held_noise = noise.draw(max(looked_at, 256), generator)
    return _Task(
        network=network,
        data=data,
        trained=order[n_held:],
        held_out=data.rows(order[:looked_at]) if n_held else None,
        noise=noise,
        held_noise=held_noise,
        weight=weight,
        settings=settings,
        generator=generator,
    )


def _trainable(network: Density) -> nn.Module:
    map = network.map
    if isinstance(map, nn.Module) and any(p.requires_grad for p in map.parameters()):
        return map
    raise ValueError(
        "map: expected a module with parameters to fit, got none; do MorseNetwork(dense_map(p, k))"
    )


def _checked(x: Tensor) -> Tensor:
    """Data (n, ...) of at least two finite examples."""
    if x.ndim < 2 or len(x) < 2 or not x.is_floating_point():
        raise ValueError(
            f"x: expected floating point examples (n, ...) with n of at least 2, got {x.dtype} of "
            f"shape {tuple(x.shape)}; do x.float(), and x[:, None] for numbers"
        )
    check_finite("x", x)
    return x.detach()


def _check_data_inside(x: Tensor, box: Box) -> None:
    outside = int((~box.contains(x)).sum())
    if outside:
        warnings.warn(
            f"box: {outside} of {len(x)} examples lie outside the box, where no uniform noise "
            f"keeps the density low",
            GeocollapseWarning,
            stacklevel=4,
        )


def _warn_of_collapse(density: float, *, has_noise: bool) -> None:
    if density < COLLAPSED:
        return
    remedy = "do a larger weight or a larger map" if has_noise else "do noise='uniform'"
    warnings.warn(
        f"density: the network has collapsed: uniform noise has a mean density of {density:.2f}, "
        f"so nothing counts as unlike the data; {remedy}",
        GeocollapseWarning,
        stacklevel=4,
    )


def _fuses(parameters: list[nn.Parameter]) -> bool:
    """True where Adam has a fused step, the faster one for small maps."""
    kinds = {parameter.device.type for parameter in parameters}
    return kinds <= {"cpu", "cuda"} and all(p.is_floating_point() for p in parameters)
