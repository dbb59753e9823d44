"""L2 and spectral norm penalties: values, gradients, equivalences, state, refusals."""

import math
from itertools import pairwise

import pytest
import torch
from reference import regularisers as reference
from torch import nn
from torch.nn.utils import parametrizations

from geocollapse.regularizers import L2Penalty, SpectralNormPenalty, spectral_norms


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Tanh(), nn.ConvTranspose2d(6, 4, 2), nn.Flatten(), nn.Linear(36, 5)
    ).double()


# Spectral norms


def test_spectral_norms_agree_with_the_reference():
    model = network()
    found = spectral_norms(model)
    assert list(found) == ["0.weight", "2.weight", "4.weight"]
    matrices = (model[0].weight, model[2].weight.transpose(0, 1), model[4].weight)
    for sigma, weight in zip(found.values(), matrices):
        assert sigma == pytest.approx(reference.spectral_norm(weight), rel=1e-6)


def test_the_kept_vectors_reach_the_spectral_norm():
    model = network()
    penalty = SpectralNormPenalty(1.0)
    exact = sum(sigma**2 for sigma in spectral_norms(model).values())
    values = []
    for _ in range(400):
        penalty(model)
        values.append(penalty.last.value)
    assert all(b >= a * (1 - 1e-12) for a, b in pairwise(values))  # from below
    assert values[-1] == pytest.approx(exact, rel=1e-8)
    assert values[0] < exact * (1 - 1e-6)  # the negative control: one step is not enough


def test_its_gradient_is_that_of_the_singular_value():
    model = nn.Linear(5, 4).double()
    penalty = SpectralNormPenalty(0.3, n_iterations=500)
    penalty(model).backward()
    weight = model.weight.detach().requires_grad_()
    (0.15 * torch.linalg.matrix_norm(weight, 2) ** 2).backward()
    torch.testing.assert_close(model.weight.grad, weight.grad, rtol=1e-6, atol=1e-9)
    assert model.bias.grad is None


def test_it_scales_with_the_square_of_the_weights():
    model = nn.Linear(6, 6).double()
    before = SpectralNormPenalty(1.0, n_iterations=200)(model).item()
    with torch.no_grad():
        model.weight.mul_(3.0)
    after = SpectralNormPenalty(1.0, n_iterations=200)(model).item()
    assert after == pytest.approx(9 * before, rel=1e-9)


def test_descending_it_shrinks_the_largest_singular_value_alone():
    model = nn.Linear(4, 4, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.diag(torch.tensor([3.0, 1.0, 0.5, 0.1])))
    penalty = SpectralNormPenalty(1.0, n_iterations=50)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        penalty(model).backward()
        optimizer.step()
    found = model.weight.detach().diagonal()
    torch.testing.assert_close(found[1:], torch.tensor([1.0, 0.5, 0.1]).double())
    assert float(found[0]) == pytest.approx(3.0 * 0.9**3)


def test_its_state_goes_on_where_it_was():
    model = network()
    kept = SpectralNormPenalty(1.0)
    for _ in range(3):
        kept(model)
    again = SpectralNormPenalty(1.0, seed=9)
    again.load_state_dict(kept.state_dict())
    assert again(model).item() == kept(model).item()
    assert int(again.step) == 4
    assert SpectralNormPenalty(1.0)(model).item() != kept(model).item()


def test_a_shared_weight_counts_once():
    layer = nn.Linear(4, 4)
    assert len(spectral_norms(nn.Sequential(layer, nn.Tanh(), layer))) == 1


def test_computed_weights_all_count():
    """Weights that parametrisations compute are freed after use, and ids are given out again."""
    layers = [parametrizations.weight_norm(nn.Linear(4, 4)) for _ in range(6)]
    assert len(spectral_norms(nn.Sequential(*layers))) == 6


def test_projections_of_attention_count():
    packed = nn.MultiheadAttention(4, 2)
    found = spectral_norms(packed)
    assert list(found) == ["in_proj_weight", "out_proj.weight"]
    expected = reference.spectral_norm(packed.in_proj_weight)
    assert found["in_proj_weight"] == pytest.approx(expected, rel=1e-6)
    apart = nn.MultiheadAttention(4, 2, kdim=3, vdim=5)
    assert [name[0] for name in spectral_norms(apart)] == ["q", "k", "v", "o"]
    penalty = SpectralNormPenalty(1.0, n_iterations=300)
    assert penalty(packed).item() == pytest.approx(0.5 * sum(s**2 for s in found.values()))


