"""Inputs by name, tokens, padding: where a Jacobian begins."""

import pytest
import torch
from reference import complexity as reference
from torch import nn

import geocollapse as geo
from geocollapse.entry import enter, find_input_layer
from geocollapse.features import FeatureMap, Layer, pooled
from geocollapse.jacobian import ProbePlan
from maps import TEXTS, Reader, padded


def reader():
    torch.manual_seed(0)
    return Reader().double().eval()


@pytest.mark.parametrize("estimator", ["exact", "rademacher", "input", "outputs"])
@pytest.mark.parametrize(("layer", "pool"), [("head:in", None), ("attention.out_proj", "mean"), ("", None)])
def test_padding_changes_nothing(estimator, layer, pool):
    """A padded batch gives each example's own features and squared Jacobian norm."""
    model = reader()
    if layer.startswith("attention"):  # a layer of sequences
        layer, pool = "attention_out", "last"
        model.attention_out = nn.Identity()
        model.forward = lambda input_ids, attention_mask: model.head(
            pooled(model.attention_out(torch.tanh(model.tokens(input_ids).cumsum(dim=1))), "last", attention_mask)
        )
    feature_map = FeatureMap(model, [Layer.find(model, layer)], pool, "tokens")
    plan = ProbePlan(estimator, seed=3)
    take, x = feature_map.enter(padded(TEXTS, 9))
    together = plan.probe(take, x, torch.arange(4), 2)
    for i, text in enumerate(TEXTS):
        take, x = feature_map.enter(padded([text]))
        alone = plan.probe(take, x, torch.tensor([i]), 2)
        torch.testing.assert_close(together.features[0][i : i + 1], alone.features[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(together.norms[0].values[i : i + 1], alone.norms[0].values, rtol=1e-10, atol=0.0)


def test_squared_norms_are_of_the_embedded_tokens():
    model = reader()
    take, x = FeatureMap(model, [Layer("")], None, "tokens").enter(padded(TEXTS[:1]))
    found = ProbePlan("exact").probe(take, x, torch.arange(1), 1).norms[0].values

    def f(z):
        h = z + model.positions[: z.shape[1]]
        h = torch.tanh(h + model.attention(h, h, h, need_weights=False)[0])
        return model.head(h.mean(dim=1))

    torch.testing.assert_close(found, reference.squared_norms(f, model.tokens(torch.tensor(TEXTS[:1])).detach()))


@pytest.mark.parametrize(
    ("pool", "expected"), [("mean", [[1.5], [3.0]]), ("cls", [[1.0], [3.0]]), ("last", [[2.0], [3.0]])]
)
@pytest.mark.parametrize("side", ["right", "left"])
def test_pool_of_tokens(pool, expected, side):
    """Padding is no token, on whichever side it stands."""
    tokens, mask = torch.tensor([[1.0, 2.0, 99.0], [3.0, 99.0, 99.0]]), torch.tensor([[1, 1, 0], [1, 0, 0]])
    if side == "left":
        tokens, mask = torch.tensor([[99.0, 1.0, 2.0], [99.0, 99.0, 3.0]]), mask.flip(1)
    assert pooled(tokens[..., None], pool, mask).tolist() == expected


def test_pool_without_mask():
    tokens = torch.tensor([[[1.0], [2.0]]])
    assert [pooled(tokens, pool).item() for pool in ("mean", "cls", "last")] == [1.5, 1.0, 2.0]
    assert pooled(tokens, None) is tokens


def test_measure_of_named_inputs():
    """`measure` of a padded batch: complexity is the mean of the single texts' exact values."""
    model, texts = reader(), TEXTS * 5
    loader = [
        {**padded(texts[:8]), "labels": torch.arange(8) % 3},
        {**padded(texts[8:]), "labels": torch.arange(12) % 3},
    ]
    m = geo.measure(model, loader, input_layer="tokens", estimator="exact")
    singles = []
    for text in texts:
        take, x = FeatureMap(model, [Layer("head", "in")], None, "tokens").enter(padded([text]))
        singles.append(ProbePlan("exact").probe(take, x, torch.arange(1), 1).norms[0].values)
    assert m.geometric_complexity.value == pytest.approx(float(torch.cat(singles).mean()), rel=1e-10)
    assert m.layers[0].layer == "head:in"
    assert m.to_dict()["preprocessing"]["input_layer"] == "tokens"
    assert m.accuracy is not None
    assert not any("attention_mask" in note for note in m.layers[0].warnings)


def test_padding_without_mask_is_told():
    model, batch = reader(), padded(TEXTS * 3)
    m = geo.measure(model, (batch["input_ids"], torch.arange(12) % 2), input_layer="tokens")
    assert any(note.startswith("attention_mask: padding was found") for note in m.layers[0].warnings)


def test_one_floating_input_by_name():
    """The floating tensor among named inputs is what Jacobians are with respect to."""

    class Scaled(nn.Module):
        def forward(self, x, scale):
            return x * scale[:, None]

    entry = enter(Scaled(), {"x": torch.ones(2, 3), "scale": torch.tensor([2, 5])})
    take = FeatureMap(Scaled(), [Layer("")]).enter({"x": torch.ones(2, 3), "scale": torch.tensor([2, 5])})
    norms = ProbePlan("exact").probe(*take, torch.arange(2), 1).norms[0].values
    assert entry.x.shape == (2, 3)
    assert norms.tolist() == [12.0, 75.0]


def test_bad_entries():
    model, ids = reader(), torch.tensor(TEXTS[:1])
    labels = torch.tensor([0])
    with pytest.raises(TypeError, match=r"inputs: expected a floating tensor .* input_layer=NAME .*: 'tokens'"):
        geo.measure(model, (ids, labels))
    with pytest.raises(
        ValueError, match=r"input_layer: expected the name of a module, got 'token'; do one of 'tokens'"
    ):
        geo.measure(model, (ids, labels), input_layer="token")
    with pytest.raises(ValueError, match=r"inputs: expected one floating tensor, got a, b; do input_layer=NAME"):
        enter(model, {"a": torch.ones(1), "b": torch.ones(1)})
    with pytest.raises(RuntimeError, match=r"input_layer: expected 'attention' to give one floating tensor, got tuple"):
        enter(model, padded(TEXTS), "attention")
    with pytest.raises(ValueError, match=r"memory_limit: expected inputs of one shape, got inputs by name or tokens"):
        geo.measure(model, (ids.repeat(6, 1), torch.arange(6) % 2), input_layer="tokens", memory_limit=10**9)
    with pytest.raises(ValueError, match=r"pool: expected one of mean, cls, last for sequences with a mask"):
        pooled(torch.ones(2, 3, 4), None, torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"attention_mask: expected at least one token in each sequence, got none"):
        pooled(torch.ones(2, 3, 4), "mean", torch.tensor([[1, 1, 0], [0, 0, 0]]))
    with pytest.raises(ValueError, match=r"pool: expected 'mean' for a map \(2, 3, 4, 4\), got 'cls'"):
        pooled(torch.ones(2, 3, 4, 4), "cls")
    with pytest.raises(ValueError, match=r"batch: expected inputs of one length, got \{'a': 1, 'b': 2\}"):
        geo.measure(model, [{"a": torch.ones(1), "b": torch.ones(2), "labels": torch.tensor([0])}])
    with pytest.raises(ValueError, match=r"input_std: expected None for Jacobians with respect to 'tokens', got 2.0"):
        geo.measure(model, (ids.repeat(6, 1), torch.arange(6) % 2), input_layer="tokens", input_std=2.0)


def test_an_input_layer_runs_once():
    twice = nn.Sequential(nn.Embedding(5, 4))
    twice.forward = lambda ids: twice[0](ids) + twice[0](ids)
    entry = enter(twice, torch.tensor([[1, 2]]), "0")
    with pytest.raises(RuntimeError, match=r"input_layer: expected '0' to run once in a forward pass, it ran 2 times"):
        entry.run(entry.x)


def test_the_embedding_of_a_transformers_model_is_found():
    model = reader()
    model.get_input_embeddings = lambda: model.tokens
    assert find_input_layer(model, padded(TEXTS), None) == "tokens"
    assert find_input_layer(model, torch.ones(2, 3), None) is None
