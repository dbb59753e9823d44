"""The penalty of text models: in the embedded tokens, and independent of padding."""

import pytest
import torch
from reference import complexity as reference
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from geocollapse.estimate import GeocollapseWarning
from geocollapse.regularizers.complexity import GeometricComplexityPenalty
from maps import TEXTS, Reader, padded

EXACT = ("forward_mode", "double_backward")
METHODS = (*EXACT, "finite_difference")


def reader():
    torch.manual_seed(0)
    return Reader().double()


def embedding_of(model, x):
    """The input of the head, from the embedded tokens of texts without padding."""
    h = x + model.positions[: x.shape[1]]
    h = torch.tanh(h + model.attention(h, h, h, need_weights=False)[0])
    return h.mean(dim=1)


def exact_complexity(model):
    """Mean over single texts of the squared norm of the Jacobian in the tokens, with a graph."""
    norms = []
    for text in TEXTS:
        x = model.tokens(torch.tensor([text]))
        with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
            jacobian = torch.func.jacrev(lambda z: embedding_of(model, z[None])[0])(x[0])
        norms.append(jacobian.square().sum())
    return torch.stack(norms).mean()


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("width", [6, 9])
def test_exact_form(method, width):
    """A padded batch has the value of its single texts, and gradients reach the embedding."""
    model = reader()
    _, loss = GeometricComplexityPenalty(
        1.0, input_layer="tokens", method=method, n_probes="exact"
    )(model, padded(TEXTS, width))
    singles = [
        reference.squared_norms(
            lambda z: embedding_of(model, z), model.tokens(torch.tensor([text])).detach()
        )
        for text in TEXTS
    ]
    assert loss.item() == pytest.approx(float(torch.cat(singles).mean()), rel=1e-10)
    trained = [model.tokens.weight, model.positions, model.attention.in_proj_weight]
    found, expected = (
        torch.autograd.grad(value, trained) for value in (loss, exact_complexity(model))
    )
    for gradient, other in zip(found, expected, strict=True):
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "settings", [{}, {"batch_fraction": 0.25}, {"every": 2}, {"batch_norm": "running"}], ids=str
)
def test_output_is_the_models(method, settings):
    model = reader()
    batch = padded(TEXTS * 10)
    penalty = GeometricComplexityPenalty(1e-2, input_layer="tokens", method=method, **settings)
    for _ in range(2):
        output, loss = penalty(model, batch, labels=torch.arange(40) % 2)
        torch.testing.assert_close(output, model(**batch))
        (output.square().mean() + loss).backward()
    assert penalty.last_collapse.value > 0


def test_gradient_of_the_loss_is_the_plain_one():
    """The output of the penalty carries the loss back to the embedding of the tokens."""
    model = reader()
    batch = padded(TEXTS)
    output, _ = GeometricComplexityPenalty(1.0, input_layer="tokens")(model, batch)
    parameters = list(model.parameters())
    pairs = [torch.autograd.grad(z.square().sum(), parameters) for z in (output, model(**batch))]
    for gradient, other in zip(*pairs, strict=True):
        torch.testing.assert_close(gradient, other)


def test_transformers_names_its_own_embedding():
    transformers = pytest.importorskip("transformers", reason='pip install "geocollapse[text]"')
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(
        **sizes, intermediate_size=16, num_labels=3, hidden_dropout_prob=0.0
    )
    model = transformers.BertForSequenceClassification(config).double().eval()
    batch = padded(TEXTS)
    penalty = GeometricComplexityPenalty(1.0, n_probes="exact")
    output, loss = penalty(model, batch)
    torch.testing.assert_close(output.logits, model(**batch).logits)
    longer, _ = penalty(model, padded(TEXTS, 12))
    torch.testing.assert_close(longer.logits, output.logits)
    assert penalty.last.value == pytest.approx(loss.item(), rel=1e-10)  # padding changes nothing
    encoder = GeometricComplexityPenalty(1.0, pool="mean", n_probes=1)
    hidden, loss = encoder(model.bert, batch)
    assert hidden.last_hidden_state.shape == (4, 6, 8)
    assert loss > 0


def test_bad_calls():
    model = reader()
    batch = padded(TEXTS)
    penalty = GeometricComplexityPenalty(1.0, input_layer="tokens")
    with pytest.raises(
        ValueError,
        match="x: expected inputs alone, got 'labels' among them, .* do labels = batch.pop",
    ):
        penalty(model, batch | {"labels": torch.arange(4)})
    with pytest.raises(
        ValueError, match=r"batch: expected inputs of one length, got \{'input_ids': 4, 'a"
    ):
        penalty(model, batch | {"attention_mask": batch["attention_mask"][:2]})
    with pytest.raises(
        TypeError, match=r"inputs: expected a floating tensor .* input_layer=NAME .*: 'tokens'"
    ):
        GeometricComplexityPenalty(1.0)(model, batch)
    with pytest.raises(
        ValueError,
        match="input_layer: expected the name of a module, got 'token'; do one of 'tokens'",
    ):
        GeometricComplexityPenalty(1.0, input_layer="token")(model, batch)
    with pytest.raises(TypeError, match="x: expected a tensor, or tensors by name, got list"):
        penalty(model, TEXTS)
    with pytest.warns(
        GeocollapseWarning, match="attention_mask: padding was found among the tokens but no mask"
    ):
        penalty(model, {"input_ids": batch["input_ids"]})


def test_a_cache_among_the_outputs_is_refused():
    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.reader = reader()

        def forward(self, **batch):
            return {"logits": self.reader(**batch), "cache": object()}

    penalty = GeometricComplexityPenalty(1.0, "reader.head:in", input_layer="reader.tokens")
    with pytest.raises(
        ValueError,
        match="model: expected outputs with a row for each of 2 examples, got object; do sw",
    ):
        penalty(Cached(), padded(TEXTS))
