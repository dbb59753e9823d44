import pytest
import torch
from torch import nn

from geocollapse.modules.borrow import borrowed
from geocollapse.modules.mixing import check_mixing_layers


class Counting(nn.Module):
    """Counts its calls in one buffer and replaces another: both must be undone."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(2))

    def forward(self, x):
        self.calls += 1
        self.last = x.detach().mean(dim=0)
        return x + torch.rand(())


def everything(model):
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [len(module._forward_hooks) for module in model.modules()],
        torch.random.get_rng_state(),
    )


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_handed_back(fails):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(), Counting())
    model[0].bias.requires_grad_(False)
    model[2].eval()
    before, calls = everything(model), model[3].calls
    try:
        with borrowed(model):
            assert not any(module.training for module in model.modules())
            assert not any(parameter.requires_grad for parameter in model.parameters())
            model(torch.randn(3, 2))
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    after = everything(model)
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1:4] == after[1:4]
    assert torch.equal(before[4], after[4])
    assert model[3].calls is calls


class Queue(nn.Module):
    """Keeps the mean of its first batch, a growing queue, and buffers that a batch registers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", None)
        self.register_buffer("queue", torch.arange(2.0))
        self.register_buffer("grown", torch.arange(3.0))
        self.register_buffer("passing", torch.zeros(1), persistent=False)

    def forward(self, x):
        self.mean = x.mean(dim=0) if self.mean is None else self.mean
        self.queue.data = torch.cat([self.queue, x[:, 0]])
        self.grown.resize_(7).fill_(1.0)
        self.register_buffer("last", x, persistent=False)
        self.register_buffer("kept", x)
        self.register_buffer("passing", x)
        return x - self.mean


def test_buffers_that_come_or_grow_are_handed_back():
    model = nn.Sequential(nn.Linear(2, 2), Queue())
    queue, place = model[1].queue, model[1].queue.data_ptr()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with borrowed(model):
        model(torch.randn(4, 2))
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model[1].mean is None
    assert list(model[1]._buffers) == ["mean", "queue", "grown", "passing"]
    assert model[1]._non_persistent_buffers_set == {"passing"}
    assert model[1].queue is queue
    assert queue.data_ptr() == place


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_scripted_model_is_handed_back():
    model = torch.jit.script(
        nn.Sequential(
            nn.Linear(2, 2), nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False)
        )
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with borrowed(model, evaluation=False):
        model(torch.randn(4, 2))
        assert int(model[1].num_batches_tracked) == 1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_independence():
    check_mixing_layers(nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5)).eval())
    check_mixing_layers(nn.Sequential(nn.Dropout(0.0), nn.LayerNorm(2)))
    check_mixing_layers(nn.Sequential(nn.BatchNorm1d(2)), evaluation=True)
    with pytest.raises(RuntimeError, match="track_running_stats=True"):
        check_mixing_layers(nn.BatchNorm1d(2, track_running_stats=False), evaluation=True)
    many = nn.Sequential(*[nn.Dropout() for _ in range(5)])
    with pytest.raises(RuntimeError, match=r"'0', '1', '2' and 2 more; do model.eval\(\) first"):
        check_mixing_layers(many)
