"""Maps that several tests share."""

import torch
from torch import nn

from geocollapse.features import pooled


class Twice(torch.autograd.Function):
    """2 x, with its own backward pass and no forward mode."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class Standardised(nn.Module):
    """Features minus their mean over the batch, under a name that does not give it away."""

    def forward(self, x):
        return x - x.mean(dim=0)


class Routed(nn.Module):
    """A mixture of experts: each row goes to its two likeliest, until they have no room left."""

    def __init__(self, width, n_experts=4):
        super().__init__()
        self.gate = nn.Linear(width, n_experts)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(n_experts))

    def forward(self, x):
        weights, chosen = self.gate(x).softmax(dim=1).topk(2, dim=1)
        capacity = -(-2 * len(x) // len(self.experts))
        output = x.clone()
        for number, expert in enumerate(self.experts):
            rows, slot = (chosen == number).nonzero(as_tuple=True)
            rows, slot = rows[:capacity], slot[:capacity]
            output = output.index_add(0, rows, weights[rows, slot, None] * expert(x[rows]))
        return output


class Reader(nn.Module):
    """A small text model: embedding, positions, attention over tokens only, linear classifier."""

    def __init__(self, vocabulary=11, width=6, n_classes=3):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=0)
        self.positions = nn.Parameter(torch.randn(20, width))
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.head = nn.Linear(width, n_classes)

    def forward(self, input_ids, attention_mask=None):
        x = self.tokens(input_ids) + self.positions[: input_ids.shape[1]]
        padding = None if attention_mask is None else attention_mask == 0
        h = torch.tanh(x + self.attention(x, x, x, key_padding_mask=padding, need_weights=False)[0])
        return self.head(pooled(h, "mean", attention_mask))


TEXTS = [[3, 1, 4], [1, 5, 9, 2, 6, 5], [3], [5, 8, 9, 7]]


def padded(texts, width=None):
    n = width or max(map(len, texts))
    ids = torch.tensor([text + [0] * (n - len(text)) for text in texts])
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}
