"""Losses with known derivatives as losses of modules, and small models that several tests share."""

import numpy as np
import torch
from reference import dynamics as reference
from torch import nn


class Point(nn.Module):
    """A point x of parameter space, in two parameters, so that trees have several branches."""

    def __init__(self, x=reference.START):
        super().__init__()
        x = torch.as_tensor(np.array(x), dtype=torch.float64)
        self.head = nn.Parameter(x[:1].clone())
        self.tail = nn.Parameter(x[1:].clone())

    def forward(self):
        return torch.cat([self.head, self.tail])


def loss_of(bumpy):
    """The loss of a `reference.Bumpy` as a callable of a `Point`."""
    a, b = torch.tensor(bumpy.a), torch.tensor(bumpy.b)

    def loss(point):
        x = point()
        return x @ a @ x / 2 + torch.sin(b @ x) + bumpy.c / 4 * (x**4).sum()

    return loss


def tree_of(x):
    """A numpy vector as a tree of a `Point`."""
    x = torch.as_tensor(np.array(x), dtype=torch.float64)
    return {"head": x[:1], "tail": x[1:]}


def vector(tree):
    """A tree as one numpy vector."""
    return torch.cat([tensor.detach().reshape(-1).double() for tensor in tree.values()]).numpy()


def cross_entropy(x, labels):
    return lambda model: nn.functional.cross_entropy(logits(model(x)), labels)


def in_bfloat16(loss):
    """The loss under CPU autocast."""

    def rounded(model):
        with torch.autocast("cpu", torch.bfloat16):
            return loss(model)

    return rounded


def logits(output):
    return getattr(output, "logits", output)


class Tilted(torch.autograd.Function):
    """x y, whose backward pass gives no gradient of a potential."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square().sum() / 2

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (x + x.roll(1))


def mlp(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    x = torch.randn(8, 5, dtype=torch.float64)
    return net, cross_entropy(x, torch.arange(8) % 3)


def resnet(seed=0):
    """A ResNet with batch normalisation, in training mode."""
    import timm

    torch.manual_seed(seed)
    model = timm.create_model("resnet10t", num_classes=3, stem_width=8, channels=(8, 8, 8, 8))
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    return model.double().train(), cross_entropy(x, torch.arange(4) % 3)


def vision_transformer(seed=0):
    import timm

    torch.manual_seed(seed)
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **sizes).double().eval()
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    return model, cross_entropy(x, torch.arange(4) % 3)


def text_classifier(seed=0):
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        num_labels=3,
    )
    model = BertForSequenceClassification(config).double().eval()
    ids = torch.randint(1, 20, (4, 6))
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    labels = torch.arange(4) % 3

    def loss(model):
        return nn.functional.cross_entropy(model(ids, attention_mask=mask).logits, labels)

    return model, loss


def random_tree(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(p.shape, dtype=torch.float64, generator=generator).to(p)
        for name, p in model.named_parameters()
        if p.requires_grad
    }
