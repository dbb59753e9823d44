"""Train a small GAN on digits with and without its interaction drift, and count what diverges.

    python examples/digits_gan.py --out runs.jsonl --seeds 0 1 2 3 4 5 6 7 8 9

trains the runs that the file does not hold yet, adds a line of JSON for each, and prints the share
of the seeds that diverged in each arm. Both arms of a seed start from the same networks and see the
same images and noise. Plain gradient descent, since the drift is that of gradient descent; spectral
normalisation in the discriminator, as in Rosca et al. (2021), unless ``--no-spectral-norm``.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from geocollapse.dynamics import GameLoss, PlayOrder, Turn
from geocollapse.regularizers import DriftCancellation
from geocollapse.runtime.provenance import provenance

ARMS = ("plain", "cancelled")
N_NOISE = 16
BATCH = 128
LOOK_EVERY = 50  # steps between looks at the Frechet distance
# diverged: not finite, or the last distance over the first, or over so many times the lowest
WORSE = 2.0

Run = dict[str, float | bool | str | list[float] | None]
Settings = dict[str, float | bool | str]


def digits() -> Tensor:
    """The 1,797 digits of scikit-learn (n, 64), scaled to [-1, 1]."""
    from sklearn.datasets import load_digits

    return torch.from_numpy(load_digits().data).float() / 8.0 - 1.0


def networks(seed: int, is_spectral: bool, width: int = 64) -> tuple[nn.Module, nn.Module]:
    """The discriminator and the generator."""
    torch.manual_seed(seed)

    def layers(n_in: int, n_out: int) -> list[nn.Module]:
        inner = (nn.Linear(n_in, width), nn.Softplus(), nn.Linear(width, width), nn.Softplus())
        return [*inner, nn.Linear(width, n_out)]

    discriminator = nn.Sequential(*layers(64, 1))
    for layer in discriminator:
        if is_spectral and isinstance(layer, nn.Linear):
            spectral_norm(layer)
    return discriminator, nn.Sequential(*layers(N_NOISE, 64), nn.Tanh())


def losses(real: Tensor, noise: Tensor) -> tuple[GameLoss, GameLoss]:
    """The zero-sum game of Goodfellow et al. (2014) on one batch."""

    def of_discriminator(d: nn.Module, g: nn.Module) -> Tensor:
        value: Tensor = (F.softplus(-d(real)) + F.softplus(d(g(noise)))).mean()
        return value

    return of_discriminator, lambda d, g: -of_discriminator(d, g)


def train(
    players: tuple[nn.Module, nn.Module],
    arm: str,
    turn: Turn,
    images: Tensor,
    *,
    seed: int,
    n_steps: int,
) -> Run:
    """One run: turns of both players, and the Frechet distance along the way."""
    optimizers = [
        torch.optim.SGD(p.parameters(), lr=lr) for p, lr in zip(players, turn.lr, strict=True)
    ]
    weight = 1.0 if arm == "cancelled" else 0.0
    cancel = (DriftCancellation(turn, 1, weight=weight), DriftCancellation(turn, 2, weight=weight))
    draws = torch.Generator().manual_seed(seed)
    look_noise = torch.randn(2000, N_NOISE, generator=torch.Generator().manual_seed(-seed - 1))
    distances = [distance(images, players[1], look_noise)]
    started = time.process_time()
    for step in range(1, n_steps + 1):
        rows = torch.randint(len(images), (BATCH,), generator=draws)
        game = losses(images[rows], torch.randn(BATCH, N_NOISE, generator=draws))
        if not take_turn(players, game, cancel if weight > 0.0 else (), optimizers, turn.order):
            distances.append(math.inf)
            break
        if step % LOOK_EVERY == 0:
            distances.append(distance(images, players[1], look_noise))
    return verdict(distances) | {"steps": step, "seconds": time.process_time() - started}


def take_turn(
    players: tuple[nn.Module, nn.Module],
    game: tuple[GameLoss, GameLoss],
    cancel: Sequence[DriftCancellation],
    optimizers: Sequence[torch.optim.Optimizer],
    order: PlayOrder,
) -> bool:
    """One turn; False if a loss is not finite."""
    for n, player in enumerate(players):
        value = game[n](*players)
        if not math.isfinite(value.item()):
            return False
        if cancel:
            value, term = cancel[n](*players, *game)
            value = value + term
        optimizers[n].zero_grad()
        value.backward(inputs=list(player.parameters()))
        if order == "alternating":
            optimizers[n].step()
    if order == "simultaneous":
        for optimizer in optimizers:
            optimizer.step()
    return True


@torch.no_grad()
def distance(images: Tensor, generator: nn.Module, noise: Tensor) -> float:
    """Frechet distance of two Gaussians: |m - m'|^2 + tr(C + C' - 2 (C C')^1/2), in pixels."""
    found = generator(noise).double()
    if not bool(torch.isfinite(found).all()):
        return math.inf
    real = images.double()
    gap = (real.mean(dim=0) - found.mean(dim=0)).square().sum()
    a, b = real.T.cov(), found.T.cov()
    roots = torch.linalg.eigvals(a @ b).real.clamp(min=0.0).sqrt().sum()
    return float(gap + a.trace() + b.trace() - 2.0 * roots)


def verdict(distances: Sequence[float]) -> Run:
    """Lowest and last distance (the mean of five looks), all of them, and whether it diverged."""
    last = sum(distances[-5:]) / len(distances[-5:])
    lowest = min(distances)
    diverged = not math.isfinite(last) or last > min(distances[0], WORSE * lowest)
    shown = last if math.isfinite(last) else None
    finite = [round(d, 3) for d in distances if math.isfinite(d)]
    return {"lowest": lowest, "last": shown, "diverged": diverged, "distances": finite}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the runs that are not stored yet, and print the share that diverged."""
    options = parse(arguments)
    torch.set_num_threads(1)
    images = digits()
    stored = options.out.read_text().splitlines() if options.out.exists() else []
    runs: list[Run] = [json.loads(line) for line in stored]
    turn = Turn((options.lr_d, options.lr_g), options.order)
    settings: Settings = {
        "order": options.order,
        "lr_d": options.lr_d,
        "lr_g": options.lr_g,
        "n_steps": options.steps,
        "spectral_norm": options.spectral_norm,
    }
    for seed in options.seeds:
        for arm in ARMS:
            key = {"arm": arm, "seed": seed, **settings}
            if any(key.items() <= run.items() for run in runs):
                continue
            players = networks(seed, options.spectral_norm)
            found = train(players, arm, turn, images, seed=seed, n_steps=options.steps)
            run = {**key, **found}
            runs.append(run)
            with options.out.open("a") as file:
                file.write(json.dumps(run | {"provenance": provenance(seed=seed)}) + "\n")
    show([run for run in runs if settings.items() <= run.items()])


def show(runs: Sequence[Run]) -> None:
    """Print the share that diverged and the last distances, a line for each arm."""
    for arm in ARMS:
        of_arm = [run for run in runs if run["arm"] == arm]
        diverged = sum(bool(run["diverged"]) for run in of_arm)
        lasts = ", ".join("inf" if run["last"] is None else f"{run['last']:.3g}" for run in of_arm)
        print(f"{arm}: {diverged} of {len(of_arm)} diverged; last Frechet distances: {lasts}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=4000, help="turns of a run")
    parser.add_argument("--order", choices=["simultaneous", "alternating"], default="simultaneous")
    parser.add_argument("--spectral-norm", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--lr-d", type=float, default=0.2, help="rate of the discriminator")
    parser.add_argument("--lr-g", type=float, default=0.1, help="rate of the generator")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
