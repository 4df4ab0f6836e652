"""The LIF over all steps as Triton kernels, on its own or with the BatchNorm before it folded in.

One kernel goes forward, one backward. Both hold the membranes of all steps in registers, so each current is read once
for all steps, and both have to be launched with ``enable_fp_fusion=False``: then decay and current are rounded as by
plain torch, and spikes agree bit for bit. Where a product and a sum are rounded once, the kernel says ``fma``.

Importing this file needs Triton. Names in capitals are fixed when a kernel is compiled; one kernel serves many cases by
them, so that what is shared is written once.
"""
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def slope(v, KIND: tl.constexpr, A: tl.constexpr, B: tl.constexpr):
    """Derivative of the surrogate at ``v = u - threshold``; for KIND, A and B see `triton_tools.slope_of`."""
    if KIND == "dspike":  # 1 - tanh(g v)^2 = 4 e / (1 + e)^2 with e = exp(-2 g |v|), in which nothing cancels
        e = tl.exp(-A * tl.abs(v))
        value = tl.where(tl.abs(v) > 1.0, 0.0, B * e / ((1.0 + e) * (1.0 + e)))
    elif KIND == "atan":
        angle = 1.5707963267948966 * A * v
        value = A / 2.0 / (1.0 + angle * angle)
    elif KIND == "fast_sigmoid" or KIND == "SFS":
        root = A * tl.abs(v) + 1.0
        value = 1.0 / (root * root)
        if KIND == "SFS":
            value = tl.where(v > B, value, 0.0 * value)
    elif KIND == "heaviside":
        value = (v > 0.0).to(tl.float32)
    elif KIND == "sigmoid":
        e = tl.exp(-A * tl.abs(v))  # even in v, and without overflow
        value = A * e / ((e + 1.0) * (e + 1.0))
    elif KIND == "spike_rate_escape":
        value = B * tl.exp(-A * tl.abs(v - 1.0))
    elif KIND == "triangular":
        value = tl.where(v >= 0.0, -A, A)
    else:
        tl.static_assert(KIND == "straight_through_estimator")
        value = tl.full(v.shape, 1.0, tl.float32)
    return value


@triton.jit
def first_membrane(current, threshold, RESET: tl.constexpr):
    """Membrane of the first step."""
    if RESET == "subtract":  # a negative threshold lies below the resting membrane, which then counts as having fired
        current = current - (threshold < 0.0).to(tl.float32) * threshold
    return current


@triton.jit
def next_membrane(mem, fired, current, decay, threshold, RESET: tl.constexpr):
    """One step; in the order of operations of `kernels.fire`, so that not one bit differs."""
    if RESET == "zero":
        mem = tl.where(fired, 0.0, mem)
    mem = decay * mem + current
    if RESET == "subtract":
        mem = mem - fired.to(tl.float32) * threshold
    return mem


@triton.jit
def setting(pointer, channel, known, BY_CHANNEL: tl.constexpr):
    """Beta or threshold of the channels, or the only one."""
    value = tl.load(pointer + channel, mask=known, other=0.0) if BY_CHANNEL else tl.load(pointer)
    return value.to(tl.float32)


@triton.jit
def clipped(beta):
    """To [0, 1]; NaN stays NaN, as with torch."""
    return tl.where(beta < 0.0, 0.0, tl.where(beta > 1.0, 1.0, beta))


@triton.jit
def inverse_of(second, channel, known, eps, BY_BATCH: tl.constexpr):
    """1 / std of the channels, kept from the batch or made of the running variance; rounded as on torch's CPU."""
    value = tl.load(second + channel, mask=known, other=1.0).to(tl.float32)
    if not BY_BATCH:
        value = tl.div_rn(1.0, tl.sqrt_rn(value + eps))
    return value


@triton.jit
def folded_norm(mean, second, weight, bias, eps, channel, known, BY_BATCH: tl.constexpr):
    """BatchNorm as ``z * scale + shift``, one ``fma`` for each value; and mean and 1 / std. As on torch's CPU."""
    mid = tl.load(mean + channel, mask=known, other=0.0).to(tl.float32)
    inverse = inverse_of(second, channel, known, eps, BY_BATCH)
    scale, offset = inverse, tl.zeros_like(mid)
    if weight is not None:
        scale = inverse * tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)
    if bias is not None:
        offset = tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)
    return scale, tl.fma(-mid, scale, offset), mid, inverse


@triton.jit
def normalised(x, scale, shift):
    """What the neuron is given, in float32; first rounded to the dtype of ``x``, as what BatchNorm returns is."""
    return tl.fma(x.to(tl.float32), scale, shift).to(x.dtype).to(tl.float32)


