"""Jacobian-vector products J u with a graph, for penalties that are differentiated through them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from geocollapse.inputs import Take
from geocollapse.jacobian.forward import forward_mode


class Call(NamedTuple):
    """An operation of torch with its arguments, of which the first is a dual tensor."""

    operation: Callable[..., Tensor]
    args: tuple[object, ...]
    kwargs: Mapping[str, object]

    @property
    def x(self) -> Tensor:
        """The first argument itself, which an operation in place overwrites."""
        return cast(Tensor, self.args[0])

    @property
    def is_in_place(self) -> bool:
        """True for ``inplace=True``, the second argument of activations."""
        return bool(self.kwargs.get("inplace", False) or (len(self.args) > 1 and self.args[1]))

    def of(self, z: Tensor) -> Tensor:
        """Apply the operation to ``z`` in place of the first argument."""
        return self.operation(z, *self.args[1:], **self.kwargs)


# from the call, the primal z and the tangent t of its first argument to the dual result
Rule = Callable[[Call, Tensor, Tensor], Tensor]

_BATCH_NORM = inspect.signature(F.batch_norm)
_INSTANCE_NORM = inspect.signature(F.instance_norm)
_LAYER_NORM = inspect.signature(F.layer_norm)


def differentiable_push_forward(
    take: Take, x: Tensor, u: Tensor
) -> tuple[Tensor, object, Tensor | None]:
    """Return features (n, p) of the first layer, the output, and J u (n, p), with their graph.

    All are differentiable in the parameters. J u is None where the features do not depend on the
    inputs. Cost: two forward passes at once. The backward pass of ||J u||^2, reverse mode over
    forward mode, costs as much as that of the loss.

    Raises:
        NotImplementedError: an operation of the map has no forward mode.
    """
    with forward_mode("method", "method='double_backward'"), _Tangents():
        leaf = x if x.requires_grad else x.detach()
        features, output = take(forward_ad.make_dual(leaf, u.to(x.dtype)))
        primal, tangent = forward_ad.unpack_dual(features[0])
    return primal, output, tangent


class _Tangents(TorchFunctionMode):
    """Carries tangents through linear and piecewise linear operations by rules of our own.

    torch's rules tie a tangent to the primal values as well: by the weight's absent tangent in a
    convolution, by the zero second derivative of a ReLU. The backward pass then carries zeros
    through the whole primal graph. Without these ties it stops there, which saves a third of a
    step, and more behind a second forward pass.
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        _types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        rule = _RULES.get(func)
        kwargs = kwargs or {}
        if _is_transformed():
            return func(*args, **kwargs)
        if func in _WITH_SOFTMAX:
            with _OutOfPlace():
                return func(*args, **kwargs)
        x = args[0] if args else None
        others = (*args[1:], *kwargs.values())
        if rule is None or not isinstance(x, Tensor) or any(map(_is_dual, others)):
            return func(*args, **kwargs)
        primal, tangent = forward_ad.unpack_dual(x)
        if tangent is None or tangent._is_zerotensor():
            return func(*args, **kwargs)
        call = Call(cast(Callable[..., Tensor], func), args, kwargs)
        return rule(call, primal, tangent)


class _OutOfPlace(TorchDispatchMode):
    """Changes nothing: under any dispatch mode, torch's forward rule of softmax works out of place.

    Without one it overwrites what its graph needs.
    """

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        _types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        return func(*args, **(kwargs or {}))


def _is_transformed() -> bool:
    """Return True inside a transform of torch.func (``vmap``), which our rules do not support."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def _is_dual(argument: object) -> bool:
    return isinstance(argument, Tensor) and forward_ad.unpack_dual(argument).tangent is not None


def _affine(call: Call, z: Tensor, t: Tensor) -> Tensor:
    """y = W z + b, so dy = W dz."""
    # the arguments behind the input, without the bias
    rest = [value if place != 1 else None for place, value in enumerate(call.args[1:])]
    named = {name: value for name, value in call.kwargs.items() if name != "bias"}
    return forward_ad.make_dual(call.of(z), call.operation(t, *rest, **named))


def _relu(call: Call, z: Tensor, t: Tensor) -> Tensor:
    """y = max(z, 0), so dy = [y > 0] dz."""
    if call.is_in_place:
        return _relu_in_place(Call(torch.relu_, call.args, {}), z, t)
    y = torch.relu(z)
    return forward_ad.make_dual(y, torch.ops.aten.threshold_backward(t, y.detach(), 0))


def _relu_in_place(call: Call, _z: Tensor, t: Tensor) -> Tensor:
    """y = max(z, 0) written over z, or over the tensor that z is a view of.

    Autograd would copy the gradients of a view that is changed in place.
    """
    x = call.x
    base = x if x._base is None else x._base
    if base is not x and (_is_dual(base) or not _covers(x, base)):
        return call.operation(x)
    with forward_ad._set_fwd_grad_enabled(False):
        base.relu_()
    _WherePositive.apply(t, forward_ad.unpack_dual(base).primal.detach())
    return x if base is x else forward_ad.make_dual(base, t)


class _WherePositive(torch.autograd.Function):
    """t [y > 0], written over t. It keeps y alone; a product would keep and convert a mask."""

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


def _hardsigmoid(call: Call, z: Tensor, t: Tensor) -> Tensor:
    """y = min(max(z + 3, 0), 6)/6, so dy = [|z| < 3] dz/6; torch's rule has no graph."""
    slope = torch.where(z.detach().abs() < 3, t / 6, 0.0)
    y = forward_ad.make_dual(F.hardsigmoid(z.clone()), slope)
    return call.x.copy_(y) if call.is_in_place else y


