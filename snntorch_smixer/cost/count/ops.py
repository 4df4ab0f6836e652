"""The operations of torch that are no products: one row says what each costs, or by which rule it is free.

A new operation is one name in `_ROWS`, or one row: its kind, whether a neuron may run it, how the axes of its result
follow from those of its inputs. One that multiplies goes to `products`; one that is in neither is listed as uncounted.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from snntorch_smixer.cost.count import axes as ax
from snntorch_smixer.cost.count.axes import Axes
from snntorch_smixer.cost.count.values import Note, Role, Scratch, nonzero

MOVES = "moves or views data"
MAKES = "makes a constant"
CASTS = "changes the number format"
CONSTANT = "does not depend on the input"
BIAS = "a bias is a constant current"
FACTOR = "a constant factor folds into weights or threshold"
NEURON = "part of a neuron update"
LOGIC = "works on indices or truth values"
NOISE = "identity in evaluation mode"
RULES: Mapping[str, str] = {
    MOVES: "reshapes, transposes, copies, padding, joining, picking entries; what moves is in inputs and outputs",
    MAKES: "zeros, ones, ranges, empty memory",
    CASTS: "between floating-point formats, and from truth values to numbers",
    CONSTANT: "computed from parameters and constants alone, so done once before any input",
    BIAS: "added to the result of a linear map, by the map itself or behind it",
    FACTOR: "multiplication or division by one number; signs",
    NEURON: "leak, integration, threshold and reset inside a spiking neuron; counted as updates",
    LOGIC: "index arithmetic, negation of masks, and logic with masks that do not depend on the input",
    NOISE: "dropout and the like",
}
"""Every rule by which an operation is free, with its meaning."""


class Kind(enum.Enum):
    """Operations that are counted alike."""

    SAME_VALUES = "views and copies that keep every value, so that what is known of the values stays known"
    MOVING = "moves, joins, repeats or picks entries"
    MAKING = "makes constants"
    RANDOM = "free where nothing depends on the input; noise on data, or drawn from it, has no known price"
    DROPPING = "dropout"
    LOGICAL = "answers in truth values or positions"
    CONJUNCTION = "and"
    DISJUNCTION = "or"
    SEARCHING = "binary search"
    BAGS = "sums over rows that an index picks"
    ACCUMULATING = "adds to where an index says"
    ROUNDING = "to whole numbers"
    THRESHOLD = "larger or smaller: what a neuron does"
    EQUALITY = "equal or not"
    ADDING = "addition and subtraction"
    SCALING = "multiplication and division, entry by entry"
    MULTIPLY_ADDS = "a product and a sum"
    DIVIDE_ADDS = "a division and a sum"
    SUMMING = "sums and means"
    AVERAGING = "average pooling"
    POOLING = "max pooling"
    COMPARING = "comparisons that give values"
    SORTING = "order and rank"
    SPECIAL = "exponentials, roots, normalisations that do not fold"
    NORMS = "BatchNorm"


_BY_SIZE: Mapping[Kind | None, tuple[tuple[str, ...], str]] = {
    Kind.ADDING: (("adds",), "wrote"),
    Kind.SUMMING: (("adds",), "read"),
    Kind.AVERAGING: (("adds",), "read"),
    **dict.fromkeys((Kind.COMPARING, Kind.EQUALITY, Kind.THRESHOLD), (("compares",), "larger")),
    **dict.fromkeys((Kind.ROUNDING, Kind.DISJUNCTION), (("compares",), "larger")),
    Kind.SPECIAL: (("special",), "larger"),
    Kind.MULTIPLY_ADDS: (("muls", "adds"), "wrote"),
    Kind.DIVIDE_ADDS: (("special", "adds"), "wrote"),
}
"""What each entry costs that an operation wrote or read, or of the larger of both."""


@dataclass(frozen=True)
class Op:
    """How one operation is counted.

    Traits: "unit": multiples of a value stay such; "numbers": truth values become numbers; "ranks": no whole number
    that it gives is a spike.
    """

    kind: Kind | None = None
    inside: bool = False  # a neuron may run it
    axes: Callable[[Move], Axes] | None = None  # of its result; by lengths where None
    traits: tuple[str, ...] = ()
    moves: bool = False


@dataclass
class Call:
    """One call of an operation."""

    name: str  # see `plain_name`
    args: Sequence[Any]
    tensors: Sequence[Tensor]  # those among the arguments, lists flattened
    notes: Sequence[Note]  # on the tensors
    out: Sequence[Tensor]
    op: Op = field(init=False)

    def __post_init__(self) -> None:
        self.op = OPS.get(self.name, _UNKNOWN)

    @property
    def data(self) -> list[int]:
        """Which tensors are activations: those that depend on the input, picked parameters only for want of others."""
        data = [i for i, note in enumerate(self.notes) if note.role == Role.DATA]
        return [i for i in data if not self.notes[i].picked] or data


@dataclass
class Clock:
    """The number of time steps, as far as it is known while the model runs."""

    steps: int | None  # T, None while unknown
    fired: bool = False  # a neuron has run: copies made after it are no repeats of an image

    def label(self, count: int, note: Note) -> str:
        """ "t" where copying or stacking ``note`` ``count`` times makes an axis of time, else ""."""
        if note.role != Role.DATA or ax.has(note.axes, "t"):
            return ""
        if self.steps is None and not self.fired and count > 1:
            self.steps = count
        return "t" if count == self.steps else ""


@dataclass
class Move:
    """One call that changes axes."""

    call: Call
    main: Note  # on its main input
    shape: tuple[int, ...]  # of its result
    clock: Clock


def _view(m: Move) -> Axes:
    return ax.regroup(m.main.axes, m.shape)


def _permute(m: Move) -> Axes:
    return tuple(m.main.axes[i] for i in permutation(m.call, len(m.main.axes)))


def permutation(call: Call, rank: int) -> list[int]:
    """Order of the axes after ``permute``, ``transpose`` or ``t``."""
    if call.name == "permute":
        return [i % rank for i in call.args[1]]
    order = list(range(rank))
    if order:
        i, j = (call.args[1], call.args[2]) if len(call.args) > 2 else (0, rank - 1)
        order[i], order[j] = order[j], order[i]
    return order


def _unsqueeze(m: Move) -> Axes:
    return ax.inserted(m.main.axes, m.call.args[1] % len(m.shape), ())


def _expand(m: Move) -> Axes:
    count = math.prod(m.shape) // max(1, math.prod(map(ax.size_of, m.main.axes)))
    leads = len(m.shape) > len(m.main.axes) or ax.size_of(m.main.axes[0]) < m.shape[0]
    label = "copy" if m.main.role != Role.DATA else m.clock.label(count, m.main) if leads else ""
    return ax.expanded(m.main.axes, m.shape, label)


def _stack(m: Move) -> Axes:
    at = (m.call.args[1] if len(m.call.args) > 1 else 0) % len(m.shape)
    label = m.clock.label(m.shape[at], m.main) if at == 0 or m.shape[at] == m.clock.steps else ""
    return ax.inserted(m.main.axes, at, ((label, m.shape[at]),) if m.shape[at] > 1 else ())


def picked_rows(m: Move) -> Axes:
    """Entries picked from what has neither time nor samples: the axes are those of the index."""
    name, args, which = m.call.name, m.call.args, [n.axes for n in m.call.notes[1:]]
    if name == "embedding":
        return (*which[0], *m.main.axes[1:])
    if name == "index_select":
        at = args[1] % max(len(m.main.axes), 1)
        return (*m.main.axes[:at], *which[0], *m.main.axes[at + 1 :])
    if name not in ("index", "_unsafe_index"):
        return ax.broadcast(m.shape, which)
    used = [i for i, index in enumerate(args[1]) if index is not None]
    if any(args[1][i].dtype == torch.bool for i in used):
        return ax.unknown(m.shape)
    picked = ax.broadcast(torch.broadcast_shapes(*(args[1][i].shape for i in used)), which)
    at = used[0] if used[-1] - used[0] == len(used) - 1 else 0
    rest = [axis for i, axis in enumerate(m.main.axes) if i not in used]
    return (*rest[:at], *picked, *rest[at:])


def _reduce(m: Move) -> Axes:
    rank, args = len(m.main.axes), m.call.args
    dims = args[1] if len(args) > 1 and args[1] is not None else range(rank)
    dims = [dims] if isinstance(dims, int) else list(dims) or range(rank)
    return ax.dropped(m.main.axes, dims, keep=len(m.shape) == rank)


_ROWS: tuple[tuple[Kind, bool, Callable[[Move], Axes] | None, str, str], ...] = (
    # kind, allowed inside a neuron, axes of the result, names, traits
    (Kind.SAME_VALUES, True, _view, "view _unsafe_view _reshape_alias reshape squeeze", ""),
    (Kind.SAME_VALUES, True, _permute, "permute transpose t", ""),
    (Kind.SAME_VALUES, True, _unsqueeze, "unsqueeze", ""),
    (Kind.SAME_VALUES, True, None, "_to_copy", "numbers"),
    (Kind.SAME_VALUES, True, None, "alias detach lift_fresh numpy_T clone contiguous copy flatten unflatten", ""),
    (Kind.SAME_VALUES, True, None, "movedim flip roll view_as_real view_as_complex resolve_conj resolve_neg _conj", ""),
    (Kind.MOVING, True, _expand, "expand repeat", ""),
    (Kind.MOVING, True, _stack, "stack", "unit"),
    (Kind.MOVING, True, None, "cat", "unit"),
    (Kind.MOVING, True, picked_rows, "index _unsafe_index index_select gather take embedding masked_select", ""),
    (Kind.MOVING, True, None, "select slice unbind split split_with_sizes unsafe_split chunk narrow expand_copy", ""),
    (Kind.MOVING, True, None, "take_along_dim as_strided unfold im2col repeat_interleave diagonal tril triu set", ""),
    (Kind.MOVING, True, None, "constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d _pad_circular", ""),
    (Kind.MOVING, True, None, "replication_pad1d replication_pad2d replication_pad3d pixel_shuffle", ""),
    (Kind.MOVING, True, None, "pixel_unshuffle channel_shuffle upsample_nearest1d upsample_nearest2d", ""),
    (Kind.MOVING, True, None, "upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d", ""),
    (Kind.MOVING, True, None, "_upsample_nearest_exact3d scatter index_copy index_put index_fill slice_scatter", ""),
    (Kind.MOVING, True, None, "select_scatter masked_scatter", ""),
    (Kind.MAKING, True, None, "zeros ones full empty empty_like zeros_like ones_like full_like new_zeros new_ones", ""),
    (Kind.MAKING, True, None, "new_empty new_full arange linspace eye rand randn randint randperm empty_strided", ""),
    (Kind.MAKING, True, None, "new_empty_strided scalar_tensor fill zero resize _efficientzerotensor", ""),
    (Kind.MAKING, True, None, "promote_types tril_indices triu_indices one_hot", ""),
    (Kind.RANDOM, True, None, "bernoulli uniform normal rand_like randn_like randint_like", ""),
    (Kind.DROPPING, True, None, "dropout native_dropout feature_dropout alpha_dropout", ""),
    (Kind.LOGICAL, True, _reduce, "any all", ""),
    (Kind.LOGICAL, True, None, "logical_not bitwise_not isnan isinf isfinite nonzero is_nonzero item equal", ""),
    (Kind.LOGICAL, True, None, "_local_scalar_dense count_nonzero _assert_async sym_size", ""),
    (Kind.CONJUNCTION, True, None, "logical_and bitwise_and", ""),
    (Kind.DISJUNCTION, True, None, "logical_or logical_xor bitwise_or bitwise_xor", ""),
    (Kind.SEARCHING, False, None, "bucketize searchsorted", ""),
    (Kind.BAGS, False, None, "_embedding_bag _embedding_bag_forward_only", ""),
    (Kind.ACCUMULATING, False, None, "col2im _index_put_impl", "unit"),
    (Kind.ROUNDING, True, None, "round floor ceil trunc floor_divide", ""),
    (Kind.THRESHOLD, True, None, "ge gt le lt greater greater_equal less less_equal heaviside sign sgn", ""),
    (Kind.EQUALITY, True, None, "eq ne not_equal", "ranks"),
    (Kind.ADDING, True, None, "add sub subtract", "unit numbers"),
    (Kind.ADDING, True, None, "rsub", "numbers"),
    (Kind.SCALING, True, None, "mul multiply div divide true_divide neg", "numbers"),
    (Kind.MULTIPLY_ADDS, True, None, "addcmul lerp", ""),
    (Kind.DIVIDE_ADDS, True, None, "addcdiv", ""),
    (Kind.SUMMING, False, _reduce, "sum", "unit"),
    (Kind.SUMMING, False, _reduce, "mean", ""),
    (Kind.SUMMING, False, None, "nansum adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d", ""),
    (Kind.AVERAGING, False, None, "avg_pool1d avg_pool2d avg_pool3d", ""),
    (Kind.POOLING, False, None, "max_pool1d max_pool2d_with_indices max_pool3d_with_indices max_pool2d", "unit"),
    (Kind.POOLING, False, None, "max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d", "unit"),
    (Kind.COMPARING, True, _reduce, "max min", "unit ranks"),
    (Kind.COMPARING, True, _reduce, "amax amin", "unit"),
    (Kind.COMPARING, True, _reduce, "argmax argmin", "ranks"),
    (Kind.COMPARING, True, None, "relu abs maximum minimum fmax fmin", "unit"),
    (Kind.COMPARING, True, None, "where masked_fill", "unit numbers"),
    (Kind.COMPARING, True, None, "clamp clamp_min clamp_max hardtanh threshold leaky_relu relu6 frac remainder", ""),
    (Kind.COMPARING, True, None, "fmod hardsigmoid hardswish prelu aminmax _prelu_kernel hardshrink softshrink", ""),
    (Kind.SORTING, False, None, "sort argsort topk msort kthvalue median", "unit ranks"),
    (Kind.SPECIAL, True, _reduce, "var", "ranks"),
    (Kind.SPECIAL, True, None, "exp exp2 expm1 log log2 log10 log1p sqrt rsqrt pow square reciprocal erf", "ranks"),
    (Kind.SPECIAL, True, None, "erfc sigmoid tanh gelu silu mish elu celu selu softplus log_sigmoid_forward", "ranks"),
    (Kind.SPECIAL, True, None, "glu sin cos tan atan atan2 asin acos sinh cosh logit norm linalg_vector_norm", "ranks"),
    (Kind.SPECIAL, True, None, "prod _softmax _log_softmax softmax log_softmax _safe_softmax logsumexp", "ranks"),
    (Kind.SPECIAL, True, None, "var_mean std std_mean native_layer_norm native_group_norm _fused_rms_norm", "ranks"),
    (Kind.SPECIAL, True, None, "rms_norm", "ranks"),
    (Kind.NORMS, False, None, "native_batch_norm _native_batch_norm_legit cudnn_batch_norm miopen_batch_norm", ""),
    (Kind.NORMS, False, None, "_native_batch_norm_legit_no_training _batch_norm_with_update", ""),
)

_MOVES = (Kind.SAME_VALUES, Kind.MOVING)
OPS: Mapping[str, Op] = {
    name: Op(kind, inside, axes, tuple(traits.split()), kind in _MOVES)
    for kind, inside, axes, names, traits in _ROWS
    for name in names.split()
}
"""Every operation that is no product, by name."""
_UNKNOWN = Op()


def name_of(func: Any) -> str:
    """The name by which an overload of torch's operations is looked up; a scatter with ``reduce=`` has its own."""
    name = plain_name(func.overloadpacket.__name__)
    return f"{name}_reduce" if name == "scatter" and "reduce" in func._overloadname else name


