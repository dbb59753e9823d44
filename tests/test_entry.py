"""Where a Jacobian begins: inputs by name, tokens, padding."""

import pytest
import torch
from reference import complexity as reference
from torch import nn

import geocollapse as geo
from geocollapse.features import FeatureMap, Layer, pooled
from geocollapse.features.entry import entry_of, find_input_layer
from geocollapse.features.padding import MOVED_PADDING, without_left_padding
from geocollapse.jacobian import ProbePlan
from maps import TEXTS, Reader, padded


def reader():
    torch.manual_seed(0)
    return Reader().double().eval()


@pytest.mark.parametrize("estimator", ["exact", "rademacher", "input", "outputs"])
@pytest.mark.parametrize(
    ("layer", "pool"), [("head:in", None), ("attention.out_proj", "mean"), ("", None)]
)
def test_padding_changes_nothing(estimator, layer, pool):
    """A padded batch gives each example's own features and squared Jacobian norm."""
    model = reader()
    if layer.startswith("attention"):  # a layer of sequences
        layer, pool = "attention_out", "last"
        model.attention_out = nn.Identity()
        model.forward = lambda input_ids, attention_mask: model.head(
            pooled(
                model.attention_out(torch.tanh(model.tokens(input_ids).cumsum(dim=1))),
                "last",
                attention_mask,
            )
        )
    feature_map = FeatureMap(model, [Layer.find(model, layer)], pool, "tokens")
    plan = ProbePlan(estimator, seed=3)
    take, x = feature_map.enter(padded(TEXTS, 9))
    together = plan.probe(take, x, torch.arange(4), 2)
    for i, text in enumerate(TEXTS):
        take, x = feature_map.enter(padded([text]))
        alone = plan.probe(take, x, torch.tensor([i]), 2)
        torch.testing.assert_close(
            together.features[0][i : i + 1], alone.features[0], rtol=1e-12, atol=1e-12
        )
        torch.testing.assert_close(
            together.norms[0].values[i : i + 1], alone.norms[0].values, rtol=1e-10, atol=0.0
        )


def test_squared_norms_are_of_the_embedded_tokens():
    model = reader()
    take, x = FeatureMap(model, [Layer("")], None, "tokens").enter(padded(TEXTS[:1]))
    found = ProbePlan("exact").probe(take, x, torch.arange(1), 1).norms[0].values

    def f(z):
        h = z + model.positions[: z.shape[1]]
        h = torch.tanh(h + model.attention(h, h, h, need_weights=False)[0])
        return model.head(h.mean(dim=1))

    torch.testing.assert_close(
        found, reference.squared_norms(f, model.tokens(torch.tensor(TEXTS[:1])).detach())
    )


@pytest.mark.parametrize(
    ("pool", "expected"),
    [("mean", [[1.5], [3.0]]), ("cls", [[1.0], [3.0]]), ("last", [[2.0], [3.0]])],
)
@pytest.mark.parametrize("side", ["right", "left"])
def test_pool_of_tokens(pool, expected, side):
    """Padding is no token, on either side."""
    tokens, mask = (
        torch.tensor([[1.0, 2.0, 99.0], [3.0, 99.0, 99.0]]),
        torch.tensor([[1, 1, 0], [1, 0, 0]]),
    )
    if side == "left":
        tokens, mask = torch.tensor([[99.0, 1.0, 2.0], [99.0, 99.0, 3.0]]), mask.flip(1)
    assert pooled(tokens[..., None], pool, mask).tolist() == expected


def test_pool_without_mask():
    tokens = torch.tensor([[[1.0], [2.0]]])
    assert [pooled(tokens, pool).item() for pool in ("mean", "cls", "last")] == [1.5, 1.0, 2.0]
    assert pooled(tokens, None) is tokens


def test_measure_of_named_inputs():
    """The complexity of padded batches is the mean of the single texts' exact values."""
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
    assert m.geometric_complexity.value == pytest.approx(
        float(torch.cat(singles).mean()), rel=1e-10
    )
    assert m.layers[0].layer == "head:in"
    assert m.to_dict()["preprocessing"]["input_layer"] == "tokens"
    assert m.accuracy is not None
    assert not any("attention_mask" in note for note in m.layers[0].warnings)


def test_padding_without_mask_is_told():
    model, batch = reader(), padded(TEXTS * 3)
    m = geo.measure(model, (batch["input_ids"], torch.arange(12) % 2), input_layer="tokens")
    assert any(
        note.startswith("attention_mask: padding was found") for note in m.layers[0].warnings
    )


