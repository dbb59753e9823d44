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
from geocollapse.regularizers import DriftCancellation
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


def test_zero_sum_interaction_raises_the_gradient_norm_of_the_opponent():
    """-c f_theta g = c/2 grad_phi ||grad_theta L||^2; alternating turns flip it for player 2."""
    loss = BUMPY[0]
    z = torch.tensor(START, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(lambda: z[:2], lambda: z[2:]), z, create_graph=True)
    of_theta, of_phi = gradient[2:].square().sum(), gradient[:2].square().sum()
    raises_1 = torch.autograd.grad(of_theta, z, retain_graph=True)[0][:2]
    raises_2 = torch.autograd.grad(of_phi, z)[0][2:]
    with game(*players(), loss, lambda a, b: -loss(a, b)) as found:
        terms = found.drift_terms()
    for order, sign in (("simultaneous", 1), ("alternating", -1)):
        drift = Turn(lr=(0.2, 0.2), order=order).drift()
        moved_1 = -drift.interaction_1 * terms.interaction_1["player1.z"]
        moved_2 = -drift.interaction_2 * terms.interaction_2["player2.z"]
        assert_close(moved_1, 0.05 * raises_1)
        assert_close(moved_2, sign * 0.05 * raises_2)


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

    refused = pytest.raises(RuntimeError, match="no batch normalisation in training mode")
    with refused, game(critic, generator, critic_loss, generator_loss):
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


def assert_refused(player1, player2, error, words):
    with pytest.raises(error, match=words), game(player1, player2, *BUMPY):
        pass


def test_bad_games_are_refused():
    a, b = players()
    assert_refused(a, a, ValueError, "no trained parameter in common, got 'z' of player 1")
    trunk = nn.Linear(2, 2).double()
    one, two = nn.Sequential(trunk, nn.Tanh()), nn.Sequential(nn.Linear(2, 2).double(), trunk)
    assert_refused(
        one, two, ValueError, "got '0.weight' of player 1 that is '1.weight' of player 2"
    )
    view = Player(START[:2])
    view.z.data = a.z.data
    assert_refused(a, view, ValueError, "no trained parameter in common")
    trunk.requires_grad_(False)
    assert_refused(one, two, ValueError, "player1: expected trained parameters, got none")
    assert_refused(3, b, TypeError, r"expected a torch\.nn\.Module, got int")


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
            with pytest.raises(ValueError, match=words):
                found.play(Turn())
            with pytest.raises(ValueError, match=words):
                found.modified_field(Turn())(found.point)
    steep = joint(lambda p: (p() ** 4).sum())
    refused = pytest.raises(ValueError, match="loss: expected a finite number")
    with game(*players([40.0, 1.0]), steep, steep) as found, refused:
        found.play(Turn(lr=(1.0, 1.0)), n_turns=50)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": (0.1, 0.0)}, r"lr: expected a positive rate for each of two players, got \(0.1, 0"),
        ({"lr": (0.1,)}, "lr: expected a positive rate for each of two players"),
        ({"order": "both"}, "order: expected 'simultaneous' or 'alternating', got 'both'"),
        ({"lr": 0.1}, "lr: expected a positive rate for each of two players, got 0.1; do"),
        ({"lr": ("a", 0.1)}, r"lr: expected a positive rate for each .* got \('a', 0.1\)"),
        ({"n_updates": (0, 1)}, r"n_updates: expected a whole number of .* 1 .* got \(0, 1\)"),
        ({"n_updates": (1.5, 1)}, r"n_updates: expected a whole number .* got \(1.5, 1\)"),
        ({"n_updates": 2}, "n_updates: expected a whole number .* got 2; do"),
    ],
)
def test_bad_turns_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Turn(**settings)


@pytest.mark.parametrize("n_turns", [-3, 1.5, "a"])
def test_bad_numbers_of_turns_are_refused(n_turns):
    with game(*players(), *BUMPY) as found:
        with pytest.raises(ValueError, match="n_turns: expected a whole number of at least 0, got"):
            found.play(Turn(), n_turns=n_turns)
        assert_close(vector(found.play(Turn(), n_turns=0)), START)


def test_bad_points_of_a_game_are_refused():
    with game(*players(), *BUMPY) as found:
        one = {"player1.z": found.point["player1.z"]}
        short = found.point | {"player2.z": torch.zeros(1).double()}
        for run in (found.values, found.drift_terms, lambda at: found.play(Turn(), at)):
            with pytest.raises(ValueError, match="at: expected a tensor for each .*'player2.z'"):
                run(one)
            with pytest.raises(ValueError, match=r"at: expected shape \(2,\) at 'player2.z'"):
                run(short)