def plain_name(name: str) -> str:
    """The name of an operation without the mark of its in-place form: "add_" is "add"."""
    return name[:-1] if name.endswith("_") and not name.startswith("__") else name


def folds(name: str) -> bool:
    """True for a BatchNorm of known statistics."""
    norm = name in OPS and OPS[name].kind is Kind.NORMS
    return norm and (name.endswith("no_training") or name.startswith(("cudnn", "miopen")))


def verdict(call: Call, scratch: Scratch) -> Mapping[str, int] | str | None:
    """What one call costs outside neurons: counts, the rule by which it is free, or None where nothing covers it."""
    kind, notes = call.op.kind, call.notes
    free = _free(call)
    if free is not None:
        return free
    if kind is Kind.SCALING:
        return _scaling(call, scratch)
    if kind is Kind.CONJUNCTION:
        return _gates(call, scratch)
    if kind is Kind.ADDING and _is_bias(notes):
        return BIAS
    if kind is Kind.NORMS:
        counts = ("batch_norm",) if notes[0].linear and folds(call.name) else ("muls", "adds")
        return dict.fromkeys(counts, call.out[0].numel())
    return _by_size(call) if call.out and call.tensors and kind is not Kind.RANDOM else None


def _free(call: Call) -> str | None:
    kind = call.op.kind
    if kind is Kind.MAKING:
        return MAKES
    if kind is Kind.LOGICAL:
        return LOGIC
    if all(note.role != Role.DATA for note in call.notes):
        return CONSTANT
    if call.name == "_to_copy":
        return CASTS
    if call.op.moves:
        return MOVES
    if kind is Kind.DROPPING:
        return NOISE
    return LOGIC if _is_logic(call) else None