def test_one_floating_input_by_name():
    """Jacobians are taken with respect to the floating tensor among named inputs."""

    class Scaled(nn.Module):
        def forward(self, x, scale):
            return x * scale[:, None]

    entry = entry_of(Scaled(), {"x": torch.ones(2, 3), "scale": torch.tensor([2, 5])})
    take = FeatureMap(Scaled(), [Layer("")]).enter(
        {"x": torch.ones(2, 3), "scale": torch.tensor([2, 5])}
    )
    norms = ProbePlan("exact").probe(*take, torch.arange(2), 1).norms[0].values
    assert entry.x.shape == (2, 3)
    assert norms.tolist() == [12.0, 75.0]


def test_bad_entries():
    model, ids = reader(), torch.tensor(TEXTS[:1])
    labels = torch.tensor([0])
    with pytest.raises(
        TypeError, match=r"inputs: expected a floating tensor .* input_layer=NAME .*: 'tokens'"
    ):
        geo.measure(model, (ids, labels))
    with pytest.raises(
        ValueError,
        match=r"input_layer: expected the name of a module, got 'token'; do one of 'tokens'",
    ):
        geo.measure(model, (ids, labels), input_layer="token")
    with pytest.raises(ValueError, match=r"got a, b; do input_layer=NAME$"):
        entry_of(model, {"a": torch.ones(1), "b": torch.ones(1)})
    with pytest.raises(
        RuntimeError,
        match=r"input_layer: expected 'attention' to return one floating tensor, got tuple; "
        r".* ran: 'tokens'",
    ):
        entry_of(model, padded(TEXTS), "attention")
    with pytest.raises(
        ValueError,
        match=r"memory_limit: expected inputs of one shape, got inputs by name or tokens",
    ):
        geo.measure(
            model, (ids.repeat(6, 1), torch.arange(6) % 2), input_layer="tokens", memory_limit=10**9
        )
    with pytest.raises(
        ValueError, match=r"pool: expected one of mean, .* do pool='mean', or 'last' for a decoder"
    ):
        pooled(torch.ones(2, 3, 4), None, torch.ones(2, 3))
    with pytest.raises(
        ValueError, match=r"attention_mask: expected at least one token in each sequence, got none"
    ):
        pooled(torch.ones(2, 3, 4), "mean", torch.tensor([[1, 1, 0], [0, 0, 0]]))
    with pytest.raises(
        ValueError, match=r"pool: expected 'mean' for a map \(2, 3, 4, 4\), got 'cls'"
    ):
        pooled(torch.ones(2, 3, 4, 4), "cls")
    with pytest.raises(
        ValueError, match=r"batch: expected inputs of one length, got \{'a': 1, 'b': 2\}"
    ):
        geo.measure(model, [{"a": torch.ones(1), "b": torch.ones(2), "labels": torch.tensor([0])}])
    with pytest.raises(
        ValueError,
        match=r"input_std: expected None for Jacobians with respect to 'tokens', got 2.0",
    ):
        geo.measure(
            model, (ids.repeat(6, 1), torch.arange(6) % 2), input_layer="tokens", input_std=2.0
        )


def test_an_input_layer_runs_once():
    twice = nn.Sequential(nn.Embedding(5, 4))
    twice.forward = lambda ids: twice[0](ids) + twice[0](ids)
    entry = entry_of(twice, torch.tensor([[1, 2]]), "0")
    with pytest.raises(
        RuntimeError,
        match=r"input_layer: expected '0' to run once in a forward pass, got 2 runs",
    ):
        entry.run(entry.x)


def test_the_embedding_of_a_transformers_model_is_found():
    model = reader()
    model.get_input_embeddings = lambda: model.tokens
    assert find_input_layer(model, padded(TEXTS), None) == "tokens"
    assert find_input_layer(model, torch.ones(2, 3), None) is None


