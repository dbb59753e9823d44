"""Jacobian-vector products J u with a graph behind them, for a penalty that is differentiated
through them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from geocollapse.inputs import Take
from geocollapse.jacobian.forward import forward_mode

Rule = Callable[[Any, Tensor, Tensor, tuple[Any, ...], dict[str, Any]], Any]

_BATCH_NORM = inspect.signature(F.batch_norm)
_INSTANCE_NORM = inspect.signature(F.instance_norm)
_LAYER_NORM = inspect.signature(F.layer_norm)


def differentiable_push_forward(
    take: Take, x: Tensor, u: Tensor
) -> tuple[Tensor, Any, Tensor | None]:
    """Features (n, p) of the first layer, the output, and J u (n, p), each differentiable in the
    parameters.

    J u is None where the features do not depend on the inputs. Cost: two forward passes at once;
    the backward pass of ||J u||^2 costs as much as that of the loss, one of reverse mode over
    forward mode.

    Raises:
        NotImplementedError: an operation of the map has no forward mode.
    """
    with forward_mode("method", "method='double_backward'"), _Tangents():
        features, output = take(
            forward_ad.make_dual(x if x.requires_grad else x.detach(), u.to(x.dtype))
        )
        primal, tangent = forward_ad.unpack_dual(features[0])
    return primal, output, tangent


class _Tangents(TorchFunctionMode):
    """Carries tangents through linear and piecewise linear operations by their own rules.

    torch's rules tie a tangent to the primal values as well: by the weight's absent tangent in a
    convolution, by the zero second derivative of a ReLU. The backward pass then carries zeros
    through the whole primal graph; without these ties it stops there, which saves a third of a
    step, and more behind a second forward pass.
    """

    def __torch_function__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        rule, kwargs = _RULES.get(func), kwargs or {}
        if _is_transformed():
            return func(*args, **kwargs)
        if func in _WITH_SOFTMAX:
            with _OutOfPlace():
                return func(*args, **kwargs)
        others = (*args[1:], *kwargs.values())
        if (
            rule is None
            or not args
            or not isinstance(args[0], Tensor)
            or any(map(_is_dual, others))
        ):
            return func(*args, **kwargs)
        primal, tangent = forward_ad.unpack_dual(args[0])
        if tangent is None or tangent._is_zerotensor():
            return func(*args, **kwargs)
        return rule(func, primal, tangent, args, kwargs)


class _OutOfPlace(TorchDispatchMode):
    """Passes all on: under any such mode torch's forward rule of softmax does not overwrite what
    its graph needs.
    """

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


class TwiceDifferentiable(TorchFunctionMode):
    """Replaces operations whose derivative has none, by the same function of operations whose
    derivative has one.
    """

    def __torch_function__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.hardsigmoid:
            return func(*args, **kwargs)
        y = F.relu6(args[0] + 3) / 6
        return args[0].copy_(y) if _is_in_place(args, kwargs) else y


def _is_transformed() -> bool:
    """Whether a transform of torch.func (``vmap``) is at work, which torch's own rules go with and
    ours do not.
    """
    return torch._C._functorch.peek_interpreter_stack() is not None


def _is_dual(argument: Any) -> bool:
    return isinstance(argument, Tensor) and forward_ad.unpack_dual(argument).tangent is not None


def _affine(
    func: Any, z: Tensor, t: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """y = W z + b, so dy = W dz."""
    rest = [
        value if place != 1 else None for place, value in enumerate(args[1:])
    ]  # all but the bias
    tangent = func(t, *rest, **{key: value for key, value in kwargs.items() if key != "bias"})
    return forward_ad.make_dual(func(z, *args[1:], **kwargs), tangent)


def _relu(
    _func: Any, z: Tensor, t: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """y = max(z, 0), so dy = [y > 0] dz."""
    if _is_in_place(args, kwargs):
        return _relu_in_place(torch.relu_, z, t, args, {})
    y = torch.relu(z)
    return forward_ad.make_dual(y, torch.ops.aten.threshold_backward(t, y.detach(), 0))


def _relu_in_place(
    func: Any, _z: Tensor, t: Tensor, args: tuple[Any, ...], _kwargs: dict[str, Any]
) -> Tensor:
    """The same, written over what a view was taken of: autograd copies gradients for a view changed
    in place.
    """
    x = args[0]
    base = x if x._base is None else x._base
    if base is not x and (_is_dual(base) or not _covers(x, base)):
        return func(x)
    with forward_ad._set_fwd_grad_enabled(False):
        base.relu_()
    _WherePositive.apply(t, forward_ad.unpack_dual(base).primal.detach())
    return x if base is x else forward_ad.make_dual(base, t)


class _WherePositive(torch.autograd.Function):
    """t [y > 0], written over t; it keeps y alone, where a product would keep and convert a mask."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, y: Tensor) -> Tensor:
        ctx.mark_dirty(t)
        ctx.save_for_backward(y)
        result: Tensor = torch.ops.aten.threshold_backward.grad_input(t, y, 0, grad_input=t)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradient, y, 0), None


