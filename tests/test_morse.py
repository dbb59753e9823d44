"""Morse networks: kernels, densities, modes, samples, and the classifier."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_close, random_rotation
from torch import nn

from geocollapse import GeocollapseWarning, morse

NAMES = tuple(morse.KERNELS)
FORMULAS = {  # K(d, lambda), written as in the paper
    "gauss": lambda d, s: math.exp(-s / 2.0 * d**2),
    "laplace": lambda d, s: math.exp(-s * d),
    "cauchy": lambda d, s: 1.0 / (1.0 + s * d**2),
    "student": lambda d, s: (1.0 + d**2 / s) ** (-(s + 1.0) / 2.0),
}


def double(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def radius(x):
    """||x|| - 1, whose zeros are the unit sphere."""
    return x.norm(dim=1, keepdim=True) - 1.0


@pytest.mark.parametrize("name", NAMES)
@given(distance=st.floats(0.0, 5.0), scale=st.floats(0.1, 10.0), seed=st.integers(0, 9))
def test_a_kernel_is_its_formula_and_depends_on_the_distance_alone(name, distance, scale, seed):
    direction = torch.nn.functional.normalize(double(3, seed=seed), dim=0)
    found = morse.kernel_exponent(distance * direction, name, scale)
    assert_close(found.neg().exp(), FORMULAS[name](distance, scale))
    rotated = random_rotation(3, seed) @ (distance * direction)
    assert_close(morse.kernel_exponent(rotated, name, scale), found, rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_is_one_at_the_target_alone_and_keeps_far_points_apart(name):
    far = torch.tensor([[0.0], [1e-3], [1e3], [1e4]], dtype=torch.float64)
    exponent = morse.kernel_exponent(far, name)
    assert exponent[0] == 0.0
    assert bool((exponent.diff() > 0.0).all())  # where log(exp(-x)) is -inf for gauss and laplace
    assert bool(exponent.isfinite().all())


def test_student_is_cauchy_at_one_and_gauss_at_infinity():
    x = double(20, 3)
    assert_close(morse.kernel_exponent(x, "student", 1.0), morse.kernel_exponent(x, "cauchy", 1.0))
    far = morse.kernel_exponent(x, "student", 1e9)
    assert_close(far, morse.kernel_exponent(x, "gauss", 1.0), rtol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_the_log_density(name):
    torch.manual_seed(0)
    map = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    network = morse.MorseNetwork(map, name, target=[0.5, -0.5], scale=0.7)
    x = double(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(network.log_density, x)
    assert torch.autograd.gradgradcheck(network.log_density, x)


def test_gradients_at_a_mode_are_zero_for_every_kernel():
    for name in NAMES:
        x = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
        morse.MorseNetwork(nn.Identity(), name).log_density(x).sum().backward()
        assert bool((x.grad == 0.0).all()), name


def test_density_score_and_temperature_say_the_same():
    network = morse.MorseNetwork(radius, "gauss", scale=3.0)
    x = double(50, 4)
    mu = torch.exp(-1.5 * (x.norm(dim=1) - 1.0) ** 2)
    assert_close(network.density(x), mu)
    assert_close(network(x), mu.log())
    assert_close(network.ood_score(x), 1.0 - mu)
    assert_close(network.temperature(x), 1.0 / mu)


def test_the_log_density_ranks_what_the_score_rounds_to_one():
    far = torch.tensor([[20.0], [30.0]])
    network = morse.MorseNetwork(nn.Identity())
    assert network.ood_score(far).tolist() == [1.0, 1.0]
    assert network.log_density(far).tolist() == [-200.0, -450.0]


def test_a_rotation_of_map_and_target_changes_nothing():
    rotation = random_rotation(3, 1)
    target = double(3, seed=1)
    x = double(10, 3)
    plain = morse.MorseNetwork(nn.Identity(), target=target)
    rotated = morse.MorseNetwork(lambda x: x @ rotation.T, target=rotation @ target)
    assert_close(rotated.log_density(x), plain.log_density(x))


# modes


@pytest.mark.parametrize("scale", [0.5, 4.0])
@pytest.mark.parametrize(
    ("name", "curvature"),
    [
        ("gauss", lambda s: s),
        ("cauchy", lambda s: 2.0 * s),
        ("student", lambda s: (s + 1.0) / s),
    ],
)
def test_the_hessian_on_the_circle_has_eigenvalues_zero_and_the_curvature(name, curvature, scale):
    network = morse.MorseNetwork(radius, name, scale=scale)
    found = morse.morse_bott(network, torch.tensor([0.6, 0.8], dtype=torch.float64))
    assert_close(found.eigenvalues, torch.tensor([0.0, curvature(scale)]), atol=1e-10)
    assert (found.n_kernel, found.n_tangent) == (1, 1)
    assert found.is_morse_bott


def test_a_degenerate_mode_is_not_morse_bott():
    """phi = x^2 has one mode, 0, where its Hessian is 0; phi = x_1 has a plane of them."""
    squared = morse.MorseNetwork(lambda x: x.square())
    found = morse.morse_bott(squared, torch.zeros(1, dtype=torch.float64))
    assert (found.n_kernel, found.n_tangent) == (1, 0)
    assert not found.is_morse_bott
    plane = morse.MorseNetwork(lambda x: x[:, :1])
    assert morse.morse_bott(plane, torch.zeros(3, dtype=torch.float64)).n_tangent == 2


def test_the_morse_bott_check_refuses_a_cusp_and_a_point_that_is_no_mode():
    with pytest.raises(ValueError, match="kernel: expected one that is smooth"):
        morse.morse_bott(morse.MorseNetwork(radius, "laplace"), torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match=r"x: expected a mode, .* got -log mu = 0.5"):
        morse.morse_bott(morse.MorseNetwork(radius), torch.tensor([2.0, 0.0]))
    single = morse.MorseNetwork(nn.Linear(2, 1))
    with pytest.raises(ValueError, match="map: expected parameters in float64"):
        morse.morse_bott(single, torch.zeros(2))


# samples


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [0.1, 100.0])
def test_the_flow_lands_on_the_unit_sphere(name, scale):
    network = morse.MorseNetwork(radius, name, scale=scale)
    start = 3.0 * double(200, 3)
    found = network.sample(200, start=start)
    assert float((found.norm(dim=1) - 1.0).abs().max()) < 1e-6
    assert_close(found, start / start.norm(dim=1, keepdim=True), rtol=1e-6)  # the path is radial


def test_few_steps_do_not_reach_the_sphere():
    network = morse.MorseNetwork(radius)
    settings = morse.SampleSettings(n_steps=1)
    with pytest.warns(GeocollapseWarning, match="ended where the density is below 0.99"):
        found = network.sample(50, start=10.0 * double(50, 3), settings=settings)
    assert float((found.norm(dim=1) - 1.0).abs().max()) > 0.1


def test_langevin_samples_the_gaussian_that_mu_is():
    network = morse.MorseNetwork(nn.Identity(), target=[1.0, -2.0], scale=4.0)
    settings = morse.SampleSettings(n_steps=400)
    found = network.sample(4000, "langevin", start=double(4000, 2), settings=settings)
    # four standard errors of a mean and of a variance of 4,000 draws with variance 1/4
    assert_close(found.mean(dim=0), torch.tensor([1.0, -2.0]), rtol=0.0, atol=0.032)
    assert_close(found.var(dim=0), torch.tensor([0.25, 0.25]), rtol=0.09)
    at_modes = network.sample(4000, "flow", start=double(4000, 2))
    assert float(at_modes.var(dim=0).max()) < 1e-10  # the flow does not sample mu


def test_samples_are_seeded_and_need_a_box_or_starts():
    network = morse.MorseNetwork(nn.Identity(), scale=2.0)
    with pytest.raises(ValueError, match="start: expected points, got None before the fit"):
        network.sample(5)
    start = double(5, 2)
    settings = morse.SampleSettings(n_steps=10)
    draws = [
        network.sample(5, "langevin", start=start, seed=seed, settings=settings)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    with pytest.raises(ValueError, match="start: expected 3 points, got 5"):
        network.sample(3, start=start)
    with pytest.raises(ValueError, match="method: expected 'flow' or 'langevin', got 'gibbs'"):
        network.sample(5, "gibbs", start=start)


# the classifier


@pytest.mark.parametrize("scale", [4.0, 10.0])
def test_the_posterior_is_the_softmax_of_the_squared_distances(scale):
    torch.manual_seed(0)
    map = nn.Linear(5, 3).double()
    network = morse.MorseClassifier(map, 3, scale=scale)
    x = double(40, 5)
    distances = (map(x)[:, None] - torch.eye(3, dtype=torch.float64)).square().sum(dim=2)
    softmax = (-scale / 2.0 * distances).softmax(dim=1)
    assert_close(network.posterior(x).detach(), softmax.detach(), rtol=0.0, atol=1e-12)
    by_ratio = network.joint_log_density(x).exp()
    by_ratio = by_ratio / by_ratio.sum(dim=1, keepdim=True)
    assert_close(by_ratio.detach(), softmax.detach(), rtol=0.0, atol=1e-12)
    assert_close(network.log_posterior(x).exp().detach(), softmax.detach())


def test_the_unlabelled_density_is_the_sum_over_classes():
    network = morse.MorseClassifier(nn.Identity(), 3, "cauchy")
    x = double(20, 3)
    assert_close(network.density(x), network.joint_log_density(x).exp().sum(dim=1))
    one = network.of_class(1)
    assert_close(one.log_density(x), network.joint_log_density(x)[:, 1])
    assert_close(one.sample(20, start=x), torch.eye(3)[1].expand(20, 3), atol=1e-5)


def test_the_labelled_term_takes_the_own_class_alone():
    network = morse.MorseClassifier(nn.Identity(), 3)
    x = double(10, 3)
    labels = torch.arange(10) % 3
    joint = network.joint_log_density(x)
    assert_close(network.loss(x, labels=labels), -joint[torch.arange(10), labels].mean())
    noise = double(4, 3, seed=1)
    with_noise = network.loss(x, noise, labels=labels, weight=2.0)
    expected = network.loss(x, labels=labels) + 2.0 * network.density(noise).mean()
    assert_close(with_noise, expected)


def test_kernels_of_many_classes_that_overlap_are_told():
    with pytest.warns(GeocollapseWarning, match="scale: the kernels of 10 classes overlap at 1:"):
        network = morse.MorseClassifier(nn.Identity(), 10, scale=1.0)
    centre = torch.full((1, 10), 0.1)
    assert network.log_density(centre) > network.log_density(torch.eye(10)).max()
    apart = morse.MorseClassifier(nn.Identity(), 10)
    assert apart.log_density(centre) < apart.log_density(torch.eye(10)).min()


# special cases


def test_deep_svdd_is_the_gauss_kernel_without_noise():
    map = nn.Linear(4, 2).double()
    centre = double(2, seed=3)
    network = morse.MorseNetwork(map, target=centre, scale=2.0)
    x = double(30, 4)
    svdd = (map(x) - centre).square().sum(dim=1).mean()
    assert_close(network.loss(x), svdd)
    assert not torch.allclose(network.loss(x, double(30, 4, seed=4)), svdd)


def test_entropic_detection_is_the_laplace_kernel():
    prototypes = double(5, 3, seed=2)
    entropic_scale = 10.0
    network = morse.MorseClassifier(
        nn.Identity(), kernel="laplace", targets=prototypes, scale=entropic_scale
    )
    x = double(20, 3)
    p = (-entropic_scale * torch.cdist(x, prototypes)).softmax(dim=1)
    assert_close(network.posterior(x), p, rtol=1e-6)  # of cdist
    assert_close(network.entropic_score(x), (p * p.log()).sum(dim=1), rtol=1e-6)


# bad input


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_not_positive_is_refused(scale):
    for make in (morse.MorseNetwork, lambda map, scale: morse.MorseClassifier(map, 3, scale=scale)):
        with pytest.raises(ValueError, match="scale: expected a positive number"):
            make(nn.Identity(), scale=scale)


def test_unknown_kernels_and_targets_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="kernel: expected one of gauss, laplace"):
        morse.MorseNetwork(nn.Identity(), "rbf")
    with pytest.raises(ValueError, match="target: expected finite floating point numbers"):
        morse.MorseNetwork(nn.Identity(), target=torch.eye(2))
    network = morse.MorseNetwork(nn.Identity(), target=[0.0, 1.0])
    with pytest.raises(ValueError, match=r"target: expected shape \(3,\)"):
        network.density(double(2, 3))
    with pytest.raises(ValueError, match=r"map: expected features \(n, k\) of n = 2"):
        morse.MorseNetwork(lambda x: x.norm(dim=1)).density(double(2, 3))


def test_a_classifier_needs_two_classes_that_the_kernel_tells_apart():
    with pytest.raises(ValueError, match="n_classes: expected at least 2, got 1"):
        morse.MorseClassifier(nn.Identity(), 1)
    with pytest.raises(ValueError, match="n_classes: expected at least 2, got None"):
        morse.MorseClassifier(nn.Identity())
    with pytest.raises(ValueError, match="targets: expected one for each of at least 2 classes"):
        morse.MorseClassifier(nn.Identity(), targets=torch.ones(1, 2))
    near = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.01]])
    match = "targets: expected targets with a kernel of at most 0.99 .* between classes 1 and 2"
    with pytest.raises(ValueError, match=match):
        morse.MorseClassifier(nn.Identity(), targets=near)
    with pytest.raises(ValueError, match=r"map: expected 3 features, .* got 4"):
        morse.MorseClassifier(nn.Identity(), 3).posterior(double(2, 4))
    with pytest.raises(ValueError, match="labels: expected none for a MorseNetwork"):
        morse.MorseNetwork(nn.Identity()).loss(double(2, 4), labels=torch.zeros(2).long())
