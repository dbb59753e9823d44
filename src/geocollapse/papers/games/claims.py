"""The claims of Rosca et al. (2021): signs and thresholds are fixed before any judged run."""

from __future__ import annotations

from geocollapse.papers.claims import Claim, Figure, PanelColumns
from geocollapse.papers.margins import MIN_SEEDS

RATE = 0.2  # of both players of the bilinear game
RATE_MARGIN = 0.05  # of the rate of the flow, on either side
MIN_ORDER = 1.5  # of the error in the rates: 2 is claimed, 1 is that of the flow of the game
MIN_RATES = 3  # behind an order

RULES = (
    "Game of two numbers: one value a starting point, which a seed draws; the game is linear, so "
    "that there is no interval and no p. Holds: all lie on the side of the margin that is claimed; "
    "does not hold: all lie on the other side; undecided otherwise, and below "
    f"{MIN_SEEDS} starting points. Orders: the slope of the logarithm of the distance between "
    "turns and flow over that of the rate, at one time. Holds: at least "
    f"{MIN_ORDER:g}; does not hold: less; undecided below {MIN_RATES} rates. Divergence: McNemar's "
    "exact test on the seeds that diverged in one arm alone, for each setting, with Holm's "
    "correction over all settings. Holds: p ≤ 0.05 on the side fixed before any judged run; does "
    "not hold: the same on the other side. A game that diverged counts as not converged in tables "
    "and figures; a step is a turn."
)

PLAY_ORDER = Claim(
    name="game-order",
    statement=(
        f"In the game of two numbers with the rate {RATE:g} simultaneous turns diverge and "
        "alternating ones converge."
    ),
    judged_by="threshold",
    effect="distance from the equilibrium at the end / at the start",
    figures=("game-distance",),
    cautions=(
        "The game is linear and seeds only rotate its starting point: they agree up to rounding in "
        "simultaneous turns, and up to a bounded factor in alternating ones. No interval over them "
        "would mean anything.",
        "The flow of the game converges at any rate: what diverges is its discretisation.",
    ),
    pairs={
        "simultaneous": "simultaneous turns, distance",
        "alternating": "alternating turns, distance",
    },
)

CANCELLED = Claim(
    name="game-cancelled",
    statement=(
        "Without their interaction terms simultaneous turns converge as the flow does: at its rate "
        f"up to {100 * RATE_MARGIN:g} %."
    ),
    judged_by="threshold",
    effect="rate of convergence / that of the flow",
    figures=("game-distance",),
    cautions=(
        "The game is linear and seeds only rotate its starting point: there is no interval.",
        "The self terms are left, which damp this game a little more than the flow.",
        "A cancelled drift is a change of the losses: the players no longer descend their own.",
    ),
    pairs={"cancelled": "cancelled turns, rate"},
)

MODIFIED_FLOW = Claim(
    name="game-modified-flow",
    statement=(
        "The turns of the Dirac GAN follow the modified flow to second order in the rates, in the "
        "joint convention of this library."
    ),
    judged_by="threshold",
    effect="order in the rates of the distance between turns and flow",
    figures=("game-distance", "game-gaps"),
    cautions=(
        "Nothing here is random: one run a rate, no interval.",
        "An order is about small rates: read the distances at your rate beside it.",
    ),
    pairs={"joint": "joint convention, order"},
)

PER_PLAYER = Claim(
    name="game-per-player-flow",
    statement=(
        "So they do in the convention of the paper, which expands each player in time units of its "
        "own."
    ),
    judged_by="threshold",
    effect="order in the rates of the distance between turns and flow",
    figures=("game-gaps",),
    cautions=(
        "With equal rates both conventions are the same formula.",
        "The paper states its formula player by player; that both together follow one flow, as "
        "they are read here, is this library's reading.",
    ),
    pairs={"per_player": "per-player convention, order"},
)

GAN_DIVERGENCE = Claim(
    name="gan-divergence",
    statement=(
        "Fewer GANs diverge in simultaneous turns when both players cancel their interaction drift."
    ),
    judged_by="threshold",
    effect="share of seeds that diverge, plain less cancelled",
    figures=("gan-distance", "gan-end"),
    cautions=(
        "Ten seeds decide only where nearly all of those that differ are on one side: five seeds "
        "on one side and none on the other have p = 0.03 before Holm's correction.",
        "Rates come from plain pilots with other seeds: those at which the distance rose most.",
        "Cancelled arms of the pilots (seeds 100 and 101) were also seen, and the rule for the "
        "rates was changed once, before any judged run.",
        "With spectral normalisation they are large, and the terms cancel drift to second order.",
        "The squared Fréchet distance of 8 x 8 pixels sees means and covariances, no digits.",
        "A cancelled turn costs about four times a plain one.",
    ),
    pairs={"diverged": "cancelled drift, divergence"},
)

CLAIMS = (PLAY_ORDER, CANCELLED, MODIFIED_FLOW, PER_PLAYER, GAN_DIVERGENCE)

FIGURES = (
    Figure(
        name="game-distance",
        title="Distance from the equilibrium",
        caption="First of the turns, then of the flow of the game and, where no drift is "
        "cancelled, of the modified flow at the same time.",
        kind="training",
        panels=(
            PanelColumns("distance"),
            PanelColumns("flow_distance"),
            PanelColumns("joint_distance"),
        ),
    ),
    Figure(
        name="game-gaps",
        title="Distance between turns and flows",
        caption="From the point played to the flow of the game, and to the modified flow in both "
        "conventions.",
        kind="training",
        panels=(
            PanelColumns("flow_gap"),
            PanelColumns("joint_gap"),
            PanelColumns("per_player_gap"),
        ),
    ),
    Figure(
        name="gan-distance",
        title="Squared Fréchet distance of generated digits",
        caption="A distance that is not finite is not drawn.",
        kind="training",
        panels=(PanelColumns("frechet_distance"),),
    ),
    Figure(
        name="gan-end",
        title="Late squared Fréchet distance against the lowest",
        caption="Late: the mean over the last records. A run has diverged whose late squared "
        "distance is above that of its start or above twice its lowest; one whose distance is not "
        "finite is not drawn.",
        kind="points",
        panels=(PanelColumns("late_frechet_distance", x="lowest_frechet_distance"),),
    ),
)
