"""LIF over all steps that keeps its input and nothing else: the membrane is computed again in the backward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snntorch_smixer import shapes
from snntorch_smixer.errors import LayoutError, SettingError, check_choice
from snntorch_smixer.kernels.compiled import Tiered
from snntorch_smixer.kernels.lif import RESETS as RESETS
from snntorch_smixer.kernels.spikes import Spikes

SpikeGrad = Callable[[Tensor], Tensor]

Rule = tuple[Any, str]
"""The surrogate and the reset."""

Grads = tuple[Tensor, Tensor | None, Tensor | None]
Rows = list[Tensor]


@dataclass(frozen=True, eq=False)
class Firing:
    """What makes a LIF fire.

    Attributes:
        beta: membrane decay per step, clipped to [0, 1]; a single number, or one per neuron (broadcast).
        threshold: firing threshold; as ``beta``.
        spike_grad: maps ``u - threshold`` to binary spikes and carries the surrogate gradient, element by element. An
            optional method ``derivative(v)`` says that the spikes are ``v > 0`` and that their derivative is its value;
            with ``at_threshold = True`` they are ``v >= 0`` instead, and ``spike_grad`` is asked for them. Without
            the method torch's autograd is asked, one step at a time. Gradients of parameters that ``spike_grad``
            itself may hold are not computed.
        reset: "zero", "subtract" or "none", as in `kernels.lif.lif`.
    """

    beta: Tensor
    threshold: Tensor
    spike_grad: SpikeGrad
    reset: str = "zero"

    def __post_init__(self) -> None:
        check_choice("Firing", "reset", self.reset, RESETS)

    @property
    def rule(self) -> Rule:
        """Everything but the two tensors."""
        return self.spike_grad, self.reset

    @property
    def is_analytic(self) -> bool:
        """True when the surrogate states its derivative, and that it fires on ``v > 0``."""
        return hasattr(self.spike_grad, "derivative") and not getattr(self.spike_grad, "at_threshold", False)

    def work_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Of a membrane for input of ``dtype``: at least float32, and that of parameters with axes of their own."""
        for parameter in (self.beta, self.threshold):
            dtype = torch.promote_types(dtype, parameter.dtype) if parameter.dim() else dtype
        return torch.promote_types(dtype, torch.float32)

    def check(self, where: str, x: Tensor) -> None:
        """Raise `LayoutError` unless ``x`` is ``(T, ...)`` and beta and threshold spread over one step of it."""
        shapes.check_steps(where, x)
        for name in ("beta", "threshold"):
            got, step = getattr(self, name).shape, x.shape[1:]
            short = len(got) <= len(step)
            if not short or any(a not in (1, b) for a, b in zip(got[::-1], step[::-1], strict=False)):
                raise LayoutError(
                    f"{where}: {name} of shape {tuple(got)} does not spread over one step {tuple(step)}; pass one "
                    "number, or one per channel: (C,) for tokens, (C, 1, 1) for maps"
                )


def fire(x: Tensor, beta: Tensor, threshold: Tensor, spike_grad: SpikeGrad, *, reset: str = "zero") -> Spikes:
    """`kernels.lif.lif` that keeps only ``x``: same spikes bit for bit, same gradients.

    Args:
        x: input current, ``(T, ...)``; kept as it is, not copied.
        beta: membrane decay per step, clipped to [0, 1].
        threshold: firing threshold.
        spike_grad: surrogate, see `Firing`.
        reset: "zero", "subtract" or "none", as in `kernels.lif.lif`.

    Returns:
        Spikes ``(T, ...)`` in the dtype of ``x``. Differentiable once.

    Raises:
        LayoutError: no steps, or the surrogate makes spikes that are not binary.
        SettingError: unknown reset.
    """
    neuron = Firing(beta, threshold, spike_grad, reset)
    neuron.check("fire", x)
    return Spikes.of(fire_values(x, neuron), trusted=neuron.is_analytic)


def fire_values(x: Tensor, neuron: Firing) -> Tensor:
    """The spikes of `fire` as numbers alone, unchecked: for a ``neuron`` known to suit ``x`` and to be binary."""
    spikes: Tensor = _Fire.apply(x, neuron.beta, neuron.threshold, neuron)
    return spikes