_ON_INDICES = (Kind.ROUNDING, Kind.ADDING, Kind.SCALING, Kind.SUMMING, Kind.COMPARING, Kind.EQUALITY)


def _is_logic(call: Call) -> bool:
    """True for arithmetic on indices, and for logic unless two tensors of truth values both depend on the input."""
    logic = call.op.kind in (Kind.CONJUNCTION, Kind.DISJUNCTION)
    gates = call.out and call.out[0].dtype == torch.bool and sum(note.role == Role.DATA for note in call.notes) > 1
    if gates and (logic or call.name == "mul"):
        return False
    return logic or (
        call.op.kind in _ON_INDICES and not any(x.is_floating_point() for x in (*call.tensors, *call.out[:1]))
    )


def _scaling(call: Call, scratch: Scratch) -> Mapping[str, int] | str:
    name, out, data = call.name, call.out[0], call.data
    if len(data) > 1 and name.startswith("mul"):
        first, second = (call.notes[i] for i in data[:2])
        return NEURON if resets(first, second) or resets(second, first) else _gates(call, scratch)
    if len(data) > 1 or (name not in ("mul", "multiply", "neg") and data == [1]):
        return {"special": out.numel()}
    if len(call.tensors) == 1 or all(t.numel() == 1 for i, t in enumerate(call.tensors) if i not in data):
        return FACTOR
    return {"muls": out.numel()}


