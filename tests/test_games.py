"""Two-player games and the terms that cancel their drift: laws of siblings F."""

import math

import numpy as np
import pytest
import torch
from laws import assert_close, assert_order
from reference import dynamics as plain
from reference import games as reference
from reference.games import START
from torch import nn
from torch.nn import functional as F

from geocollapse.dynamics import DriftCoefficients, Turn, flow, game
from landscapes import loss_of, resnet, text_classifier, vector, vision_transformer

STEPS = (0.04, 0.02, 0.01)
RATES = (1.0, 0.4)  # times h: of player 1 and of player 2


class Player(nn.Module):
    def __init__(self, z):
        super().__init__()
        self.z = nn.Parameter(torch.as_tensor(np.array(z), dtype=torch.float64))

    def forward(self):
        return self.z


def players(z=START):
    half = len(z) // 2
    return Player(z[:half]), Player(z[half:])


def joint(loss):
    """A loss of all numbers as one of two players."""
    return lambda a, b: loss(lambda: torch.cat([a(), b()]))


BUMPY = (joint(loss_of(reference.FIRST)), joint(loss_of(reference.SECOND)))


def drift_of(turn, convention="joint"):
    found = turn.drift(convention)
    return found.self_1, found.interaction_1, found.self_2, found.interaction_2


# ---- turns and their drift


@pytest.mark.parametrize("order", ["simultaneous", "alternating"])
@pytest.mark.parametrize("updates", [(1, 1), (3, 2)])
def test_turns_are_those_written_out(order, updates):
    turn = Turn(lr=(0.05, 0.03), order=order, n_updates=updates)
    with game(*players(), *BUMPY) as found:
        end = found.play(turn, n_turns=4)
    expected = reference.play(START, turn.lr, order == "alternating", updates, 4)
    assert_close(vector(end), expected)


def test_terms_and_fields_are_those_derived_by_hand():
    turn = Turn(lr=(0.2, 0.1), order="alternating", n_updates=(2, 3))
    with game(*players(), *BUMPY) as found:
        terms = found.drift_terms()
        field = found.field(turn)(found.point)
        modified = found.modified_field(turn)(found.point)
        values = found.values()
    assert_close(values, [reference.FIRST.loss(START), reference.SECOND.loss(START)])
    ff, fg, gg, gf = reference.drift_terms(START)
    zero = np.zeros(2)
    assert_close(vector(terms.self_1), np.concatenate([ff, zero]))
    assert_close(vector(terms.interaction_1), np.concatenate([fg, zero]))
    assert_close(vector(terms.self_2), np.concatenate([zero, gg]))
    assert_close(vector(terms.interaction_2), np.concatenate([zero, gf]))
    assert_close(vector(field), reference.modified(START, turn.total_lr, (0, 0, 0, 0)))
    assert_close(vector(modified), reference.modified(START, turn.total_lr, drift_of(turn)))


def test_coefficients():
    same = Turn(lr=(0.2, 0.2)).drift()
    assert_close([same.self_1, same.interaction_1, same.self_2, same.interaction_2], [0.1] * 4)
    several = Turn(lr=(0.2, 0.1), n_updates=(3, 5)).drift()
    assert_close(several.self_1, 0.1)  # (m a)/(2 m)
    assert_close(several.interaction_1, 0.25)  # the other player's total rate
    assert_close(several.interaction_2, 0.3)
    for order, sign in (("simultaneous", 1), ("alternating", -1)):
        turn = Turn(lr=(0.2, 0.2), order=order)
        assert_close(drift_of(turn), drift_of(turn, "per_player"))
        assert_close(turn.drift().interaction_2, sign * 0.1)
    paper = Turn(lr=(0.3, 0.1), order="alternating").drift("per_player")
    expected = DriftCoefficients(0.15, 0.15, 0.05, 0.05 * (1 - 2 * 0.3 / 0.1))
    for name in vars(expected):
        assert_close(getattr(paper, name), getattr(expected, name))


def flow_error(order, updates, change=None, convention="joint", time=0.8):
    """Error at a fixed time of the flow with the coefficients of a turn, one of them changed."""

    def error(h):
        turn = Turn((RATES[0] * h, RATES[1] * h), order, updates)
        n_turns = round(time / h)
        end = reference.play(START, turn.lr, order == "alternating", updates, n_turns)
        coefficients = np.array(drift_of(turn, convention))
        if change is not None:
            coefficients[change] *= 0.5
        field = plain.follow(
            lambda z: reference.modified(z, turn.total_lr, coefficients), START, n_turns
        )
        return np.linalg.norm(end - field)

    return error


