"""A device without float64, such as Apple's MPS, imitated on the CPU."""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

NAME = "meta"


class OnDevice(torch.Tensor):
    """A tensor that claims to be on the device; its numbers are on the CPU."""

    @staticmethod
    def __new__(cls, numbers):
        if numbers.dtype == torch.float64:
            raise TypeError("float64 on a device that has none")
        return torch.Tensor._make_wrapper_subclass(
            cls, numbers.shape, strides=numbers.stride(), dtype=numbers.dtype, device=NAME
        )

    def __init__(self, numbers):
        self.numbers = numbers

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


class Moves(TorchFunctionMode):
    """``to`` the device and ``torch.tensor`` on it, which ``Factories`` does not see."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        is_to = function is torch.Tensor.to
        if function is torch.tensor or (is_to and not isinstance(args[0], OnDevice)):
            places = [
                kwargs.get("device"),
                *(a for a in args[1:] if isinstance(a, str | torch.device) and is_to),
            ]
            if any(place is not None and torch.device(place).type == NAME for place in places):
                kwargs["device"] = "cpu"
                dtypes = [a for a in args[1:] if isinstance(a, torch.dtype)]
                return _Put.apply(function(args[0], *dtypes, **kwargs))
        return function(*args, **kwargs)


class _Put(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return OnDevice(x.detach())

    @staticmethod
    def backward(ctx, gradient):
        return gradient.cpu()


class Factories(TorchDispatchMode):
    """``torch.zeros(..., device=...)`` and the like."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


def _run(function, args, kwargs):
    is_on_device = []

    def numbers(value):
        if isinstance(value, OnDevice):
            is_on_device.append(True)
            return value.numbers
        return value

    args, kwargs = tree_map(numbers, (args, kwargs))
    target = kwargs.get("device")
    if target is not None:
        kwargs["device"] = torch.device("cpu")
        is_on_device = [True] if torch.device(target).type == NAME else []
    output = function(*args, **kwargs)

    def put(value):
        return (
            OnDevice(value)
            if isinstance(value, torch.Tensor) and not isinstance(value, OnDevice)
            else value
        )

    return tree_map(put, output) if is_on_device else output