def _max_pool(call: Call, z: Tensor, t: Tensor) -> Tensor:
    """y_i = z_k(i) at the largest of each window, so dy_i = dz_k(i)."""
    pool: Callable[..., tuple[Tensor, Tensor]] = F.max_pool2d_with_indices
    options = {name: value for name, value in call.kwargs.items() if name != "return_indices"}
    y, places = pool(z, *call.args[1:], **options)
    return forward_ad.make_dual(y, t.flatten(-2).gather(-1, places.flatten(-2)).view_as(y))


def _batch_norm(call: Call, z: Tensor, t: Tensor) -> Tensor:
    """y = (z - m)/s w + b with running m and s, so dy = dz/s w."""
    given = _BATCH_NORM.bind(*call.args, **call.kwargs)
    given.apply_defaults()
    _, mean, variance, weight, _, training, _, eps = given.args
    if training or mean is None:
        return call.operation(*call.args, **call.kwargs)
    tangent = F.batch_norm(t, torch.zeros_like(mean), variance, weight, None, False, 0.0, eps)
    return forward_ad.make_dual(call.of(z), tangent)


def _layer_norm(call: Call, z: Tensor, t: Tensor) -> Tensor:
    """y = n w + b with the standardised n of each example; the graph of torch's rule is wrong."""
    y = call.of(z)
    named = {name: value for name, value in call.kwargs.items() if name != "cudnn_enable"}
    given = _LAYER_NORM.bind(*call.args[:5], **named)
    given.apply_defaults()
    _, shape, weight, _, eps = given.args
    tangent = _standardised(z, t, tuple(range(-len(shape), 0)), eps)
    return forward_ad.make_dual(y, (tangent if weight is None else tangent * weight).to(y.dtype))


def _instance_norm(call: Call, z: Tensor, t: Tensor) -> Tensor:
    """y = n w + b with n standardised for each channel; the graph of torch's rule is wrong."""
    y = call.of(z)
    given = _INSTANCE_NORM.bind(*call.args, **call.kwargs)
    given.apply_defaults()
    _, _, variance, weight, _, use_input_stats, _, eps = given.args
    channels = (1, -1, *[1] * (z.ndim - 2))
    if use_input_stats:
        tangent = _standardised(z, t, tuple(range(2, z.ndim)), eps)
    else:
        tangent = t * (variance + eps).rsqrt().view(channels)
    tangent = tangent if weight is None else tangent * weight.view(channels)
    return forward_ad.make_dual(y, tangent.to(y.dtype))


def _standardised(z: Tensor, t: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """Tangent of n = (z - m)/s over ``dims``: dn = (c - n <n c>)/s with c = dz - <dz>.

    Squares are at least float32: those of float16 overflow where the output does not.
    """
    wide = torch.promote_types(z.dtype, torch.float32)
    z = z.to(wide)
    t = t.to(wide)
    variance, mean = torch.var_mean(z, dims, correction=0, keepdim=True)
    scale = (variance + eps).rsqrt()
    n = (z - mean) * scale
    c = t - t.mean(dims, keepdim=True)
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
_RULES: dict[Callable[..., object], Rule] = {
    **dict.fromkeys((F.linear, *_CONVOLUTIONS), _affine),
    **dict.fromkeys((F.relu, torch.relu, Tensor.relu), _relu),
    **dict.fromkeys((torch.relu_, Tensor.relu_), _relu_in_place),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), _max_pool),
    F.batch_norm: _batch_norm,
    F.hardsigmoid: _hardsigmoid,
    F.instance_norm: _instance_norm,
    **dict.fromkeys((F.layer_norm, torch.layer_norm), _layer_norm),
}