def _gates(call: Call, scratch: Scratch) -> Mapping[str, int]:
    """A product of activations, entry by entry, of numbers or of truth values: the events of each."""
    out = call.out[0]
    wide = torch.float64 if out.numel() > 2**24 else torch.float32
    return {"gates": sum(int(nonzero(call.tensors[i].expand(out.shape), scratch).sum(dtype=wide)) for i in call.data)}


def _by_size(call: Call) -> Mapping[str, int] | str | None:
    """Operations that cost so much for each entry that they read or write."""
    kind, args, wrote, read = call.op.kind, call.args, call.out[0].numel(), call.tensors[0].numel()
    if kind in _BY_SIZE:
        counts, size = _BY_SIZE[kind]
        return dict.fromkeys(counts, {"wrote": wrote, "read": read, "larger": max(wrote, read)}[size])
    if kind is Kind.POOLING:
        if call.name.startswith("adaptive"):
            return {"compares": read - wrote}
        window = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else [2]
        return {"compares": math.prod(window) * wrote - wrote}
    if kind is Kind.SORTING:
        length = max(2, call.tensors[0].shape[-1] if call.tensors[0].dim() else 2)
        return {"compares": read * math.ceil(math.log2(length))}
    if kind is Kind.SEARCHING:
        bounds = args[1 if call.name == "bucketize" else 0]
        return {"compares": wrote * math.ceil(math.log2(bounds.shape[-1] + 1))}
    return _sums(call) if kind in (Kind.BAGS, Kind.ACCUMULATING) else None


