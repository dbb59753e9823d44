"""The classifier behind the features: outputs matched to classes, notes if there is none."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import geocollapse as geo
from geocollapse.cli import main
from geocollapse.features import find_embedding

X = torch.randn(90, 6, generator=torch.Generator().manual_seed(0))
NAMES = ["ant", "bee", "cow"]


class Named(nn.Module):
    """A classifier whose configuration names its outputs, as those of transformers do."""

    def __init__(self, names):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.config = SimpleNamespace(id2label=dict(enumerate(names)))

    def forward(self, x):
        return self.head(self.body(x).relu())


def of_classes(names, order):
    """Examples with the labels that the model of ``NAMES`` predicts, up to some errors.

    Class k of the data is ``order[k]``.
    """
    labels = Named(NAMES).eval()(X).argmax(dim=1)
    labels[:9] = (labels[:9] + 1) % 3
    data = TensorDataset(X, torch.tensor([order.index(label) for label in labels.tolist()]))
    data.classes = [names[label] for label in order]
    return data


def about_accuracy(measured):
    return [note for note in measured.warnings if note.startswith("accuracy")]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 0, 2]])
@pytest.mark.parametrize("change", [str, str.upper])
def test_the_order_of_the_classes_changes_no_measure(order, change):
    plain = geo.measure(Named(["LABEL_0", "LABEL_1", "LABEL_2"]), of_classes(NAMES, [0, 1, 2]))
    found = geo.measure(Named(map(change, NAMES)), of_classes(NAMES, order))
    assert plain.accuracy == pytest.approx(0.9)
    assert about_accuracy(plain) == []
    assert (found.accuracy, found.nc4) == (plain.accuracy, plain.nc4)
    assert found.nc3 == pytest.approx(plain.nc3)
    expected = (
        []
        if order == [0, 1, 2]
        else ["accuracy: outputs are matched to classes by name, the model's are in"]
    )
    assert [note[: len(expected[0])] for note in about_accuracy(found)] == expected


def test_names_given_by_hand_are_matched_too():
    data = of_classes(NAMES, [2, 0, 1])
    found = geo.measure(Named(NAMES), data.tensors, class_names=data.classes)
    assert found.accuracy == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (["LABEL_2", "LABEL_1", "LABEL_0"], None),
        (["dog", "elk", "fox"], None),
        (
            ["bee", "ant", "dog"],
            "accuracy: class names differ, the model's are bee, ant, dog, the data's ant, bee, "
            "cow;",
        ),
        (
            ["bee", "ant", "ant"],
            "accuracy: class names differ, the model's are bee, ant, ant, the data's ant, bee, "
            "cow;",
        ),
        (["cow", "bee", "ant", "dog"], None),  # not of this classifier, which has three outputs
    ],
)
def test_names_that_do_not_tell_the_order_leave_it(names, note):
    found = geo.measure(Named(names), of_classes(NAMES, [0, 1, 2]))
    assert found.accuracy == pytest.approx(0.9)
    assert [text[: len(note or "")] for text in about_accuracy(found)] == ([note] if note else [])


def test_fewer_classes_than_outputs_have_no_accuracy():
    data = TensorDataset(X, torch.arange(90) % 2)
    data.classes = ["cow", "ant"]
    found = geo.measure(Named(NAMES), data)
    assert found.accuracy is None
    assert about_accuracy(found)[0] == "accuracy: the model has 3 outputs, the data 2 classes"
    assert about_accuracy(found)[1].startswith("accuracy: class names differ")


def saved_texts(folder):
    """Save a BERT classifier, its tokenizer, and a .csv of texts that it classifies correctly."""
    import transformers
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel

    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", *(f"w{number}" for number in range(30))]
    backend = Tokenizer(
        WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]"
    )
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    config = transformers.BertConfig(
        **sizes,
        vocab_size=32,
        initializer_range=1.0,
        max_position_embeddings=12,
        id2label={0: "good", 1: "bad"},
    )
    model = transformers.BertForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    texts = [" ".join(f"w{int(number)}" for number in torch.randint(30, (4,))) for _ in range(40)]
    found = model(**tokenizer(texts, return_tensors="pt")).logits.argmax(dim=1).tolist()
    lines = [f"{text},{('good', 'bad')[label]}" for text, label in zip(texts, found, strict=True)]
    (folder / "texts.csv").write_text("\n".join(["text,label", *lines]))
    assert set(found) == {0, 1}
    return folder


def test_a_transformers_classifier_on_the_command_line(tmp_path, capsys):
    folder = saved_texts(tmp_path)
    assert (
        main(["measure", f"hf:{folder}", f"csv:{folder / 'texts.csv'}", "--quiet", "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert (found["classes"], found["accuracy"], found["nc4"] < 1) == (["bad", "good"], 1.0, True)
    assert any("outputs are matched to classes by name" in note for note in found["warnings"])


# no linear layer returns the output


class Averaged(nn.Module):
    """Two heads whose mean is the output, as in a distilled transformer."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.head_dist, self.last = (
            nn.Linear(*n) for n in ((6, 8), (8, 3), (8, 3), (3, 4))
        )

    def forward(self, x):
        z = self.body(x).relu()
        both = (self.head(z) + self.head_dist(z)) / 2
        self.last(both)  # another width
        return both


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        (
            nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3), nn.LogSoftmax(1)),
            "do classifier='2'",
        ),
        (Averaged(), "do classifier='head_dist' or classifier='head'"),
    ],
)
def test_an_output_that_may_be_a_classifiers(model, hint):
    data = (X, torch.arange(90) % 3)
    own = geo.measure(model, data)
    assert (own.layers[0].layer, own.accuracy) == ("", None)
    assert [note for note in own.warnings if note.startswith("layer: ")] == [
        "layer: the model's own output is measured, which no linear layer gives unchanged; if it "
        "is a classifier, "
        f"{hint}"
    ]
    assert "accuracy: no linear layer gives the model's output unchanged" in own.warnings
    name = hint.split("'")[1]
    found = geo.measure(model, data, classifier=name)
    assert found.layers[0].layer == f"{name}:in"
    assert found.accuracy == pytest.approx(
        float((model(X).argmax(dim=1) == data[1]).double().mean())
    )
    assert found.nc3 is not None


