"""Fitting Morse networks: what the loss reaches, two moons, collapse, seeds and files."""

import math

import numpy as np
import pytest
import torch
from laws import assert_close
from safetensors.torch import save_file
from sklearn.datasets import make_moons
from sklearn.metrics import roc_auc_score
from torch import nn

from geocollapse import GeocollapseWarning, morse

QUICK = morse.FitSettings(n_steps=60, look_every=20)


def moons(n=1000, seed=0):
    x, y = make_moons(n, noise=0.05, random_state=seed)
    return torch.from_numpy(x).float(), torch.from_numpy(y)


def blobs(n=200, seed=0):
    """Two classes in the plane, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    return torch.randn(n, 2, generator=generator) * 0.2 + 2.0 * y[:, None], y


def log_density_of_moons(x, noise=0.05, n=2000):
    """log p of ``make_moons``: Gaussians of deviation ``noise`` along two half circles."""
    angle = math.pi * (torch.arange(n, dtype=torch.float64) + 0.5) / n
    outer = torch.stack([angle.cos(), angle.sin()], dim=1)
    inner = torch.stack([1.0 - angle.cos(), 0.5 - angle.sin()], dim=1)
    distances = torch.cdist(x.double(), torch.cat([outer, inner])).square()
    constant = math.log(2 * n) + math.log(2.0 * math.pi * noise**2)
    return torch.logsumexp(-distances / (2.0 * noise**2), dim=1) - constant


def auroc(log_density, held_out, noise):
    with torch.no_grad():
        scores = -torch.cat([log_density(held_out), log_density(noise)])
    return roc_auc_score(torch.arange(len(scores)) >= len(held_out), scores)


@pytest.mark.parametrize("seed", range(3))
def test_two_moons_are_told_from_uniform_noise(seed):
    """0.995 without the noise within 0.2 of the data, four deviations: about 24 % of it.

        distance cut    0               0.05            0.1             0.2
        Morse           .955 .962 .961  .989 .992 .997  .993 .994 .998  .996 .998 .999
        best            .969 .972 .965  .999 .999 .999  1    1    1     1    1    1

    Best is the true density, which no other score beats against uniform noise (Neyman and Pearson):
    noise on the moons is no outlier, so that without a cut the AUROC cannot come near 1.
    """
    x, _ = moons(seed=2 * seed)
    network = morse.MorseNetwork(morse.dense_map(2, 2, seed=seed)).fit(x, seed=seed)
    held_out, _ = moons(seed=2 * seed + 1)
    box = morse.Box(torch.tensor([-2.0, -1.5]), torch.tensor([3.0, 2.0]))
    noise = box.draw(2000, torch.Generator().manual_seed(seed + 1))
    distance = torch.cdist(noise, x).min(dim=1).values
    assert auroc(network.log_density, held_out, noise[distance > 0.2]) >= 0.995
    for cut, gap in ((0.0, 0.02), (0.05, 0.015), (0.1, 0.01)):
        outside = noise[distance > cut]
        best = auroc(log_density_of_moons, held_out, outside)
        assert best - gap < auroc(network.log_density, held_out, outside) < best
    assert auroc(log_density_of_moons, held_out, noise) < 0.98


def test_the_reference_density_of_the_moons_sums_to_1():
    ticks = torch.arange(-2.0, 3.0, 0.02, dtype=torch.float64)
    grid = torch.cartesian_prod(ticks, ticks)
    assert float(log_density_of_moons(grid, n=500).exp().sum()) * 0.02**2 == pytest.approx(1.0)


def test_without_noise_the_network_collapses_and_says_so():
    x, _ = moons(200)
    network = morse.MorseNetwork(morse.dense_map(2, 2))
    settings = morse.FitSettings(n_steps=400)
    with pytest.warns(GeocollapseWarning, match="density: the network has collapsed"):
        network.fit(x, noise=None, settings=settings)
    assert network.record.noise_density > 0.9
    again = morse.MorseNetwork(morse.dense_map(2, 2)).fit(x, settings=settings)
    assert again.record.noise_density < 0.5


class Width(nn.Module):
    """phi(x) = a x, so that mu = exp(-x^2/(2 s)) with s = 1/a^2."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x):
        return self.a * x


