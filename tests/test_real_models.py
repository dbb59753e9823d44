"""Public checkpoints on official data, against separate float64 computations."""

import pytest
import torch
from reference import collapse as collapse_reference
from reference import complexity as reference

import geocollapse as geo
from geocollapse import data, models

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def resnet20(checkpoints):
    return models.load(
        "examples/cifar_resnet.py:resnet20", weights=checkpoints / "resnet20-12fca82f.th"
    ).model


@pytest.fixture(scope="module")
def images(data_root):
    stats = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    return data.load("cifar10:test", data_root=data_root, subset=1000, **stats)


@pytest.fixture(scope="module")
def measured(resnet20, images):
    return geo.measure(resnet20, images)


def embedding(model):
    """The map to the pooled features, written out, without the package's hooks."""

    def f(x):
        out = torch.relu(model.bn1(model.conv1(x)))
        return model.layer3(model.layer2(model.layer1(out))).mean(dim=(2, 3))

    return f


def test_layer_accuracy_and_collapse(measured, resnet20, images):
    assert measured.layers[0].layer == "linear:in"
    resnet20.double().eval()
    with torch.no_grad():
        z = torch.cat([embedding(resnet20)(x.double()) for x in images.inputs.split(250)])
        hits = (
            torch.cat([resnet20(x.double()).argmax(dim=1) for x in images.inputs.split(250)])
            == images.targets
        )
    weight = resnet20.linear.weight.detach().clone()
    bias = resnet20.linear.bias.detach().clone()
    resnet20.float()
    assert measured.accuracy == pytest.approx(float(hits.double().mean()))
    z = z.numpy()
    y = images.targets.numpy()
    assert measured.cdnv == pytest.approx(float(collapse_reference.cdnv(z, y)), rel=1e-6)
    assert measured.nc1 == pytest.approx(float(collapse_reference.nc1(z, y)), rel=1e-6)
    centred = collapse_reference.centred_means(z, y)
    assert measured.nc3 == pytest.approx(
        float(collapse_reference.nc3(weight.numpy(), centred)), rel=1e-6
    )
    assert measured.nc4 == pytest.approx(
        float(collapse_reference.nc4(z, y, weight.numpy(), bias.numpy())), abs=1e-9
    )


def test_interval_contains_the_exact_value(resnet20, images):
    """16 images, all 64 outputs differentiated one by one in float64."""
    few = (images.inputs[:16], images.targets[:16])
    estimate = geo.measure(resnet20, few).geometric_complexity
    resnet20.double().eval()
    exact = float(reference.squared_norms(embedding(resnet20), few[0].double()).mean())
    resnet20.float()
    low, high = estimate.interval()
    assert low < exact < high