@pytest.mark.parametrize("order", ["simultaneous", "alternating"])
@pytest.mark.parametrize("updates", [(1, 1), (2, 3)])
def test_turns_follow_the_joint_flow_to_second_order(order, updates):
    steps = tuple(h / max(updates) for h in STEPS)
    assert_order(flow_error(order, updates), 2, steps)
    for change in range(4):  # each coefficient halved
        assert_order(flow_error(order, updates, change), 1, steps)


@pytest.mark.parametrize("order", ["simultaneous", "alternating"])
def test_the_per_player_flow_is_only_first_order_at_unequal_rates(order):
    assert_order(flow_error(order, (1, 1), convention="per_player"), 1, STEPS)


def test_the_library_follows_its_own_turns():
    def error(h):
        turn = Turn((RATES[0] * h, RATES[1] * h), "alternating")
        n_turns = round(0.8 / h)
        with game(*players(), *BUMPY) as found:
            end = found.play(turn, n_turns=n_turns)
            expected = flow(found.modified_field(turn), found.point, n_turns, n_steps=20)
        return np.linalg.norm(vector(end) - vector(expected))

    assert_order(error, 2, STEPS)


# ---- games worked out on paper


LINEAR = np.array([[-0.09, 1.0], [-1.0, -0.09]])  # x' = -e x + y, y' = -x - e y


def linear_losses(e=0.09):
    def first(a, b):
        return (e * a().square() / 2 - a() * b()).sum()

    def second(a, b):
        return (e * b().square() / 2 + a() * b()).sum()

    return first, second


@pytest.mark.parametrize(("order", "radius"), [("simultaneous", 1.0022), ("alternating", 0.9820)])
def test_radius_of_the_game_of_two_numbers(order, radius):
    turn = Turn(lr=(0.2, 0.2), order=order)
    matrix = reference.linear_turn(LINEAR, 0.2, order == "alternating")
    columns = []
    for start in np.eye(2):
        with game(*players(start), *linear_losses()) as found:
            columns.append(vector(found.play(turn)))
    assert_close(np.stack(columns, axis=1), matrix)
    assert_close(np.abs(np.linalg.eigvals(matrix)).max(), radius, atol=5e-5)
    with game(*players([1.0, 0.0]), *linear_losses()) as found:
        end = np.linalg.norm(vector(found.play(turn, n_turns=1000)))
        led = np.linalg.norm(vector(flow(found.modified_field(turn), found.point, 100)))
    assert (end > 1.0) == (radius > 1.0)
    assert (led > 1.0) == (radius > 1.0)  # the modified flow says the same; the plain one decays


def dirac(a, b):
    """The Dirac GAN: a generator of one point a, and the discriminator x -> b x."""
    return -F.softplus(-a() * b()).sum()


def dirac_radius(order, n_turns=100, lr=(0.1, 0.1), field=None):
    with game(*players([1.0, 1.0]), dirac, lambda a, b: -dirac(a, b)) as found:
        turn = Turn(lr=lr, order=order)
        if field is None:
            return float(np.linalg.norm(vector(found.play(turn, n_turns=n_turns))))
        velocity = found.field(turn) if field == "plain" else found.modified_field(turn)
        return float(np.linalg.norm(vector(flow(velocity, found.point, n_turns, n_steps=400))))


def test_dirac_gan():
    """From (1, 1): the flow keeps circling, simultaneous turns spiral out, alternating ones do not.

    a' = -s(-a b) b, b' = s(-a b) a keeps a^2 + b^2.
    """
    start = math.sqrt(2.0)
    assert_close(dirac_radius("simultaneous", field="plain"), start, 1e-4)
    outwards = dirac_radius("simultaneous")
    assert outwards > 1.05 * start
    assert abs(dirac_radius("alternating") - start) < 0.05
    assert_close(dirac_radius("simultaneous", field="modified"), outwards, 0.02)


# ---- networks