@triton.jit
def forward_kernel(
    x, spikes, bits, beta, threshold, mean, second, weight, bias, eps, rows, last, height, channels, size, packed_size,
    STEPS: tl.constexpr, STATIC: tl.constexpr, NORM: tl.constexpr, BY_BATCH: tl.constexpr, IS_MAP: tl.constexpr,
    RESET: tl.constexpr, BETA_BY_CHANNEL: tl.constexpr, THRESHOLD_BY_CHANNEL: tl.constexpr,
    INDEX: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Spikes ``(T, rows, last)`` and their bits; a program takes a block of rows and columns through all steps."""
    across = tl.cdiv(last, COLUMNS)
    row = (tl.program_id(0) // across).to(INDEX) * ROWS + tl.arange(0, ROWS)[:, None]
    column = (tl.program_id(0) % across) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    byte = (tl.program_id(0) % across) * (COLUMNS // 8) + tl.arange(0, COLUMNS // 8)[None, :]
    width = tl.cdiv(last, 8)
    inside, whole = (row < rows) & (column < last), (row < rows) & (byte < width)
    channel = (row // height) % channels if IS_MAP else column
    known = row < rows if IS_MAP else column < channels
    decay = clipped(setting(beta, channel, known, BETA_BY_CHANNEL))
    edge = setting(threshold, channel, known, THRESHOLD_BY_CHANNEL)
    if NORM:
        scale, shift, _, _ = folded_norm(mean, second, weight, bias, eps, channel, known, BY_BATCH)
    at, place = row * last + column, row * width + byte
    for step in tl.static_range(STEPS):
        if step == 0 or not STATIC:  # a static input is read and normalised once
            current = tl.load(x + at, mask=inside, other=0.0)
            current = normalised(current, scale, shift) if NORM else current.to(tl.float32)
        if step == 0:
            mem = first_membrane(current, edge, RESET)
        else:
            mem = next_membrane(mem, fired, current, decay, edge, RESET)  # noqa: F821 - of the step before
        fired = mem > edge
        tl.store(spikes + at, fired.to(tl.float32).to(spikes.dtype.element_ty), mask=inside)
        if bits is not None:
            ones = tl.reshape((fired & inside).to(tl.int32), (ROWS, COLUMNS // 8, 8))
            tl.store(bits + place, tl.sum(ones << tl.arange(0, 8)[None, None, :], axis=2).to(tl.uint8), mask=whole)
        at, place = at + size, place + packed_size


@triton.jit
def replay(
    x, at, inside, scale, shift, decay, threshold, size,
    STEPS: tl.constexpr, STATIC: tl.constexpr, NORM: tl.constexpr, RESET: tl.constexpr,
):  # fmt: skip
    """``x`` as it was read and ``v = u - threshold``, of every step, by the very operations of the forward kernel."""
    xs, vs = (), ()
    for step in tl.static_range(STEPS):
        if step == 0 or not STATIC:
            value = tl.load(x + at, mask=inside, other=0.0)
            current = normalised(value, scale, shift) if NORM else value.to(tl.float32)
        if step == 0:
            mem = first_membrane(current, threshold, RESET)
        else:
            mem = next_membrane(mem, vs[step - 1] > 0.0, current, decay, threshold, RESET)
        xs, vs = xs + (value,), vs + (mem - threshold,)  # noqa: RUF005 - Triton knows no unpacking
        at = at + size
    return xs, vs


@triton.jit
def through_time(
    grad, at, inside, vs, decay, threshold, size,
    STEPS: tl.constexpr, KIND: tl.constexpr, A: tl.constexpr, B: tl.constexpr, RESET: tl.constexpr,
):  # fmt: skip
    """Gradients of the currents, the last step's first, and of decay and threshold; as `kernels.fire` has them."""
    carry = tl.zeros(vs[0].shape, tl.float32)
    by_decay, by_threshold, found = carry, carry, ()
    for _ in tl.static_range(STEPS - 1):  # not a product, which may need more bits than ``size`` has
        at = at + size
    for back in tl.static_range(STEPS):
        incoming = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        by_v = incoming * slope(vs[STEPS - 1 - back], KIND, A, B)
        by_mem = by_v + carry
        found = found + (by_mem,)  # noqa: RUF005 - Triton knows no unpacking
        by_threshold = by_threshold - by_v
        if back < STEPS - 1:
            fired = vs[STEPS - 2 - back] > 0.0
            before = vs[STEPS - 2 - back] + threshold
            carry = decay * by_mem
            if RESET == "zero":
                carry, before = tl.where(fired, 0.0, carry), tl.where(fired, 0.0, before)
            by_decay = by_decay + by_mem * before
        else:
            fired = threshold < 0.0
        if RESET == "subtract":
            by_threshold = by_threshold - by_mem * fired.to(tl.float32)
        at = at - size
    return found, by_decay, by_threshold


@triton.jit
def backward_kernel(
    x, grad, by_x, sums, totals, beta, threshold, mean, second, weight, bias, eps, share,
    per_channel, inner, channels, size, tiles,
    STEPS: tl.constexpr, STATIC: tl.constexpr, NORM: tl.constexpr, BY_BATCH: tl.constexpr,
    KIND: tl.constexpr, A: tl.constexpr, B: tl.constexpr, RESET: tl.constexpr,
    BETA_BY_CHANNEL: tl.constexpr, THRESHOLD_BY_CHANNEL: tl.constexpr,
    INDEX: tl.constexpr, VALUES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """With ``sums``, what one piece adds to the sums over each channel; with ``by_x``, the gradient of ``x``.

    Behind a BatchNorm over the batch the gradient needs the sums first, so the kernel runs twice and computes the
    membranes twice. That moves fewer bytes than to write down what the first run finds, and needs no memory for it.
    """
    across = tl.cdiv(channels, CHANNELS)
    channel = (tl.program_id(0) % across) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    piece, known = tl.program_id(0) // across, channel < channels
    decay = clipped(setting(beta, channel, known, BETA_BY_CHANNEL))
    edge = setting(threshold, channel, known, THRESHOLD_BY_CHANNEL)
    scale, shift, mid, lift, slant = 1.0, 0.0, 0.0, 0.0, 0.0
    if NORM:
        scale, shift, mid, inverse = folded_norm(mean, second, weight, bias, eps, channel, known, BY_BATCH)
        if totals is not None:
            lift = tl.load(totals + channel, mask=known, other=0.0) * share
            slant = tl.load(totals + channels + channel, mask=known, other=0.0) * share * inverse * inverse
    by_shift = tl.zeros((VALUES, CHANNELS), tl.float32)
    by_scale, by_decay, by_edge = by_shift, by_shift, by_shift
    for index in range(tiles):
        value = (piece.to(INDEX) * tiles + index) * VALUES + tl.arange(0, VALUES)[:, None]
        inside = (value < per_channel) & known
        at = (value // inner) * inner * channels + channel.to(INDEX) * inner + value % inner
        xs, vs = replay(x, at, inside, scale, shift, decay, edge, size, STEPS, STATIC, NORM, RESET)
        by, d, e = through_time(grad, at, inside, vs, decay, edge, size, STEPS, KIND, A, B, RESET)
        by_decay, by_edge = by_decay + tl.where(inside, d, 0.0), by_edge + tl.where(inside, e, 0.0)
        found = by_values(by, x.dtype.element_ty, STEPS, STATIC, NORM)
        for step in tl.static_range(1 if STATIC else STEPS):
            centred = xs[step].to(tl.float32) - mid
            by_shift = by_shift + tl.where(inside, found[step], 0.0)
            by_scale = by_scale + tl.where(inside, found[step] * centred, 0.0)
            if by_x is not None:
                by_z = through_norm(found[step], centred, scale, lift, slant, BY_BATCH)
                tl.store(by_x + at, by_z.to(x.dtype.element_ty), mask=inside)
                at = at + size
    if sums is not None:
        place, row = sums + piece * channels + channel, (tl.num_programs(0) // across) * channels
        store_sums(place, row, known, by_shift, by_scale, by_decay, by_edge)


@triton.jit
def store_sums(place, row, known, by_shift, by_scale, by_decay, by_edge):
    """Sum each over the values of the channels, and write it into its own row."""
    tl.store(place, tl.sum(by_shift, 0, keep_dims=True), mask=known)
    tl.store(place + row, tl.sum(by_scale, 0, keep_dims=True), mask=known)
    tl.store(place + 2 * row, tl.sum(by_decay, 0, keep_dims=True), mask=known)
    tl.store(place + 3 * row, tl.sum(by_edge, 0, keep_dims=True), mask=known)


@triton.jit
def through_norm(by_y, centred, scale, lift, slant, OF_BATCH: tl.constexpr):
    """Gradient of a BatchNorm's input; the terms of the batch's own statistics only where it used them."""
    by_z = by_y * scale
    if OF_BATCH:  # not with zeros for the terms: an infinite input would make NaN of them
        by_z = (by_y - lift - centred * slant) * scale
    return by_z


@triton.jit
def by_values(by, DTYPE: tl.constexpr, STEPS: tl.constexpr, STATIC: tl.constexpr, NORM: tl.constexpr):
    """The gradients of the currents in the order of the steps, one for all of a static input.

    Behind a BatchNorm rounded to the dtype in which torch would hand them to it.
    """
    found = ()
    for step in tl.static_range(STEPS):
        one = by[STEPS - 1 - step]
        one = one.to(DTYPE).to(tl.float32) if NORM else one
        found = (one if step == 0 else found[0] + one,) if STATIC else found + (one,)  # noqa: RUF005
    return found


@triton.jit
def finish_kernel(
    sums, totals, by_weight, by_bias, second, eps, pieces, channels,
    BY_BATCH: tl.constexpr, PIECES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Adds the pieces up, in the same order each time; with BatchNorm, also the gradients of weight and bias."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    piece, known = tl.arange(0, PIECES)[:, None], channel < channels
    for kind in tl.static_range(4):
        place = sums + (kind * pieces + piece) * channels + channel
        parts = tl.load(place, mask=known & (piece < pieces), other=0.0).to(tl.float64)
        total = tl.sum(parts, 0, keep_dims=True).to(tl.float32)
        tl.store(totals + kind * channels + channel, total, mask=known)
        if kind == 0 and by_bias is not None:
            tl.store(by_bias + channel, total.to(by_bias.dtype.element_ty), mask=known)
        if kind == 1 and by_weight is not None:
            total = total * inverse_of(second, channel, known, eps, BY_BATCH)
            tl.store(by_weight + channel, total.to(by_weight.dtype.element_ty), mask=known)