def test_a_float_mask_is_no_input():
    """With a known embedding, Jacobians are taken with respect to the embedded tokens."""
    model = reader()
    batch = padded(TEXTS)
    floating = batch | {"attention_mask": batch["attention_mask"].double()}
    with pytest.raises(
        TypeError, match=r"inputs: expected a floating tensor .* got input_ids of torch.int64; do"
    ):
        entry_of(model, floating)
    model.get_input_embeddings = lambda: model.tokens
    assert find_input_layer(model, floating, None) == "tokens"
    assert (
        find_input_layer(
            model, {"inputs_embeds": torch.ones(2, 3, 6), "attention_mask": torch.ones(2, 3)}, None
        )
        is None
    )
    labels = torch.arange(4) % 2
    expected, found = (
        geo.measure(model, [b | {"labels": labels}], estimator="exact").geometric_complexity.values
        for b in (batch, floating)
    )
    assert float(expected.min()) > 0
    torch.testing.assert_close(found, expected)


def test_a_float_beside_the_tokens_is_no_input():
    class Weighted(Reader):
        def get_input_embeddings(self):
            return self.tokens

        def forward(self, input_ids, weight):
            return super().forward(input_ids) * weight

    batch = {"input_ids": torch.tensor([[3, 1]]), "weight": torch.ones(1, 1)}
    assert find_input_layer(Weighted(), batch, None) == "tokens"


def test_parts_that_name_no_embedding():
    """transformers does not name an embedding for a model of several parts."""
    model = reader()

    def several():
        raise NotImplementedError

    model.get_input_embeddings = several
    assert find_input_layer(model, padded(TEXTS), None) is None


@pytest.mark.parametrize("pool", [None, "mean", "cls", "last"])
@pytest.mark.parametrize("shape", [(2, 5, 4), (2, 3, 4, 4), (2, 3, 5, 6, 4)])
def test_a_mask_of_other_positions_is_refused(shape, pool):
    """Padding would count as tokens; (n, p) and a single position have no padding."""
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    with pytest.raises(
        ValueError,
        match=r"attention_mask: expected \(n, tokens\) and a layer .* got \(2, 3\) and a lay",
    ):
        pooled(torch.ones(shape), pool, mask)
    z = torch.randn(2, 1, 4)
    assert pooled(z[:, 0], pool, mask) is not None
    torch.testing.assert_close(pooled(z, pool, mask).flatten(1), z[:, 0])


def padded_on_the_left(texts, width):
    ids = torch.tensor([[0] * (width - len(text)) + text for text in texts])
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def of_transformers(name):
    """A small float64 model with learned positions and token types that matter."""
    transformers = pytest.importorskip("transformers", reason='pip install "geocollapse[text]"')
    torch.manual_seed(0)
    if name == "GPT2Model":
        sizes = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 12}
        config = transformers.GPT2Config(
            vocab_size=11, **sizes, bos_token_id=None, eos_token_id=None
        )
    else:
        sizes = {
            "hidden_size": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 16,
        }
        config = transformers.BertConfig(
            vocab_size=11, **sizes, max_position_embeddings=12, initializer_range=0.5
        )
    return getattr(transformers, name)(config).double().eval()


@pytest.mark.parametrize(
    ("name", "layer", "pool"),
    [("BertModel", "encoder.layer.1", pool) for pool in ("mean", "cls", "last")]
    + [("GPT2Model", "ln_f", pool) for pool in ("mean", "cls", "last")]
    + [("BertForSequenceClassification", "classifier:in", None)],
)
def test_left_padding_changes_nothing(name, layer, pool):
    """Padding on either side leaves a text's squared norm, also with learned positions."""
    model = of_transformers(name)

    def norms(batch):
        feature_map = FeatureMap(
            model, [Layer.find(model, layer)], pool, find_input_layer(model, batch, None)
        )
        take, x = feature_map.enter(batch)
        found = ProbePlan("exact").probe(take, x, torch.arange(len(x)), 1).norms[0].values
        return found, MOVED_PADDING in feature_map.notes

    right, is_told_right = norms(padded(TEXTS, 9))
    left, is_told_left = norms(padded_on_the_left(TEXTS, 9))
    single = torch.cat([norms(padded([text]))[0] for text in TEXTS])
    torch.testing.assert_close(left, single, rtol=1e-10, atol=0.0)
    torch.testing.assert_close(right, single, rtol=1e-10, atol=0.0)
    assert (is_told_left, is_told_right) == (True, False)