def once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Backward of a function that has no second derivative: refuses ``create_graph=True``.

    torch's ``once_differentiable`` lets it pass, with wrong results, where the incoming gradient is a constant. Where
    what comes behind has no gradient to give (None, not materialised), nothing gets one.
    """

    @functools.wraps(backward)
    def checked(ctx: Any, *grads: Tensor | None) -> Any:
        if torch.is_grad_enabled():
            raise SettingError(
                "backward: got create_graph=True, but the fused and recomputing kernels have a first derivative only; "
                'use the plain path for second derivatives, set_memory(net, "reference")'
            )
        return (None,) * len(ctx.needs_input_grad) if grads[0] is None else backward(ctx, *grads)

    return checked


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: Tensor, threshold: Tensor, neuron: Firing) -> Tensor:
        ctx.save_for_backward(x, beta, threshold)
        ctx.rule = neuron.rule
        return fire_forward(x, neuron)

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, beta, threshold = ctx.saved_tensors
        neuron = Firing(beta, threshold, *ctx.rule)
        return (*fire_backward(x, grad, neuron, ctx.needs_input_grad[1:3]), None)


def fire_forward(x: Tensor, neuron: Firing) -> Tensor:
    """Spikes ``(T, ...)`` of currents ``x`` as numbers, without history."""
    if not neuron.is_analytic:
        return _all_spikes(x, neuron.beta, neuron.threshold, neuron.rule)
    flat = _flat(x, neuron)
    return _spikes(flat, neuron.beta, neuron.threshold, neuron.rule, x.shape[0]).view(x.shape)


def fire_backward(
    x: Tensor, grad: Tensor, neuron: Firing, needs: tuple[bool, bool], *, overwrite: bool = False
) -> Grads:
    """Gradients of ``x``, beta and threshold for the gradient ``grad`` of the spikes, both ``(T, ...)``.

    Args:
        x: input current.
        grad: gradient of the loss by the spikes.
        neuron: as in the forward pass.
        needs: whether beta and threshold need one; None is returned for what does not.
        overwrite: ``x`` is not needed any more, so its memory may take the result.
    """
    run = _gradients if neuron.is_analytic else _gradients.function
    flat = _flat(x, neuron)
    by_x, by_beta, by_threshold = run(
        flat, grad.reshape(flat.shape), neuron.beta, neuron.threshold, neuron.rule, (*needs, overwrite, x.shape[0])
    )
    return by_x.view(x.shape).to(x.dtype), by_beta, by_threshold


def _flat(x: Tensor, neuron: Firing) -> Tensor:
    """``(T, everything else)`` where one decay and threshold serve all neurons: one shape for the compiler."""
    is_single = neuron.beta.dim() == neuron.threshold.dim() == 0
    return x.flatten(1) if neuron.is_analytic and is_single and x.dim() > 1 and x.is_contiguous() else x


def _all_spikes(x: Tensor, beta: Tensor, threshold: Tensor, rule: Rule, _steps: int = 0) -> Tensor:
    """``_steps`` is there for the compiler, which writes out the loop: each number of them is another kind of call."""
    neuron, spikes = Firing(beta, threshold, *rule), x.new_empty(x.shape)
    minus: Tensor | None = None
    margin: Tensor | None = None
    for current, row in zip(x, spikes.unbind(0), strict=True):
        minus = _advance(minus, margin, current, neuron)
        margin = torch.add(minus, threshold, out=margin)
        if neuron.is_analytic:
            torch.lt(margin, 0, out=row)  # many times faster than making a mask and then numbers of it
        else:
            row.copy_(neuron.spike_grad(-margin))
            margin = -row.to(margin.dtype)
    return spikes


def _traced_spikes(x: Tensor, beta: Tensor, threshold: Tensor, rule: Rule, _steps: int = 0) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    rows = unrolled_spikes((current.to(dtype) for current in x.unbind(0)), beta, threshold, rule[1])
    return torch.stack([row.to(x.dtype) for row in rows])


_spikes = Tiered(_all_spikes, _traced_spikes)


def _advance(minus: Tensor | None, margin: Tensor | None, current: Tensor, neuron: Firing) -> Tensor:
    """``-u`` of one step, in the memory of the last one and in the order of operations of `lif`: not one bit differs.

    With the opposite sign, what a spike silences is what lies below zero, ``margin = threshold - u``, and torch has an
    operator that puts zeros there. A mask of truth values costs several times as much, and a product with zeros would
    make NaN of an infinite membrane.
    """
    spent = None if neuron.reset != "subtract" else _spent(margin, neuron)
    if minus is None or margin is None:
        minus = current.to(torch.promote_types(current.dtype, torch.float32)).neg()
    else:
        minus = _silence(minus, margin) if neuron.reset == "zero" else minus
        decay = neuron.beta.clamp(0, 1)
        # Parameters of a wider dtype, or with more axes than the current, make the membrane wider too.
        minus = minus.mul_(decay) if _fits(minus, decay) else minus * decay
        minus = minus.sub_(current)
    if spent is None:
        return minus
    return minus.add_(spent) if _fits(minus, spent) else minus + spent


def _fits(x: Tensor, other: Tensor) -> bool:
    return other.dim() == 0 or torch.promote_types(x.dtype, other.dtype) == x.dtype


def _spent(margin: Tensor | None, neuron: Firing) -> Tensor:
    """What the last spikes take from the membrane under reset "subtract"."""
    if margin is None:
        # A negative threshold lies below the resting membrane, which then counts as having fired before the first step.
        return (neuron.threshold < 0).to(neuron.threshold.dtype) * neuron.threshold
    return _fired(margin) * neuron.threshold


def _fired(margin: Tensor) -> Tensor:
    return torch.lt(margin, 0, out=torch.empty_like(margin))


_TINY = 5e-324


def _silence(x: Tensor, margin: Tensor) -> Tensor:
    """Zeros in ``x``, in place, where ``margin`` lies below zero; NaN does not."""
    kept = torch.finfo(margin.dtype)
    # The operator keeps what lies above a bound: the largest number below zero. Where the processor takes numbers as
    # small as that for zero (torch.set_flush_denormal), margins are not as small either.
    bound = -kept.smallest_normal * (kept.eps if _TINY > 0 else 1)
    return torch.ops.aten.threshold_backward.grad_input(x, margin, bound, grad_input=x)


def _all_gradients(
    x: Tensor, grad: Tensor, beta: Tensor, threshold: Tensor, rule: Rule, needs: tuple[bool, bool, bool, int]
) -> Grads:
    """``needs``: gradients of beta and threshold, whether the result may take the memory of ``x``, and the steps."""
    neuron, decay = Firing(beta, threshold, *rule), beta.clamp(0, 1)
    dtype = neuron.work_dtype(x.dtype)
    work = x if needs[2] and x.dtype == dtype and x.is_contiguous() else x.new_empty(x.shape, dtype=dtype)
    rows = work.unbind(0)
    silent = _replay(x, neuron, needs[0], rows)
    by_beta = torch.zeros_like(beta) if needs[0] else None
    by_threshold = torch.zeros_like(threshold) if needs[1] else None
    carry: Tensor | None = None
    for step in range(x.shape[0] - 1, -1, -1):
        by_v = _through_surrogate(neuron.spike_grad, rows[step].neg_(), grad[step])
        if by_threshold is not None:
            by_threshold = by_threshold - _fit(by_v, threshold)
        # With a known derivative by_v lies in this row already.
        by_mem = rows[step].copy_(by_v) if carry is None else torch.add(carry, by_v, out=rows[step])
        before = _margin(rows[step - 1], neuron) if step else None
        if by_threshold is not None and neuron.reset == "subtract":
            fired = (threshold < 0).to(dtype) if before is None else _fired(before)
            by_threshold = by_threshold - _fit(by_mem * fired, threshold)
        if before is None:
            break
        if by_beta is not None:
            by_beta = by_beta - _fit(by_mem * silent.pop(), beta)
        carry = decay * by_mem
        carry = _silence(carry, before) if neuron.reset == "zero" else carry
    return work, _unclipped(by_beta, beta), by_threshold


def _traced_gradients(
    x: Tensor, grad: Tensor, beta: Tensor, threshold: Tensor, rule: Rule, needs: tuple[bool, bool, bool, int]
) -> Grads:
    dtype = Firing(beta, threshold, *rule).work_dtype(x.dtype)
    currents = (current.to(torch.promote_types(x.dtype, torch.float32)) for current in x.unbind(0))
    by_x, *terms = unrolled_gradients(currents, lambda step: grad[step].to(dtype), beta, threshold, rule)
    by_beta = _unclipped(total(terms[0], beta), beta) if needs[0] else None
    return torch.stack(by_x), by_beta, total(terms[1], threshold) if needs[1] else None


_gradients = Tiered(_all_gradients, _traced_gradients)


def _replay(x: Tensor, neuron: Firing, keep_silent: bool, rows: tuple[Tensor, ...]) -> list[Tensor]:
    """Writes ``threshold - u`` of every step by the very operations of the forward pass.

    Returns what beta multiplied, with the opposite sign, if asked.
    """
    silent: list[Tensor] = []
    minus: Tensor | None = None
    margin: Tensor | None = None
    for current, row in zip(x, rows, strict=True):
        if keep_silent and minus is not None and margin is not None:
            silent.append(_silence(minus.clone(), margin) if neuron.reset == "zero" else minus.clone())
        minus = _advance(minus, margin, current, neuron)
        margin = _margin(torch.add(minus, neuron.threshold, out=row), neuron)
    return silent


def _margin(below: Tensor, neuron: Firing) -> Tensor:
    """Of ``threshold - u``: what is below zero where the neuron fired."""
    return below if neuron.is_analytic else neuron.spike_grad(-below).to(below.dtype).neg_()


def _through_surrogate(spike_grad: SpikeGrad, v: Tensor, grad: Tensor) -> Tensor:
    """Gradient of ``v = u - threshold``, which is not needed any more, for the gradient of its spikes."""
    derivative = getattr(spike_grad, "derivative", None)
    if derivative is not None:
        slope: Tensor = derivative(v)
        return torch.mul(grad.to(v.dtype), slope, out=v)
    with torch.enable_grad():
        v = v.detach().requires_grad_()
        spikes = spike_grad(v)
        if not spikes.requires_grad:  # snnTorch's surrogate_disable
            return torch.zeros_like(v)
        (by_v,) = torch.autograd.grad(spikes, v, grad.to(spikes.dtype))
    return by_v


def _unclipped(by_beta: Tensor | None, beta: Tensor) -> Tensor | None:
    """A beta outside [0, 1] gets no gradient."""
    return None if by_beta is None else by_beta.masked_fill((beta < 0) | (beta > 1), 0)


def _fit(grad: Tensor, like: Tensor) -> Tensor:
    """Sum a gradient over the axes along which ``like`` was spread."""
    return grad.sum_to_size(like.shape).to(like)


# The same steps written out as one expression of new tensors, which is what a compiler fuses best: under torch.compile
# all steps of a neuron stay in registers. Same operations in the same order, so the spikes are the same bits. For
# surrogates that state their derivative.


def unrolled_spikes(currents: Iterator[Tensor], beta: Tensor, threshold: Tensor, reset: str) -> Rows:
    """Spikes of each step, as truth values.

    Args:
        currents: input of each step, in the dtype of the membrane.
        beta: decay, spreads over one step.
        threshold: as ``beta``.
        reset: "zero", "subtract" or "none".
    """
    return [fired for _, fired, _ in _unrolled(currents, beta, threshold, reset)]


def unrolled_gradients(
    currents: Iterator[Tensor], grad: Callable[[int], Tensor], beta: Tensor, threshold: Tensor, rule: Rule
) -> tuple[Rows, Rows, Rows]:
    """Gradients of the current of each step, and what those of beta and threshold are sums of.

    Args:
        currents: as in `unrolled_spikes`.
        grad: gradient of the spikes of a step, in the dtype of the membrane.
        beta: as in `unrolled_spikes`.
        threshold: as in `unrolled_spikes`.
        rule: as in `unrolled_spikes`, with the surrogate.
    """
    spike_grad, reset = rule
    decay = beta.clamp(0, 1)
    steps = list(_unrolled(currents, beta, threshold, reset))
    by_current: Rows = []
    by_beta: Rows = []
    by_threshold: Rows = []
    carry: Tensor | None = None
    for step in range(len(steps) - 1, -1, -1):
        mem, _, silent = steps[step]
        by_v = grad(step) * spike_grad.derivative(mem - threshold)
        by_mem = by_v if carry is None else carry + by_v
        by_current.insert(0, by_mem)
        before = steps[step - 1][1] if step else threshold < 0
        spent = by_mem * before.to(by_mem.dtype) if reset == "subtract" else 0
        by_threshold.append(-by_v - spent)
        if silent is not None:
            by_beta.append(by_mem * silent)
        carry = decay * by_mem
        carry = torch.where(before, 0, carry) if step and reset == "zero" else carry
    return by_current, by_beta, by_threshold


def _unrolled(
    currents: Iterator[Tensor], beta: Tensor, threshold: Tensor, reset: str
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Membrane, spikes, and what beta multiplied (None at first)."""
    decay = beta.clamp(0, 1)
    mem: Tensor | None = None
    fired = threshold < 0  # such a threshold lies below the resting membrane
    for current in currents:
        silent = mem
        if mem is None:
            mem = current
        else:
            silent = mem = torch.where(fired, 0, mem) if reset == "zero" else mem
            mem = decay * mem + current
        if reset == "subtract":
            mem = mem - fired.to(mem.dtype) * threshold
        fired = mem > threshold
        yield mem, fired, silent


def added(terms: Rows) -> Tensor:
    """Sum over the steps."""
    whole = terms[0]
    for term in terms[1:]:
        whole = whole + term
    return whole


def total(terms: Rows, like: Tensor) -> Tensor:
    """Sum over the steps, and over the axes along which ``like`` was spread."""
    return added(terms).sum_to_size(like.shape).to(like) if terms else torch.zeros_like(like)