def _sums(call: Call) -> Mapping[str, int] | str:
    """Sums of entries that an index picks, or that land in the same place."""
    if call.op.kind is Kind.BAGS:
        sums = call.args[1].numel() * call.out[0].shape[-1]
        return {"adds": sums} | ({"muls": sums} if len(call.args) > 6 and call.args[6] is not None else {})
    if call.name != "col2im":
        places = (slice(None) if index is None else index for index in call.args[1])
        return {"adds": call.tensors[0][tuple(places)].numel()}
    # Patches that are put back: a move, or where they overlap one addition for each entry that lands in the image.
    x, (size, kernel, dilation, padding, stride) = call.tensors[0], call.args[1:6]
    patches = torch.ones(1, math.prod(kernel), x.shape[-1], device=x.device)
    hits = F.fold(patches, size, kernel, dilation, padding, stride)
    return {"adds": int(hits.sum()) * (x.numel() // patches.numel())} if hits.max() > 1 else MOVES


def _is_bias(notes: Sequence[Note]) -> bool:
    """True for a parameter added to the result of a linear map."""
    if len(notes) != 2 or {note.role for note in notes} != {Role.DATA, Role.WEIGHT}:
        return False
    return max(notes, key=lambda note: note.role).linear


def resets(spikes: Note, membrane: Note) -> bool:
    """True for a membrane times a function of its own spikes, as in a hard reset."""
    return spikes.compared is not None and spikes.compared is (membrane.base or membrane.values)


def fires(call: Call) -> bool:
    """True for a comparison of real values that depend on the input: what a threshold does."""
    return (
        call.op.kind in (Kind.THRESHOLD, Kind.ROUNDING)
        and len(call.out) == 1
        and any(note.role == Role.DATA for note in call.notes)
        and call.tensors[0].is_floating_point()
    )


def masks(call: Call, i: int) -> bool:
    """True where tensor ``i`` of truth values selects among data: a mask, not yet numbers."""
    others = [n for j, n in enumerate(call.notes) if j != i and call.tensors[j].is_floating_point()]
    return call.name in ("mul", "where", "masked_fill") and any(n.role == Role.DATA for n in others)


def read_truth(truth: Note, *, only_masks: bool = False) -> None:
    """Truth values as numbers are a neuron's spikes once anything but a mask on what was compared reads them."""
    truth.read = truth.read or not only_masks
    truth.number = truth.read


def is_strange(call: Call) -> bool:
    """True for work on complex numbers or in sparse memory, for which there are no rules; moving it is free."""
    if call.op.moves:
        return False
    odd = any(x.dtype.is_complex or x.layout is not torch.strided for x in (*call.tensors, *call.out))
    return odd and any(note.role == Role.DATA for note in call.notes)