def test_unknown_convention_is_refused():
    with pytest.raises(ValueError, match="convention: expected 'joint' or 'per_player', got 'own'"):
        Turn().drift("own")


# ---- cancelled drift


def train(turn, n_turns, terms=(), start=START, losses=BUMPY, **settings):
    """Turns in which both players add their terms, by hand on the modules themselves."""
    pair = players(start)
    cancel = [DriftCancellation(turn, n, terms=terms, **settings) for n in (1, 2)] if terms else []

    def gradient(n):
        own = pair[n].z
        value, term = cancel[n](*pair, *losses) if cancel else (losses[n](*pair), 0.0)
        return torch.autograd.grad(value + term, own)[0]

    for _ in range(n_turns):
        if turn.order == "alternating":
            for n in (0, 1):
                for _ in range(turn.n_updates[n]):
                    pair[n].z.data -= turn.lr[n] * gradient(n)
        else:
            moves = [gradient(n) for n in (0, 1)]
            for n in (0, 1):
                pair[n].z.data -= turn.lr[n] * moves[n]
    return np.concatenate([player.z.detach().numpy() for player in pair])


def cancelled_error(order, terms, left, updates=(1, 1), **settings):
    """Error of regularised turns at a fixed time against a flow with these coefficients left."""

    def error(h):
        turn = Turn((RATES[0] * h, RATES[1] * h), order, updates)
        n_turns = round(0.8 / h)
        end = train(turn, n_turns, terms, **settings)
        coefficients = np.array(drift_of(turn)) * np.array(left)
        field = plain.follow(
            lambda z: reference.modified(z, turn.total_lr, coefficients), START, n_turns
        )
        return np.linalg.norm(end - field)

    return error


@pytest.mark.parametrize("order", ["simultaneous", "alternating"])
def test_cancelled_terms_are_gone_to_second_order(order):
    both = ("interaction", "self")
    assert_order(cancelled_error(order, both, (0, 0, 0, 0)), 2, STEPS)
    assert_order(cancelled_error(order, ("interaction",), (1, 0, 1, 0)), 2, STEPS)
    assert_order(cancelled_error(order, ("self",), (0, 1, 0, 1)), 2, STEPS)
    # negative controls: no terms, half of them, and the own rate in place of the other's
    assert_order(cancelled_error(order, (), (0, 0, 0, 0)), 1, STEPS)
    assert_order(cancelled_error(order, both, (0, 0, 0, 0), weight=0.5), 1, STEPS)
    wrong = cancelled_error(order, both, (0, 0, 0, 0), convention="per_player")
    assert_order(wrong, 1, STEPS)


def test_cancelled_terms_of_several_updates_are_gone_to_second_order():
    both, steps = ("interaction", "self"), (0.01, 0.005, 0.0025)
    cancelled = cancelled_error("alternating", both, (0, 0, 0, 0), updates=(2, 3))
    assert_order(cancelled, 2, steps)
    left = cancelled_error("alternating", (), (0, 0, 0, 0), updates=(2, 3))
    assert_order(left, 1, steps)


def test_a_partial_weight_leaves_the_rest():
    left = cancelled_error("simultaneous", ("interaction",), (1, 0.5, 1, 0.5), weight=0.5)
    assert_order(left, 2, STEPS)


def test_the_cancelled_game_of_two_numbers_converges():
    """Simultaneous turns diverge; without the interaction they shrink as the flow does."""
    turn = Turn(lr=(0.2, 0.2))
    settings = {"start": [1.0, 0.0], "losses": linear_losses()}
    assert np.linalg.norm(train(turn, 300, **settings)) > 1.5
    assert np.linalg.norm(train(turn, 300, ("interaction",), **settings)) < 0.1


def test_the_cancelled_dirac_gan_keeps_its_circle():
    turn = Turn(lr=(0.1, 0.1))
    settings = {"start": [1.0, 1.0], "losses": (dirac, lambda a, b: -dirac(a, b))}
    grown = np.linalg.norm(train(turn, 100, **settings)) - math.sqrt(2)
    kept = np.linalg.norm(train(turn, 100, ("interaction", "self"), **settings)) - math.sqrt(2)
    assert grown > 0.1
    assert abs(kept) < 0.05 * grown


