"""The plain code that one would write instead, as baselines."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def forward_backward(model: nn.Module, layer: nn.Module, inputs: Tensor, batch_size: int) -> None:
    """Bare forward and backward from the input of ``layer``: one product with J^T a batch."""
    taken: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _m, args: taken.append(args[0]))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    try:
        for x in inputs.split(batch_size):
            leaf = x.detach().clone().requires_grad_()
            model(leaf)
            features = taken.pop()
            torch.autograd.grad(features, leaf, torch.ones_like(features))
    finally:
        handle.remove()
        for parameter in model.parameters():
            parameter.requires_grad_(True)


def embedding_backward(model: nn.Module, batches: list[dict[str, Tensor]]) -> None:
    """Bare forward and backward of a text model, from mean-pooled to embedded tokens."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    for batch in batches:
        mask = batch["attention_mask"]
        leaf = embedding(batch["input_ids"]).requires_grad_()
        tokens = model(inputs_embeds=leaf, attention_mask=mask).last_hidden_state
        features = (tokens * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        torch.autograd.grad(features, leaf, torch.ones_like(features))


def training_step(model: nn.Module, x: Tensor, y: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Forward, cross-entropy, backward, update."""
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


def loop_over_outputs(f: nn.Module, x: Tensor) -> Tensor:
    """Exact squared Jacobian norms: one backward pass for each output."""
    leaf = x.detach().clone().requires_grad_()
    out = f(leaf)
    total = torch.zeros(len(x))
    for i in range(out.shape[1]):
        (gradient,) = torch.autograd.grad(out[:, i].sum(), leaf, retain_graph=True)
        total += gradient.flatten(1).square().sum(dim=1)
    return total


def vmap_jacrev(f: nn.Module, x: Tensor, chunk_size: int = 16) -> Tensor:
    """Exact squared Jacobian norms: ``vmap(jacrev)`` in chunks of outputs."""
    parameters = {name: value.detach() for name, value in f.named_parameters()}

    def single(z: Tensor) -> Tensor:
        return torch.func.functional_call(f, parameters, (z[None],))[0]

    jacobian = torch.func.vmap(torch.func.jacrev(single, chunk_size=chunk_size), chunk_size=32)(x)
    return jacobian.flatten(1).square().sum(dim=1)


def two_pass(
    features: Tensor, labels: Tensor, n_classes: int, batch_size: int = 512
) -> tuple[Tensor, Tensor]:
    """CDNV and NC1 as scripts compute them: one pass each for means and scatter, then pinv."""
    p = features.shape[1]
    sums = torch.zeros(n_classes, p, dtype=features.dtype)
    counts = torch.zeros(n_classes, dtype=features.dtype)
    for x, y in zip(features.split(batch_size), labels.split(batch_size)):
        sums.index_add_(0, y, x)
        counts += torch.bincount(y, minlength=n_classes)
    means = sums / counts[:, None]
    within = torch.zeros(p, p, dtype=features.dtype)
    variances = torch.zeros(n_classes, dtype=features.dtype)
    for x, y in zip(features.split(batch_size), labels.split(batch_size)):
        z = x - means[y]
        within += z.T @ z
        variances.index_add_(0, y, z.square().sum(dim=1))
    variances /= counts
    centred = means - means.mean(dim=0)
    between = centred.T @ centred / n_classes
    nc1 = torch.trace(within / len(features) @ torch.linalg.pinv(between)) / n_classes
    distances = torch.cdist(means, means).square()
    ratios = (variances[:, None] + variances) / (2 * distances)
    return ratios[~torch.eye(n_classes, dtype=torch.bool)].mean(), nc1


def class_covariances(features: Tensor, labels: Tensor, n_classes: int) -> list[Tensor]:
    """Covariance matrices of the classes, one by one."""
    covariances = []
    for c in range(n_classes):
        z = features[labels == c]
        z = z - z.mean(dim=0)
        covariances.append(z.T @ z / len(z))
    return covariances


def episode_loop(
    features: Tensor, labels: Tensor, n_episodes: int, n_way: int = 5, k_shot: int = 5
) -> Tensor:
    """Few-shot episodes one by one: 15 queries a class, nearest class mean."""
    generator = torch.Generator().manual_seed(0)
    classes = [(labels == c).nonzero().flatten() for c in range(int(labels.max()) + 1)]
    accuracies = []
    for _ in range(n_episodes):
        ways = torch.randperm(len(classes), generator=generator)[:n_way]
        rows = [
            classes[w][torch.randperm(len(classes[w]), generator=generator)[: k_shot + 15]]
            for w in ways
        ]
        support = torch.stack([features[r[:k_shot]].mean(dim=0) for r in rows])
        query = torch.cat([features[r[k_shot:]] for r in rows])
        predicted = torch.cdist(query, support).argmin(dim=1)
        accuracies.append((predicted == torch.arange(n_way).repeat_interleave(15)).double().mean())
    return torch.stack(accuracies)