@pytest.mark.parametrize("weight", [0.5, 2.0, 8.0])
def test_the_weight_of_the_noise_sets_the_bandwidth(weight):
    """s* = (s0^2 / (w sqrt(2 pi)))^(2/3) with noise of density 1 and data N(0, s0^2)."""
    s0 = 0.7
    quantiles = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    data = (s0 * torch.special.ndtri(quantiles))[:, None]
    data = data * (s0 / data.square().mean().sqrt())  # their variance is exactly s0^2
    half = 15.0
    noise = torch.linspace(-half, half, 20_001, dtype=torch.float64)[:, None]
    network = morse.MorseNetwork(Width())
    optimizer = torch.optim.LBFGS(network.parameters(), line_search_fn="strong_wolfe", max_iter=100)

    def closure():
        optimizer.zero_grad()
        # a mean over the box times its length is an integral
        loss = network.loss(data, noise, weight=weight * 2.0 * half)
        loss.backward()
        return loss

    optimizer.step(closure)
    found = float(network.map.a.detach()) ** -2
    assert found == pytest.approx(
        (s0**2 / (weight * math.sqrt(2.0 * math.pi))) ** (2 / 3), rel=1e-3
    )


def test_a_free_map_reaches_the_clipped_ratio_of_the_densities():
    """mu = min(1, p/(w q)): here p is 2 on [0, 1/2] and q is 1 on [0, 1], so mu is 1 or 0."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4000, 1, generator=generator) / 2
    box = (torch.zeros(1), torch.ones(1))
    settings = morse.FitSettings(learning_rate=5e-3, n_steps=3000)
    for weight, expected in ((1.0, 1.0), (4.0, 0.5)):
        map = morse.dense_map(1, 1, like=x)
        network = morse.MorseNetwork(map).fit(x, box=box, weight=weight, settings=settings)
        with torch.no_grad():
            inside = network.density(torch.linspace(0.05, 0.45, 9)[:, None])
            outside = network.density(torch.linspace(0.6, 0.95, 9)[:, None])
        assert float((inside - expected).abs().mean()) < 0.06
        assert float(outside.max()) < 0.05


def test_a_fit_depends_on_its_seed_alone_and_leaves_the_global_state():
    x, y = blobs()
    before = torch.random.get_rng_state()
    made = [
        morse.MorseClassifier(nn.Sequential(morse.dense_map(2, 2), nn.Dropout(0.1)), 2).fit(
            x, y, seed=seed, settings=QUICK
        )
        for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.random.get_rng_state(), before)
    first, second, other = (list(network.eval().parameters()) for network in made)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    assert not torch.equal(first[0], other[0])


def test_the_best_parameters_on_the_held_out_share_are_kept():
    x, _ = blobs()
    settings = morse.FitSettings(n_steps=2000, learning_rate=0.3, look_every=5, patience=4)
    record = morse.MorseNetwork(morse.dense_map(2, 2)).fit(x, settings=settings).record
    assert record.stopped_early
    assert record.n_steps < 2000
    best = min(record.losses)
    assert record.steps[record.losses.index(best)] == record.best_step
    assert record.best_step <= record.n_steps - 4 * 5
    whole = morse.FitSettings(n_steps=30, held_out=0.0)
    record = morse.MorseNetwork(morse.dense_map(2, 2)).fit(x, settings=whole).record
    assert not record.stopped_early
    assert record.best_step == 30


def test_progress_is_shown_on_stderr(capsys):
    x, _ = blobs()
    settings = morse.FitSettings(n_steps=40, look_every=20, progress=True)
    morse.MorseNetwork(morse.dense_map(2, 2)).fit(x, settings=settings)
    out, err = capsys.readouterr()
    assert not out
    assert "fit" in err
    assert "40/40" in err


@pytest.mark.parametrize("noise", ["gaussian", torch.full((50, 2), 5.0), np.full((50, 2), 5.0)])
def test_other_noise_pushes_the_density_down_where_it_is(noise):
    x, y = blobs()
    settings = morse.FitSettings(n_steps=300)
    network = morse.MorseClassifier(morse.dense_map(2, 2, like=x), 2).fit(
        x, y, noise=noise, settings=settings
    )
    assert float((network.posterior(x).argmax(dim=1) == y).float().mean()) == 1.0
    if not isinstance(noise, str):
        with torch.no_grad():
            assert float(network.density(noise).max()) < 0.1 < float(network.density(x).median())


def test_samples_of_a_fitted_network_lie_at_modes_and_in_the_box():
    x, y = blobs()
    network = morse.MorseClassifier(morse.dense_map(2, 2, like=x), 2).fit(x, y)
    at_modes = network.of_class(1).sample(20)
    assert float(network.of_class(1).density(at_modes).detach().min()) > 0.99
    drawn = network.of_class(1).sample(20, "langevin", settings=morse.SampleSettings(n_steps=100))
    assert bool(network.box.contains(drawn).all())


def test_a_collapsed_density_leaves_logits_alone_and_a_far_point_flattens_them():
    logits = torch.tensor([[4.0, 0.0], [4.0, 0.0]])
    network = morse.MorseNetwork(nn.Identity())
    x = torch.tensor([[0.0], [40.0]])
    p = morse.tempered_logits(logits, network.log_density(x)).softmax(dim=1)
    assert_close(p[0], logits[0].softmax(dim=0))
    assert_close(p[1], [0.5, 0.5])
    assert_close(
        morse.tempered_logits(logits[:1], network.log_density(x[:1])),
        logits[:1] / network.temperature(x[:1])[:, None],
    )


# files


@pytest.mark.parametrize("kind", ["network", "classifier"])
def test_a_saved_network_is_the_same_one(tmp_path, kind):
    x, y = blobs()
    map = morse.dense_map(2, 2, hidden=(8,), like=x)
    if kind == "network":
        network = morse.MorseNetwork(map, "student", target=[0.5, 0.5], scale=2.0)
        network.fit(x, settings=QUICK)
    else:
        network = morse.MorseClassifier(map, 2, "laplace", scale=3.0).fit(x, y, settings=QUICK)
    morse.save_network(network, tmp_path / "a.safetensors", about={"layer": "fc"})
    again, about = morse.load_network(tmp_path / "a.safetensors")
    assert type(again) is type(network)
    assert about == {"layer": "fc"}
    assert torch.equal(again.log_density(x), network.log_density(x))
    assert torch.equal(again.box.low, network.box.low)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    again.load_state_dict(state)


def test_files_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    map = nn.Linear(3, 2)
    morse.save_network(morse.MorseNetwork(map), path)
    with pytest.raises(ValueError, match="map: expected the module that a.safetensors was saved"):
        morse.load_network(path)
    with pytest.raises(ValueError, match=r"map: expected the parameters of a.safetensors, got oth"):
        morse.load_network(path, map=nn.Linear(4, 2))
    found = morse.load_network(path, map=nn.Linear(3, 2)).network
    assert torch.equal(found.map.weight, map.weight)
    save_file({"weight": torch.ones(2)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="detector: expected a Morse network, got b.safetensors"):
        morse.load_network(tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="detector: expected a safetensors file, got c.safe"):
        morse.load_network(tmp_path / "c.safetensors")
    with pytest.raises(FileNotFoundError, match="detector: expected a file"):
        morse.load_network(tmp_path / "d.safetensors")
    newer = {"geocollapse_morse": '{"version": 2, "kernel": "gauss"}'}
    save_file({"weight": torch.ones(2)}, path, metadata=newer)
    with pytest.raises(ValueError, match="detector: expected version 1 .* got version 2"):
        morse.load_network(path)
    with pytest.raises(ValueError, match="path: expected a file ending in .safetensors"):
        morse.save_network(morse.MorseNetwork(map), tmp_path / "a.pt")


def test_a_detector_refuses_features_of_another_width_and_nan():
    x, y = blobs()
    detector = morse.fit_detector(x, y, morse.DetectorSettings(fit=QUICK))
    with pytest.raises(ValueError, match=r"x: expected features \(n, 2\), .* got \(5, 3\)"):
        morse.outlier_scores(detector, torch.ones(5, 3))
    with pytest.raises(ValueError, match="x: expected finite numbers, got NaN or infinity in 1"):
        morse.outlier_scores(detector, torch.tensor([[0.0, math.nan]]))


def test_a_detector_tells_its_data_from_others_with_and_without_labels():
    x, y = blobs(400)
    settings = morse.DetectorSettings(hidden=(32,), noise="uniform")
    far = x[:, :1] + torch.tensor([0.0, 3.0])
    for labels in (None, y * 7 - 3):
        detector = morse.fit_detector(x, labels, settings)
        scores = (morse.outlier_scores(detector, x), morse.outlier_scores(detector, far))
        assert morse.detection(*scores).auroc.value > 0.95


# bad input


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan])
def test_a_weight_that_is_not_positive_is_refused(weight):
    with pytest.raises(ValueError, match="weight: expected a positive number, .* noise=None"):
        morse.MorseNetwork(nn.Linear(2, 2)).fit(blobs()[0], weight=weight)


def test_data_that_cannot_be_fitted_are_refused():
    network = morse.MorseNetwork(nn.Linear(2, 2))
    x, y = blobs()
    broken = x.clone()
    broken[3, 0] = math.nan
    with pytest.raises(ValueError, match="x: expected finite numbers, .*first at row 3"):
        network.fit(broken)
    with pytest.raises(ValueError, match="x: expected floating point examples"):
        network.fit(x[:1])
    with pytest.raises(ValueError, match="map: expected a module with parameters to fit"):
        morse.MorseNetwork(nn.Identity()).fit(x)
    classifier = morse.MorseClassifier(nn.Linear(2, 2), 2)
    with pytest.raises(ValueError, match=r"y: expected at least two of the classes 0 to 1, got"):
        classifier.fit(x, torch.zeros(len(x), dtype=torch.int64))
    with pytest.raises(ValueError, match=r"y: expected at least two of the classes 0 to 1, got"):
        classifier.fit(x, y + 1)


def test_noise_outside_the_box_and_other_wrong_noise_are_refused():
    network = morse.MorseNetwork(nn.Linear(2, 2))
    x, _ = blobs()
    box = (x.amin(dim=0) - 1.0, x.amax(dim=0) + 1.0)
    noise = torch.tensor([[0.0, 0.0], [50.0, 0.0]])
    with pytest.raises(ValueError, match="noise: expected examples inside the box, got 1 of 2 out"):
        network.fit(x, noise=noise, box=box, settings=QUICK)
    with pytest.raises(ValueError, match="noise: expected 'uniform' or examples beside a box, got"):
        network.fit(x, noise="gaussian", box=box, settings=QUICK)
    with pytest.raises(ValueError, match="noise: expected 'uniform', 'gaussian' or examples"):
        network.fit(x, noise="pink")
    with pytest.raises(ValueError, match=r"noise: expected examples of shape \(m, 2\)"):
        network.fit(x, noise=torch.ones(5, 3))
    with pytest.raises(ValueError, match="noise: expected finite numbers"):
        network.fit(x, noise=noise * math.nan)
    with pytest.raises(ValueError, match="box: expected low below high .* 1 of 2 coordinates"):
        network.fit(x, box=(torch.zeros(2), torch.tensor([1.0, 0.0])))
    with pytest.raises(ValueError, match=r"box: expected ends of shape \(2,\)"):
        network.fit(x, box=(torch.zeros(3), torch.ones(3)))
    with pytest.warns(GeocollapseWarning, match=r"box: 200 of 200 examples lie outside the box"):
        network.fit(x, box=(torch.full((2,), 5.0), torch.full((2,), 6.0)), settings=QUICK)


def test_a_loss_that_is_not_finite_ends_the_fit():
    x, _ = blobs()
    settings = morse.FitSettings(n_steps=50, look_every=10, learning_rate=1e25)
    with pytest.raises(RuntimeError, match="loss: expected a finite number, got (nan|inf) at step"):
        morse.MorseNetwork(nn.Linear(2, 2)).fit(x, settings=settings)


@pytest.mark.parametrize(
    "wrong",
    [{"n_steps": 0}, {"learning_rate": 0.0}, {"held_out": 1.0}, {"noise_share": -1.0}],
)
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
        morse.FitSettings(**wrong)
