"""Nearest-mean and classifier decisions from float32 projections, with ties and near ties."""

from __future__ import annotations

import pytest
import torch

from gaussians import (
    classes,
    head,
)
from geocollapse.collapse import (
    LabelledFeatures,
    neural_collapse,
)
from geocollapse.collapse.decisions import NearestMeans, nc4, nearest_mean_error
from geocollapse.collapse.projections import read
from geocollapse.collapse.variability import between_spectrum


class TestDecisions:
    """Decisions from float32 projections are those of exact arithmetic."""

    @staticmethod
    def lattice(seed=0, n_classes=8, p=5, n_pairs=32):
        """Whole numbers in pairs around whole class means; every sum and mean is exact."""
        generator = torch.Generator().manual_seed(seed)
        centres = 2 * torch.randint(-1, 2, (n_classes, p), generator=generator)
        noise = torch.randint(-2, 3, (n_classes, n_pairs, p), generator=generator)
        pairs = torch.cat([noise, -noise], dim=1) + centres[:, None]
        labels = torch.arange(n_classes).repeat_interleave(2 * n_pairs)
        return pairs.flatten(0, 1), labels, centres

    @pytest.mark.parametrize("many", [1, 1 << 40])  # float32, then float64 projections
    @pytest.mark.parametrize("limit", [1, 4096])
    def test_ties_are_errors_and_near_ties_are_not(self, monkeypatch, many, limit):
        monkeypatch.setattr("geocollapse.collapse.labelled._MANY_NUMBERS", many)
        monkeypatch.setattr("geocollapse.collapse.decisions.MAX_CLASSES", limit)
        features, labels, centres = self.lattice()
        distances = (features[:, None] - centres).square().sum(dim=2)
        own = distances.gather(1, labels[:, None]).squeeze(1)
        rivals = distances.scatter(1, labels[:, None], 1 << 30).amin(dim=1)
        assert int((rivals == own).sum()) > 20
        errors = float((rivals <= own).double().mean())
        assert neural_collapse(features.float(), labels).nearest_mean_error == errors
        nudged = features.float()
        nudged[rivals == own] += 1e-3 * (centres[labels] - features)[rivals == own]
        data = LabelledFeatures.of(nudged, labels)
        means = data.statistics.means
        exact = (nudged.double()[:, None] - means).square().sum(dim=2)
        own = exact.gather(1, labels[:, None]).squeeze(1)
        rivals = exact.scatter(1, labels[:, None], torch.inf).amin(dim=1)
        assert nearest_mean_error(data) == float((rivals <= own).double().mean())

    @pytest.mark.parametrize("many", [1, 1 << 40])
    def test_nc4_of_classifiers_that_are_nearly_tied(self, monkeypatch, many):
        monkeypatch.setattr("geocollapse.collapse.labelled._MANY_NUMBERS", many)
        features, labels, _ = self.lattice(seed=1)
        features = features.float() + 100.0
        data = LabelledFeatures.of(features, labels)
        means = data.statistics.means
        distances = (features.double()[:, None] - means).square().sum(dim=2)
        for weight, bias in (
            (means, -0.5 * means.square().sum(dim=1)),  # the nearest mean itself
            (means + 1e-6 * head(8, 5)[0], -0.5 * means.square().sum(dim=1)),
            (torch.zeros_like(means), torch.zeros(8).double()),  # all tied: the first class
        ):
            decided = (features.double() @ weight.T + bias).argmax(dim=1)
            clear = distances.sort(dim=1).values.diff(dim=1)[:, 0] > 0
            expected = (decided != distances.argmin(dim=1))[clear].double().sum() / len(labels)
            got = nc4(data, weight, bias)
            assert abs(got - float(expected)) <= float((~clear).double().mean())
            assert got == neural_collapse(features, labels, weight=weight, bias=bias).nc4

    def test_rounding_stays_within_its_bound(self, monkeypatch):
        monkeypatch.setattr("geocollapse.collapse.labelled._MANY_NUMBERS", 1)
        features, labels = classes([40] * 8, 30, spread=0.3)
        data = LabelledFeatures.of((features + 7.0).float(), labels)
        nearest = NearestMeans(data)
        (exact, index) = next(iter(data.residuals()))
        means = data.statistics.centred_means()
        steps = means - means[index][:, None]
        expected = (exact[:, None] * steps).sum(dim=2) - 0.5 * steps.square().sum(dim=2)
        seen = []

        class Checks:
            width = 8

            def add(self, chunk):
                assert chunk.residuals.dtype == torch.float32
                off = (nearest.margins(chunk).double() - expected[chunk.rows]).abs().amax(dim=1)
                seen.append(float((off / nearest.bound(chunk)).max()))

        for basis in (None, between_spectrum(means).basis):
            read(data, [Checks()], basis)
        assert all(0.0 < share < 0.5 for share in seen)

    def test_coarse_products_are_not_used(self, monkeypatch):
        monkeypatch.setattr("geocollapse.collapse.labelled._MANY_NUMBERS", 1)
        features, labels = classes([5, 6], 4)
        assert LabelledFeatures.of(features.float(), labels).projection_dtype is torch.float32
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")  # TF32: 3 digits
        try:
            assert LabelledFeatures.of(features.float(), labels).projection_dtype is torch.float64
        finally:
            torch.set_float32_matmul_precision(before)
