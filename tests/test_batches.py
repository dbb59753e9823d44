"""Data in any accepted form: labels as they are read, samplers, random data sets."""

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from geocollapse.arrays import as_labels
from geocollapse.batches import as_examples

X = torch.arange(24.0).reshape(12, 2)
FINE = torch.arange(12) % 4


class WithTargets(Dataset):
    """A data set as torchvision builds them: ``targets``, and a transform of them on the way."""

    def __init__(self, target_transform=None, read=lambda label: label):
        self.targets = FINE.tolist()
        self.target_transform = target_transform
        self._read = read

    def __len__(self):
        return len(X)

    def __getitem__(self, position):
        label = self.targets[position]
        if self.target_transform is not None:
            label = self.target_transform(label)
        return X[position], self._read(label)


def labels_read(data, **arguments):
    examples = as_examples(data, **arguments)
    return torch.cat([examples.labels_of(batch) for batch in examples.batches()])


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: Subset(d, range(12)), DataLoader])
def test_targets_go_through_the_target_transform(wrap):
    coarse = WithTargets(target_transform=lambda label: label // 2)
    assert as_examples(wrap(coarse)).labels.tolist() == (FINE // 2).tolist()
    assert labels_read(wrap(coarse)).tolist() == (FINE // 2).tolist()


def test_targets_that_the_batches_contradict_are_refused():
    renumbered = WithTargets(read=lambda label: 3 - label)
    with pytest.raises(ValueError, match="got 3 in the batch for 0 at position 0"):
        as_examples(renumbered).check()
    late = WithTargets()
    late._read = lambda label: 0
    with pytest.raises(ValueError, match="rename the attribute `targets`"):
        labels_read(late)
    right = 3 - FINE
    assert labels_read(renumbered, labels=right).tolist() == right.tolist()


def test_a_transform_of_input_and_label_leaves_the_labels_to_the_batches():
    joint = WithTargets(read=lambda label: label // 2)
    joint.transforms = object()
    assert as_examples(joint).labels is None
    assert labels_read(joint).tolist() == (FINE // 2).tolist()


@pytest.mark.parametrize(
    ("labels", "remedy"),
    [
        (torch.zeros(3, 1, dtype=torch.int64), r"labels\.squeeze\(1\)"),
        (torch.eye(3), r"argmax\(dim=1\)"),
        (torch.eye(3, dtype=torch.int64), r"argmax\(dim=1\)"),
        (torch.zeros(3), r"labels\.long\(\)"),
        (["cat", 1], r"names alone, .* got 'cat' beside 1; do np\.array"),
        ([0, "cat"], "got 'cat' beside 0"),
        (["cat", None], "got 'cat' beside None"),
        (np.array(["cat", 1.5], dtype=object), "got 'cat' beside 1.5"),
        ([b"cat", b"dog"], r"got b'cat'; do np\.array"),
        (np.array([["cat"], ["dog"]]), r"labels\.squeeze\(1\)"),
    ],
)
def test_labels_of_another_form_are_told_what_to_do(labels, remedy):
    with pytest.raises((TypeError, ValueError), match=remedy):
        as_labels(labels)


def test_negative_labels_are_no_class():
    labels = torch.where(torch.arange(12) < 3, -100, FINE)
    for data in ((X, labels), [(X, labels)]):
        with pytest.raises(ValueError, match="got -100 for 3 of 12 examples; do ignore_index=-100"):
            labels_read(data)
    assert labels_read((X, labels), ignore_index=-100).tolist() == FINE[3:].tolist()
    stream = as_examples([(X[:2], labels[:2]), (X[2:], labels[2:])], ignore_index=-100)
    (batch,) = stream.batches()
    assert torch.equal(batch.inputs, X[3:])
    assert batch.indices.tolist() == list(range(9))


def test_ignore_index_needs_labels_that_are_known_and_another_class():
    with pytest.raises(ValueError, match="do labels= with one for each example"):
        as_examples(torch.utils.data.StackDataset(X, FINE), ignore_index=0)
    with pytest.raises(ValueError, match="the label of all 12 examples"):
        as_examples((X, 0 * FINE), ignore_index=0)


@pytest.mark.parametrize(
    "sampler",
    [
        RandomSampler(range(12), replacement=True, num_samples=24),
        WeightedRandomSampler([5.0] + 11 * [1.0], 24),
    ],
)
def test_draws_of_a_sampler_count_once_and_that_is_said(sampler):
    examples = as_examples(DataLoader(TensorDataset(X, FINE), sampler=sampler))
    (note,) = examples.check()
    assert note.startswith(f"data: 24 draws of the sampler hold {len(examples)} different examples")


def test_a_random_data_set_is_noticed():
    class Augmented(WithTargets):
        def __getitem__(self, position):
            x, label = super().__getitem__(position)
            return x + torch.rand(()), label

    (note,) = as_examples(Augmented()).check()
    assert "random augmentation" in note
    assert as_examples(WithTargets()).check() == ()


@pytest.mark.parametrize("key", ["label", "labels"])
def test_the_key_of_labels_in_a_mapping(key):
    (batch,) = as_examples([{"x": X, key: FINE}]).batches()
    assert torch.equal(batch.inputs, X)
    assert torch.equal(batch.labels, FINE)


@pytest.mark.parametrize("as_rows", [torch.tensor, list])
def test_rows_of_different_lengths_need_a_collate_function(as_rows):
    rows = [{"input_ids": as_rows(list(range(n))), "label": n % 2} for n in (3, 5, 4)]

    class Rows(Dataset):
        def __len__(self):
            return len(rows)

        def __getitem__(self, position):
            return rows[position]

    with pytest.raises(ValueError, match="expected examples of one shape.*DataCollatorWithPadding"):
        list(as_examples(Rows()).batches())


def test_a_batch_sampler_that_drops_the_last_batch_drops_no_example():
    batches = BatchSampler(RandomSampler(range(12)), 5, drop_last=True)
    examples = as_examples(DataLoader(TensorDataset(X, FINE), batch_sampler=batches))
    assert examples.indices.tolist() == list(range(12))
    few = BatchSampler([3, 1, 7], 2, drop_last=True)
    examples = as_examples(DataLoader(TensorDataset(X, FINE), batch_sampler=few))
    assert examples.indices.tolist() == [1, 3, 7]


@pytest.mark.parametrize("in_batches", [False, True])
def test_the_random_numbers_of_a_sampler_are_as_before(in_batches):
    """So that a measurement between two epochs changes no order."""
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(X, FINE)
    sampler = RandomSampler(data, generator=generator)
    own = {"batch_sampler": BatchSampler(sampler, 5, False)} if in_batches else {"sampler": sampler}
    before = generator.get_state()
    as_examples(DataLoader(data, **own))
    assert torch.equal(generator.get_state(), before)