@pytest.mark.parametrize("player", [1, 2])
@pytest.mark.parametrize("order", ["simultaneous", "alternating"])
def test_terms_are_those_written_out(player, order):
    turn = Turn(lr=(0.3, 0.1), order=order)
    pair = players()
    cancel = DriftCancellation(turn, player, terms=("interaction", "self"))
    value, term = cancel(*pair, *BUMPY)
    own = player - 1
    of_1, of_2 = reference.FIRST.gradient(START), reference.SECOND.gradient(START)
    cross = of_1[2:] @ of_2[2:] if player == 1 else of_1[:2] @ of_2[:2]
    square = np.square(of_1[:2] if player == 1 else of_2[2:]).sum()
    drift = turn.drift()
    c_cross = drift.interaction_1 if player == 1 else drift.interaction_2
    c_self = drift.self_1 if player == 1 else drift.self_2
    assert cancel.coefficients == {"interaction": c_cross, "self": c_self}
    assert_close(value.detach(), BUMPY[own](*pair).detach())
    assert_close(term.detach(), -c_cross * cross - c_self * square)
    assert_close([cancel.last["interaction"], cancel.last["self"]], [cross, square])
    (found,) = torch.autograd.grad(term, pair[own].z)
    ff, fg, gg, gf = reference.drift_terms(START)
    expected = (c_cross * fg + c_self * ff) if player == 1 else (c_cross * gf + c_self * gg)
    assert_close(found, -expected)  # -grad of the term is +c times the drift


def test_gradcheck_in_the_own_parameters():
    """The stopped factor is held: the term is linear in it, so it is passed as a fixed loss."""
    held = torch.from_numpy(reference.SECOND.gradient(START)[2:])
    cancel = DriftCancellation(Turn(), 1)

    def term(z):
        first = Player(START[:2])
        spare = nn.Parameter(torch.zeros(1).double())
        del first.z
        first.z = z
        first.spare = spare  # a trained parameter, so that this is a player
        return cancel(
            first,
            Player(START[2:]),
            lambda a, b: BUMPY[0](a, b) + a.spare.sum(),
            lambda _a, b: (held * b()).sum(),
        )[1]

    z = torch.tensor(START[:2]).requires_grad_()
    assert torch.autograd.gradcheck(term, (z,))


def test_every_has_the_same_mean():
    turn, pair = Turn(lr=(0.3, 0.1)), players()
    once = DriftCancellation(turn, 1)(*pair, *BUMPY)[1]
    cancel = DriftCancellation(turn, 1, every=3)
    terms = [cancel(*pair, *BUMPY)[1].detach() for _ in range(6)]
    assert_close(sum(terms) / 6, once.detach())
    assert [float(term) != 0.0 for term in terms] == [True, False, False] * 2
    resumed = DriftCancellation(turn, 1, every=3)
    resumed.load_state_dict(cancel.state_dict())
    assert int(resumed.step) == 6