def test_an_embedding_that_no_linear_layer_is_as_wide_as_has_no_note():
    found = geo.measure(
        nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.AvgPool1d(2)), (X, torch.arange(90) % 3)
    )
    assert not [note for note in found.warnings if note.startswith("layer: ")]


def test_a_callable_has_no_known_classifier():
    found = geo.measure(lambda x: x.sin(), (X, torch.arange(90) % 3))
    assert "accuracy: a callable has no known classifier" in found.warnings


class LastOfSequence(nn.Module):
    """A classifier at every position of a sequence, with the last one kept, as in GPT-2."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.score = nn.Linear(2, 8), nn.Linear(8, 3)

    def forward(self, x):
        return {"logits": self.score(self.body(x.unflatten(1, (3, 2))).tanh())[:, -1], "cache": x}


def test_a_classifier_at_every_position_is_named():
    model, data = LastOfSequence(), (X, torch.arange(90) % 3)
    with pytest.raises(
        ValueError, match="do layer='score:in' with pool='last' and classifier='score', or one of "
    ) as e:
        geo.measure(model, data)
    assert "'[logits]'" in str(e.value)
    found = geo.measure(model, data, layer="score:in", pool="last", classifier="score")
    assert found.accuracy == pytest.approx(
        float((model(X)["logits"].argmax(dim=1) == data[1]).double().mean())
    )
    assert found.nc3 is not None


def test_gpt2_as_a_classifier_of_sequences():
    import transformers

    config = transformers.GPT2Config(
        n_layer=1, n_embd=8, n_head=2, vocab_size=11, num_labels=3, pad_token_id=0
    )
    model = transformers.GPT2ForSequenceClassification(config)
    with pytest.raises(
        ValueError, match="do layer='score:in' with pool='last' and classifier='score'"
    ):
        find_embedding(model, {"input_ids": torch.tensor([[3, 4, 5]])})


def test_a_scripted_model_is_measured_at_its_output_alone():
    model = torch.jit.trace(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), X[:2])
    data = (X, torch.arange(90) % 3)
    for layer in (None, "2:in"):
        with pytest.raises(
            ValueError,
            match="expected '' for a TopLevelTracedModule, .* do layer='' to measure",
        ):
            geo.measure(model, data, layer=layer)
    assert geo.measure(model, data, layer="").features.shape == (90, 3)