def _covers(view: Tensor, base: Tensor) -> bool:
    return view.shape == base.shape and view.stride() == base.stride()


def _is_in_place(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return bool(kwargs.get("inplace", False) or (len(args) > 1 and args[1]))


def _hardsigmoid(
    _func: Any, z: Tensor, t: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """y = min(max(z + 3, 0), 6)/6, so dy = [|z| < 3] dz/6; torch has no rule with a graph."""
    y = forward_ad.make_dual(
        F.hardsigmoid(z.clone()), torch.where(z.detach().abs() < 3, t / 6, 0.0)
    )
    result: Tensor = args[0].copy_(y) if _is_in_place(args, kwargs) else y
    return result


def _max_pool(
    _func: Any, z: Tensor, t: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """y_i = z_k(i) at the largest of each window, so dy_i = dz_k(i)."""
    options = {key: value for key, value in kwargs.items() if key != "return_indices"}
    y, places = F.max_pool2d_with_indices(z, *args[1:], **options)
    return forward_ad.make_dual(y, t.flatten(-2).gather(-1, places.flatten(-2)).view_as(y))


def _batch_norm(
    func: Any, z: Tensor, t: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """y = (z - m)/s w + b with running m and s, so dy = dz/s w."""
    given = _BATCH_NORM.bind(*args, **kwargs)
    given.apply_defaults()
    _, mean, variance, weight, _, training, _, eps = given.args
    if training or mean is None:
        return func(*args, **kwargs)
    tangent = F.batch_norm(t, torch.zeros_like(mean), variance, weight, None, False, 0.0, eps)
    return forward_ad.make_dual(func(z, *args[1:], **kwargs), tangent)


def _layer_norm(
    func: Any, z: Tensor, t: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """y = n w + b with the standardised n of each example; torch's rule has a wrong graph."""
    y = func(z, *args[1:], **kwargs)
    given = _LAYER_NORM.bind(
        *args[:5], **{key: value for key, value in kwargs.items() if key != "cudnn_enable"}
    )
    given.apply_defaults()
    _, shape, weight, _, eps = given.args
    tangent = _standardised(z, t, tuple(range(-len(shape), 0)), eps)
    return forward_ad.make_dual(y, (tangent if weight is None else tangent * weight).to(y.dtype))


def _instance_norm(
    func: Any, z: Tensor, t: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """y = n w + b with the standardised n of each example and channel; torch's rule has a wrong
    graph.
    """
    y = func(z, *args[1:], **kwargs)
    given = _INSTANCE_NORM.bind(*args, **kwargs)
    given.apply_defaults()
    _, _, variance, weight, _, use_input_stats, _, eps = given.args
    channels = (1, -1, *[1] * (z.ndim - 2))
    if use_input_stats:
        tangent = _standardised(z, t, tuple(range(2, z.ndim)), eps)
    else:
        tangent = t * (variance + eps).rsqrt().view(channels)
    return forward_ad.make_dual(
        y, (tangent if weight is None else tangent * weight.view(channels)).to(y.dtype)
    )


def _standardised(z: Tensor, t: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """Of n = (z - m)/s over ``dims``: dn = (c - n <n c>)/s with c = dz - <dz>.

    Squares are at least float32: those of float16 overflow where the output does not.
    """
    wide = torch.promote_types(z.dtype, torch.float32)
    z, t = z.to(wide), t.to(wide)
    variance, mean = torch.var_mean(z, dims, correction=0, keepdim=True)
    scale = (variance + eps).rsqrt()
    n, c = (z - mean) * scale, t - t.mean(dims, keepdim=True)
    return (c - n * (n * c).mean(dims, keepdim=True)) * scale


_CONVOLUTIONS = (
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
)
_WITH_SOFTMAX = {
    *(F.softmax, torch.softmax, Tensor.softmax, F.softmin),
    *(F.log_softmax, torch.log_softmax, Tensor.log_softmax, torch.logsumexp, Tensor.logsumexp),
    *(F.scaled_dot_product_attention, F.multi_head_attention_forward),
}
_RULES: dict[Any, Rule] = {
    **dict.fromkeys((F.linear, *_CONVOLUTIONS), _affine),
    **dict.fromkeys((F.relu, torch.relu, Tensor.relu), _relu),
    **dict.fromkeys((torch.relu_, Tensor.relu_), _relu_in_place),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), _max_pool),
    F.batch_norm: _batch_norm,
    F.hardsigmoid: _hardsigmoid,
    F.instance_norm: _instance_norm,
    **dict.fromkeys((F.layer_norm, torch.layer_norm), _layer_norm),
}
