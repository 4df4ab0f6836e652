"""What operations cost that are no products: the classes of torch's operations, and the rules for free ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Views and copies that keep every value: kind and unit of the numbers stay known.
SAME_VALUES = _names(
    "view _unsafe_view _reshape_alias reshape alias detach lift_fresh permute transpose t numpy_T squeeze unsqueeze "
    "clone contiguous _to_copy copy flatten unflatten view_as_real view_as_complex resolve_conj resolve_neg "
    "_conj movedim flip roll"
)
MOVING = SAME_VALUES | _names(
    "expand repeat stack cat select slice unbind split split_with_sizes chunk narrow index index_select gather take "
    "take_along_dim as_strided unfold im2col constant_pad_nd reflection_pad1d reflection_pad2d "
    "reflection_pad3d replication_pad1d replication_pad2d replication_pad3d _pad_circular _unsafe_index "
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d "
    "_upsample_nearest_exact3d pixel_shuffle pixel_unshuffle channel_shuffle "
    "scatter index_copy index_put index_fill slice_scatter select_scatter masked_select repeat_interleave diagonal "
    "tril triu embedding set masked_scatter unsafe_split expand_copy"
)
MAKING = _names(
    "zeros ones full empty empty_like zeros_like ones_like full_like new_zeros new_ones new_empty new_full arange "
    "linspace eye rand randn randint randperm empty_strided new_empty_strided scalar_tensor "
    "fill zero resize _efficientzerotensor promote_types "
    "tril_indices triu_indices one_hot"
)
# Free where nothing depends on the input; noise on data, or drawn from it, is work that no price is known for.
RANDOM = _names("bernoulli uniform normal rand_like randn_like randint_like")
DROPPING = _names("dropout native_dropout feature_dropout alpha_dropout")
LOGICAL = _names(
    "logical_not bitwise_not all any isnan isinf isfinite nonzero is_nonzero item _local_scalar_dense equal "
    "count_nonzero _assert_async sym_size"
)
CONJUNCTION = _names("logical_and bitwise_and")
DISJUNCTION = _names("logical_or logical_xor bitwise_or bitwise_xor")
SEARCHING = _names("bucketize searchsorted")
BAGS = _names("_embedding_bag _embedding_bag_forward_only")
ACCUMULATING = _names("col2im _index_put_impl")
ROUNDING = _names("round floor ceil trunc floor_divide")
THRESHOLD = _names("ge gt le lt greater greater_equal less less_equal heaviside sign sgn")
EQUALITY = _names("eq ne not_equal")
ADDING = _names("add sub rsub subtract")
SCALING = _names("mul multiply div divide true_divide neg")
MULTIPLY_ADDS = _names("addcmul lerp")
DIVIDE_ADDS = _names("addcdiv")
SUMMING = _names("sum mean nansum adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d")
AVERAGING = _names("avg_pool1d avg_pool2d avg_pool3d")
POOLING = _names(
    "max_pool1d max_pool2d_with_indices max_pool3d_with_indices max_pool2d max_pool3d "
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"
)
COMPARING = _names("relu clamp clamp_min clamp_max maximum minimum fmax fmin hardtanh threshold leaky_relu abs relu6 "
                   "frac remainder fmod hardsigmoid hardswish where masked_fill prelu max min "
                   "amax amin aminmax argmax argmin _prelu_kernel hardshrink softshrink")  # fmt: skip
SORTING = _names("sort argsort topk msort kthvalue median")
SPECIAL = _names(
    "exp exp2 expm1 log log2 log10 log1p sqrt rsqrt pow square reciprocal sigmoid tanh gelu silu mish elu celu selu "
    "softplus log_sigmoid_forward _softmax _log_softmax softmax log_softmax erf erfc sin cos tan atan atan2 asin acos "
    "sinh cosh logit norm linalg_vector_norm var var_mean std std_mean prod logsumexp glu native_layer_norm "
    "native_group_norm _fused_rms_norm rms_norm _safe_softmax"
)
NORMS = _names("native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
               "miopen_batch_norm _batch_norm_with_update")  # fmt: skip


def name_of(func: Any) -> str:
    """The name by which an overload of torch's operations is looked up; a scatter with ``reduce=`` has its own."""
    name = plain_name(func.overloadpacket.__name__)
    return f"{name}_reduce" if name == "scatter" and "reduce" in func._overloadname else name


def plain_name(name: str) -> str:
    """The name of an operation without the mark of its in-place form: "add_" is "add"."""
    return name[:-1] if name.endswith("_") and not name.startswith("__") else name