def test_what_belongs_to_tokens_is_moved_with_them():
    batch = {
        "input_ids": torch.tensor([[0, 0, 5, 6], [1, 0, 2, 0], [0, 3, 0, 4], [0, 0, 0, 0]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0]]),
        "position_ids": torch.tensor([[1, 1, 0, 1], [0, 1, 2, 3], [1, 0, 1, 2], [0, 1, 2, 3]]),
        "inputs_embeds": torch.arange(32.0).reshape(4, 4, 2),
        "year": torch.tensor([[1], [2], [3], [4]]),
    }
    moved = without_left_padding(batch)
    assert moved["input_ids"].tolist() == [[5, 6, 0, 0], [1, 0, 2, 0], [3, 0, 4, 0], [0, 0, 0, 0]]
    assert moved["attention_mask"].tolist() == [
        [1, 1, 0, 0],
        [1, 0, 1, 0],
        [1, 0, 1, 0],
        [0, 0, 0, 0],
    ]
    assert moved["position_ids"].tolist() == [
        [0, 1, 1, 1],
        [0, 1, 2, 3],
        [0, 1, 2, 1],
        [0, 1, 2, 3],
    ]
    assert moved["inputs_embeds"][0].tolist() == [[4.0, 5.0], [6.0, 7.0], [0.0, 1.0], [2.0, 3.0]]
    assert moved["year"] is batch["year"]
    assert (
        without_left_padding(padded(TEXTS))["input_ids"].tolist()
        == padded(TEXTS)["input_ids"].tolist()
    )


def test_left_padding_is_told():
    model, batch = (
        of_transformers("BertForSequenceClassification"),
        padded_on_the_left(TEXTS * 3, 7),
    )
    m = geo.measure(model, [batch | {"labels": torch.arange(12) % 2}])
    assert MOVED_PADDING in m.layers[0].warnings


def encoder_decoder(name):
    """A small model whose named embedding only holds weights, and its map from embedded tokens."""
    transformers = pytest.importorskip("transformers", reason='pip install "geocollapse[text]"')
    torch.manual_seed(0)
    if name == "T5EncoderModel":
        config = transformers.T5Config(
            vocab_size=11, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2
        )
        model = transformers.T5EncoderModel(config).double().eval()
        return model, lambda z, _ids: model(inputs_embeds=z).last_hidden_state.mean(dim=1)
    sizes = {
        f"{part}_{what}": 2
        for part in ("encoder", "decoder")
        for what in ("layers", "attention_heads", "ffn_dim")
    }
    tokens = {
        "bos_token_id": 9,
        "eos_token_id": 10,
        "pad_token_id": 0,
        "decoder_start_token_id": 10,
    }
    config = transformers.BartConfig(
        vocab_size=11, d_model=8, max_position_embeddings=12, **sizes, **tokens
    )
    model = transformers.BartModel(config).double().eval()

    def f(z, ids):
        behind = torch.cat([torch.tensor([[10]]), ids[:, :-1]], dim=1)
        return model(inputs_embeds=z, decoder_input_ids=behind).last_hidden_state.mean(dim=1)

    return model, f


@pytest.mark.parametrize("name", ["T5EncoderModel", "BartModel"])
def test_an_embedding_that_only_holds_the_weights(name):
    """The embedding that the model names does not run; the encoder's own runs first."""
    model, f = encoder_decoder(name)
    assert model.get_input_embeddings() is model.shared
    batch = padded(TEXTS)
    assert find_input_layer(model, batch, None) == "encoder.embed_tokens"
    m = geo.measure(
        model, [batch | {"labels": torch.arange(4) % 2}], pool="mean", estimator="exact"
    )
    expected = []
    for text in TEXTS:
        ids = torch.tensor([text])
        embedded = model.encoder.embed_tokens(ids).detach()
        expected.append(reference.squared_norms(lambda z, ids=ids: f(z, ids), embedded))
    torch.testing.assert_close(
        m.geometric_complexity.values, torch.cat(expected), rtol=1e-10, atol=0.0
    )
    message = r"got a layer that did not run; do name an embedding that ran: 'encoder.embed_tokens'"
    with pytest.raises(RuntimeError, match=message):
        entry_of(model, batch, "shared")


def test_an_embedding_with_other_weights_is_found_by_its_tokens():
    class Split(Reader):
        def __init__(self):
            super().__init__()
            self.years = nn.Embedding(11, 6)
            self.named = nn.Embedding(11, 6)

        def get_input_embeddings(self):
            return self.named

        def forward(self, input_ids):
            return (
                self.years(torch.ones_like(input_ids)).mean(dim=1)
                + super().forward(input_ids).mean()
            )

    assert find_input_layer(Split(), torch.tensor([[3, 1, 4]]), None) == "tokens"