def test_frozen_layers_count_in_the_measurement_alone():
    model = nn.Sequential(nn.Conv1d(3, 5, 2), nn.Flatten(), nn.Linear(5, 2))
    model[0].requires_grad_(False)
    assert list(spectral_norms(model)) == ["0.weight", "2.weight"]
    penalty = SpectralNormPenalty(1.0, n_iterations=300)
    expected = spectral_norms(model)["2.weight"] ** 2
    penalty(model)
    assert penalty.last.value == pytest.approx(expected, rel=1e-5)
    with torch.no_grad():
        penalty(model)
    assert penalty.last.value == pytest.approx(expected, rel=1e-5)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="expected trained weights of .*, got none that requires"):
        penalty(model)
    assert int(penalty.step) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("start", [0.0, math.inf])
def test_a_matrix_that_was_zero_or_not_finite_is_penalised_again(start, dtype):
    """Otherwise the vectors of a head that starts at zero stay zero."""
    head = nn.Linear(6, 4, bias=False).to(dtype)
    trained = head.weight.detach().clone()
    penalty = SpectralNormPenalty(1.0)
    nn.init.constant_(head.weight, start)
    penalty(head)
    if start == 0.0:
        assert penalty.last.value == 0.0
    with torch.no_grad():
        head.weight.copy_(trained)
    again = SpectralNormPenalty(1.0)
    again.load_state_dict(penalty.state_dict())
    penalty(head)
    again(head)
    fresh = SpectralNormPenalty(1.0)
    fresh(head)
    assert penalty.last.value == again.last.value == fresh.last.value > 0.0


def test_every_m_th_step_counts_m_times():
    model = network()
    penalty = SpectralNormPenalty(1.0, n_iterations=300, every=3)
    values = [float(penalty(model)) for _ in range(4)]
    assert values[1:3] == [0.0, 0.0]
    plain = float(SpectralNormPenalty(1.0, n_iterations=300)(model))
    assert values[0] == pytest.approx(3 * plain, rel=1e-6)


@pytest.mark.parametrize("kind", [L2Penalty, SpectralNormPenalty])
def test_a_call_that_raises_is_not_counted(kind):
    model = nn.Linear(3, 3)
    penalty = kind(1.0, every=2)
    with pytest.raises((NotImplementedError, RuntimeError), match="not implemented"):
        penalty(nn.Linear(3, 3).to(torch.float8_e4m3fn))
    assert int(penalty.step) == 0
    assert float(penalty(model)) > 0.0
    assert float(penalty(model)) == 0.0


# L2


def test_l2_takes_the_steps_of_weight_decay_with_plain_sgd():
    a, b = network(), network()
    x = torch.randn(8, 3, 4, 4).double()
    of_a = torch.optim.SGD(a.parameters(), lr=0.1, weight_decay=0.02)
    of_b = torch.optim.SGD(b.parameters(), lr=0.1)
    penalty = L2Penalty(0.02)
    for _ in range(5):
        for model, optimizer, added in ((a, of_a, 0.0), (b, of_b, None)):
            optimizer.zero_grad()
            loss = model(x).square().mean()
            (loss + (penalty(model) if added is None else added)).backward()
            optimizer.step()
    for p, q in zip(a.parameters(), b.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_l2_is_not_the_decay_of_adamw():
    """The negative control: an optimizer that decouples its decay takes other steps."""
    a, b = nn.Linear(3, 1).double(), nn.Linear(3, 1).double()
    b.load_state_dict(a.state_dict())
    for model, decay in ((a, 0.5), (b, 0.0)):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=decay)
        loss = model(torch.ones(2, 3).double()).square().mean()
        (loss + (L2Penalty(0.5)(model) if decay == 0.0 else 0.0)).backward()
        optimizer.step()
    assert not torch.allclose(a.weight, b.weight)


def test_weight_0_measures_and_adds_nothing():
    model = network()
    for penalty in (L2Penalty(0.0), SpectralNormPenalty(0.0)):
        assert penalty.last is None
        assert float(penalty(model)) == 0.0
        assert penalty.last.value > 0.0


@pytest.mark.parametrize("kind", [L2Penalty, SpectralNormPenalty])
def test_bad_arguments_are_refused(kind):
    with pytest.raises(ValueError, match="weight: expected a number of at least 0"):
        kind(-1.0)
    with pytest.raises(ValueError, match="weight: expected a number of at least 0, got 'a'"):
        kind("a")
    with pytest.raises(TypeError, match="model: expected"):
        kind(1.0)(lambda x: x)


def test_models_without_weights_are_refused():
    with pytest.raises(ValueError, match="expected linear layers or convolutions"):
        SpectralNormPenalty(1.0)(nn.LayerNorm(3))
    with pytest.raises(ValueError, match="expected trained parameters"):
        L2Penalty(1.0)(nn.ReLU())
    with pytest.raises(ValueError, match="n_iterations: expected at least 1"):
        SpectralNormPenalty(1.0, n_iterations=0)
