import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geocollapse.jacobian import probes

KINDS = [probes.rademacher, probes.gaussian, probes.orthogonal, probes.sampled_outputs]


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(-(2**70), 2**70), shuffle=st.randoms(use_true_random=False))
@settings(max_examples=15)
def test_a_probe_belongs_to_its_example(kind, seed, shuffle):
    indices = torch.tensor(shuffle.sample(range(10**12), 6))
    together = kind(seed, indices, 3, 7)
    for row, index in enumerate(indices):
        assert torch.equal(together[row], kind(seed, index[None], 3, 7)[0])


@pytest.mark.parametrize("kind", [probes.rademacher, probes.gaussian, probes.orthogonal])
def test_probe_k_does_not_depend_on_how_many_are_drawn(kind):
    indices = torch.arange(5)
    torch.testing.assert_close(kind(3, indices, 2, 9), kind(3, indices, 6, 9)[:, :2])


@pytest.mark.parametrize("kind", KINDS)
def test_second_moment_is_the_identity(kind):
    v = kind(0, torch.arange(40_000), 1, 6)[:, 0].double()
    moment = v.T @ v / len(v)
    torch.testing.assert_close(moment, torch.eye(6, dtype=torch.float64), atol=0.06, rtol=0)


def test_examples_seeds_and_probes_are_independent():
    v = probes.rademacher(0, torch.arange(20_000), 2, 3).double()
    assert abs(float((v[:, 0, 0] * v[:, 1, 0]).mean())) < 0.03
    assert abs(float((v[1:, 0, 0] * v[:-1, 0, 0]).mean())) < 0.03
    other = probes.rademacher(1, torch.arange(20_000), 1, 3).double()
    assert abs(float((v[:, 0, 0] * other[:, 0, 0]).mean())) < 0.03


def test_gaussian_has_normal_moments():
    g = probes.gaussian(0, torch.arange(100_000), 1, 3).flatten()
    assert abs(float(g.mean())) < 0.01
    assert abs(float(g.pow(4).mean()) - 3) < 0.05


def test_orthogonal_rows_are_orthogonal_and_scaled():
    q = probes.orthogonal(2, torch.arange(4), 5, 5)
    torch.testing.assert_close(q @ q.mT, 5 * torch.eye(5, dtype=q.dtype).expand(4, 5, 5))


def test_sampled_outputs_are_distinct():
    s = probes.sampled_outputs(0, torch.arange(50), 4, 4)
    assert bool(((s != 0).sum(dim=1) == 1).all())


@pytest.mark.parametrize("kind", [probes.orthogonal, probes.sampled_outputs])
def test_too_many_probes(kind):
    with pytest.raises(
        ValueError, match=r"n_probes: expected at most n_features = 3 .* got 4; do n_probes=3"
    ):
        kind(0, torch.arange(2), 4, 3)


def test_random_order_is_a_permutation_free_of_the_probes():
    indices = torch.arange(10_000)
    order = probes.random_order(0, indices)
    assert torch.equal(order.sort().values, indices)
    early = probes.rademacher(0, order[:5000], 1, 64).double()[:, 0]
    assert float(early.mean(dim=0).abs().max()) < 0.06


def test_no_position_has_a_fixed_place_in_the_random_order():
    places = [
        int((probes.random_order(seed, torch.arange(101)) == position).nonzero())
        for seed in range(40)
        for position in (0, 1, 100)
    ]
    assert len(set(places)) > 50
    for n in (1001, 10001):  # the hash of seed 0 and position 0 was 0, the middle of all
        place = int((probes.random_order(0, torch.arange(n)) == 0).nonzero())
        assert abs(place / n - 0.5) > 0.05


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_no_word_of_the_first_example_is_0(seed):
    assert bool((probes._key(seed, torch.arange(3)) != 0).all())
    assert bool((probes.random_bits(seed, torch.arange(3), 4, 4) != 0).all())