def gan(seed=0):
    torch.manual_seed(seed)
    layers = (nn.Linear(2, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    generator = nn.Sequential(*layers).double()
    critic = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    real = torch.randn(8, 3).double()

    def noise():
        return torch.randn(8, 2).double()

    def critic_loss(d, g):
        return (F.softplus(-d(real)) + F.softplus(d(g(noise())))).mean()

    def generator_loss(d, g):
        return F.softplus(-d(g(noise()))).mean()

    return critic, generator, critic_loss, generator_loss


@pytest.mark.parametrize("batch_norm", ["batch", "running"])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_gan_with_batch_normalisation(batch_norm, weight):
    """Running statistics, random state and loss are as without the terms."""
    critic, generator, critic_loss, generator_loss = gan()
    with pytest.raises(RuntimeError, match="no batch normalisation in training mode"):
        DriftCancellation(Turn(), 2)(critic, generator, critic_loss, generator_loss)
    cancel = DriftCancellation(Turn(), 2, weight=weight, batch_norm=batch_norm)
    torch.manual_seed(1)
    loss, term = cancel(critic, generator, critic_loss, generator_loss)
    after = torch.rand(1)
    found = generator[1].running_mean.clone()
    (loss + term).backward(inputs=list(generator.parameters()))
    assert all(p.grad is None for p in critic.parameters())
    assert all(p.grad is not None for p in generator.parameters())
    assert (term.item() != 0.0) == (weight > 0.0)
    assert "interaction" in cancel.last
    other = gan()
    torch.manual_seed(1)
    assert_close(loss.detach(), other[3](other[0], other[1]).detach())
    assert torch.equal(after, torch.rand(1))
    torch.testing.assert_close(found, other[1][1].running_mean)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_spectral_normalisation_is_updated_by_the_own_loss_alone(weight):
    def critics():
        critic, generator, *losses = gan()
        nn.utils.parametrizations.spectral_norm(critic[0])
        return critic.train(), generator.eval(), losses

    critic, generator, losses = critics()
    loss, term = DriftCancellation(Turn(), 1, weight=weight)(critic, generator, *losses)
    (loss + term).backward(inputs=list(critic.parameters()))
    other, generator, losses = critics()
    losses[0](other, generator)
    for (name, a), (_, b) in zip(critic.named_buffers(), other.named_buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


@pytest.mark.parametrize("build", [vision_transformer, text_classifier])
def test_terms_of_networks(build):
    """A network whose loss player 2 scales: <grad_b L1, grad_b L2> by hand."""
    model, loss = build()
    other = Player([0.5])

    def first(a, b):
        return loss(a) * (1.0 + b().sum())

    def second(a, b):
        return b().square().sum() - loss(a) * b().sum()

    cancel = DriftCancellation(Turn(lr=(0.2, 0.4)), 1)
    _, term = cancel(model, other, first, second)
    value = loss(model)
    expected = -0.2 * value * (1.0 - value.detach())
    assert_close(term.detach(), expected.detach())
    found, hand = (
        torch.autograd.grad(z, list(model.parameters()), allow_unused=True)
        for z in (term, expected)
    )
    for a, b in zip(found, hand, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_terms_under_autocast():
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))
    generator = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 3))
    real, noise = torch.randn(64, 3) + 1.0, torch.randn(64, 2)

    def critic_loss(d, g):
        return (F.softplus(-d(real)) + F.softplus(d(g(noise)))).mean()

    def generator_loss(d, g):
        return F.softplus(-d(g(noise))).mean()

    def rounded(loss):
        def of_players(d, g):
            with torch.autocast("cpu", torch.bfloat16):
                return loss(d, g)

        return of_players

    exact, rough = (critic_loss, generator_loss), (rounded(critic_loss), rounded(generator_loss))
    fields = []
    for losses in (exact, rough):
        with game(critic, generator, *losses) as found:
            fields.append(vector(found.modified_field(Turn(lr=(0.1, 0.1)))(found.point)))
    assert np.linalg.norm(fields[0] - fields[1]) < 0.05 * np.linalg.norm(fields[0])
    term, other = (
        DriftCancellation(Turn(lr=(0.1, 0.1)), 2)(critic, generator, *losses)[1].item()
        for losses in (exact, rough)
    )
    assert other == pytest.approx(term, rel=0.1)


def test_bad_cancellations_are_refused():
    pair = players()
    cancel = DriftCancellation(Turn(), 1)

    def refused(error, words, *losses, of=pair):
        with pytest.raises(error, match=words):
            cancel(*of, *(losses or BUMPY))

    refused(ValueError, "no trained parameter in common", of=(pair[0], pair[0]))
    refused(ValueError, "0-d tensor", lambda a, b: a() * b(), BUMPY[1])
    refused(ValueError, "finite number, got nan", BUMPY[0], lambda _a, b: b().sum() * torch.nan)
    words = "loss_1: expected a loss that depends on both players together"
    refused(ValueError, words, lambda a, _b: a().square().sum(), BUMPY[1])
    refused(ValueError, words, lambda a, b: a().square().sum() + b().sum(), BUMPY[1])
    refused(TypeError, "got DataParallel", of=(nn.DataParallel(pair[0]), pair[1]))
    with torch.no_grad():
        refused(RuntimeError, "expected gradients to be on")
    assert int(cancel.step) == 0
    cancel(*pair, *BUMPY)
    pair[1].z.data *= torch.nan
    refused(ValueError, "finite number, got nan")
    assert int(cancel.step) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"player": 0}, "player: expected 1 or 2, got 0"),
        ({"player": 1, "terms": ()}, r"terms: expected some of .*, got \(\)"),
        ({"player": 1, "terms": "self"}, "terms: expected some of .*, got 'self'"),
        ({"player": 1, "terms": ("drift",)}, "terms: expected some of"),
        ({"player": 1, "weight": -1.0}, "weight: expected a number of at least 0"),
        ({"player": 1, "batch_norm": "eval"}, "batch_norm: expected 'refuse', 'running' or 'bat"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DriftCancellation(Turn(), **settings)