def test_players_are_handed_back_as_they_were():
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    critic = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 1))
    noise, real = torch.randn(8, 2), torch.randn(8, 3)
    before = [tensor.clone() for m in (generator, critic) for tensor in m.state_dict().values()]
    state = torch.get_rng_state()

    def critic_loss(d, g):
        return (F.softplus(-d(real)) + F.softplus(d(g(noise)))).mean()

    def generator_loss(d, g):
        return F.softplus(-d(g(noise))).mean()

    with pytest.raises(RuntimeError, match="no batch normalisation in training mode"):
        with game(critic, generator, critic_loss, generator_loss):
            pass
    with game(critic, generator, critic_loss, generator_loss, batch_norm="batch") as found:
        end = found.play(Turn(lr=(0.1, 0.1), order="alternating", n_updates=(2, 1)), n_turns=3)
        found.modified_field(Turn())(found.point)
    assert {name.split(".")[0] for name in end} == {"player1", "player2"}
    after = [tensor for m in (generator, critic) for tensor in m.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert generator.training
    assert all(p.grad is None and p.requires_grad for p in [*generator.parameters()])


@pytest.mark.parametrize("build", [vision_transformer, text_classifier, resnet])
def test_a_network_against_noise_in_its_logits(build):
    """Each kind of network as player 1; player 2 shifts its loss."""
    model, loss = build()
    other = Player([0.5])
    with game(
        model,
        other,
        lambda a, b: loss(a) * (1.0 + b().sum()),
        lambda a, b: b().square().sum() - loss(a) * b().sum(),
        batch_norm="running",
    ) as found:
        terms = found.drift_terms()
        end = found.play(Turn(lr=(0.01, 0.01)))
    value = loss(model.eval())
    gradients = torch.autograd.grad(value, list(model.parameters()))
    # g = -2 b + L and f_theta = -grad L, so that f_theta g = -grad L (L - 2 b)
    expected = [-(value - 1.0) * z for z in gradients]
    of_model = [z for name, z in terms.interaction_1.items() if name.startswith("player1.")]
    for z, hand in zip(of_model, expected, strict=True):
        torch.testing.assert_close(z, hand.detach(), rtol=1e-8, atol=1e-10)
    assert set(end) == set(terms.self_1)


# ---- refusals


def test_bad_games_are_refused():
    a, b = players()
    with pytest.raises(ValueError, match="no trained parameter in common, got 'z' of player 1"):
        with game(a, a, *BUMPY):
            pass
    trunk = nn.Linear(2, 2).double()
    one, two = nn.Sequential(trunk, nn.Tanh()), nn.Sequential(nn.Linear(2, 2).double(), trunk)
    words = "got '0.weight' of player 1 that is '1.weight' of player 2"
    with pytest.raises(ValueError, match=words), game(one, two, *BUMPY):
        pass
    view = Player(START[:2])
    view.z.data = a.z.data
    with pytest.raises(ValueError, match="no trained parameter in common"):
        with game(a, view, *BUMPY):
            pass
    trunk.requires_grad_(False)
    with pytest.raises(ValueError, match="player1: expected trained parameters, got none"):
        with game(one, two, *BUMPY):
            pass
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module, got int"):
        with game(3, b, *BUMPY):
            pass


def test_a_frozen_part_may_be_shared():
    trunk = nn.Linear(2, 2).double().requires_grad_(False)
    one = nn.Sequential(trunk, nn.Linear(2, 1).double())
    two = nn.Sequential(trunk, nn.Linear(2, 1).double())
    x = torch.ones(3, 2).double()

    def first(a, b):
        return (a(x) * b(x)).mean()

    with game(one, two, first, lambda a, b: -first(a, b)) as found:
        end = found.play(Turn())
    assert set(end) == {f"player{n}.1.{p}" for n in (1, 2) for p in ("weight", "bias")}


def test_bad_losses_are_refused():
    good = BUMPY[1]
    for bad, words in (
        (lambda a, b: torch.cat([a(), b()]), "loss: expected a 0-d tensor"),
        (lambda a, b: a().sum() * torch.nan, "loss: expected a finite number, got nan"),
        (lambda _a, b: b().sum(), "gradient path to every trained parameter.*'player1.z'"),
    ):
        with game(*players(), bad, good) as found:
            for run in (found.play, found.modified_field):
                with pytest.raises(ValueError, match=words):
                    result = run(Turn())
                    result(found.point) if callable(result) else None
    with game(*players([40.0, 1.0]), *(joint(lambda p: (p() ** 4).sum()),) * 2) as found:
        with pytest.raises(ValueError, match="loss: expected a finite number"):
            found.play(Turn(lr=(1.0, 1.0)), n_turns=50)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": (0.1, 0.0)}, r"lr: expected a positive rate for each of two players, got \(0.1, 0"),
        ({"lr": (0.1,)}, "lr: expected a positive rate for each of two players"),
        ({"order": "both"}, "order: expected 'simultaneous' or 'alternating', got 'both'"),
        ({"n_updates": (0, 1)}, r"n_updates: expected at least 1 .* got \(0, 1\)"),
    ],
)
def test_bad_turns_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Turn(**settings)


def test_unknown_convention_is_refused():
    with pytest.raises(ValueError, match="convention: expected 'joint' or 'per_player', got 'own'"):
        Turn().drift("own")
