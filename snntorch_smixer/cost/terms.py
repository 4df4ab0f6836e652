"""What is priced: each term of an estimate, how many of it a record holds, and the price that it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from numbers import Real

from snntorch_smixer.cost.profile import Profile
from snntorch_smixer.cost.records import Record
from snntorch_smixer.errors import SettingError, check_choice, check_count

STATIC = ("as_run", "once", "every_step")
BATCH_NORM = ("fold", "count")


@dataclass(frozen=True)
class Assumptions:
    """What an estimate needs and a run does not tell.

    Attributes:
        static_input: linear maps of a static image: "as_run" as the model computes them, "once" for all time steps, or
            "every_step", as most papers count.
        batch_norm: "fold" into the linear map before it, or "count" its scale and shift.
        hops: mean number of hops of a packet between cores; None leaves routing unpriced.
        latency_ms: time of one inference; None leaves static power unpriced.
        chips: chips that are switched on for that time.
        fold: linear layers in a row, without a neuron in between, are one linear layer where that is cheaper; only with
            ``batch_norm="fold"``, and never by the rule of the papers.

    Raises:
        SettingError: a setting is out of range.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import cost, from_pretrained
        >>> net, x = from_pretrained("smixer-2-64-fmnist"), torch.rand(2, 1, 28, 28)
        >>> report = cost.estimate(net, x, chip="loihi1", assume=cost.Assumptions(hops=2))
    """

    static_input: str = "as_run"
    batch_norm: str = "fold"
    hops: float | None = None
    latency_ms: float | None = None
    chips: int = 1
    fold: bool = True

    def __post_init__(self) -> None:
        for name, choices in ("static_input", STATIC), ("batch_norm", BATCH_NORM):
            value = getattr(self, name)
            check_choice("Assumptions", name, value if type(value).__module__ == "builtins" else repr(value), choices)
        check_count("Assumptions", "chips", self.chips)
        if type(self.fold) is not bool:
            raise SettingError(f"Assumptions: fold={self.fold!r} must be True or False.")
        for name in ("hops", "latency_ms"):
            value = getattr(self, name)
            if value is not None and not _is_amount(value):
                raise SettingError(f"Assumptions: {name}={value!r} must be a finite number of at least 0, or None.")


def _is_amount(value: object) -> bool:
    """True for a finite number of at least 0; a bool is none."""
    return type(value) is not bool and isinstance(value, Real) and 0 <= float(value) < float("inf")


@dataclass(frozen=True)
class Setting:
    """What the amount of a term depends on besides the record."""

    profile: Profile
    assume: Assumptions
    steps: int

    @property
    def papers(self) -> bool:
        """Dense count times firing rate, as papers do."""
        return self.profile.rule == "papers"

    def cost_of(self, key: str) -> float | None:
        """Price in pJ, 0 where another price includes it, None where it is unknown."""
        return 0.0 if key in self.profile.includes else self.profile.prices[key].value


Amount = Callable[[Record, Setting], float]


@dataclass(frozen=True)
class Term:
    """One kind of work.

    Attributes:
        name: for people.
        price: key of `PRICES`.
        amount: how many a record holds, for the whole batch.
    """

    name: str
    price: str
    amount: Amount


def _events(record: Record, s: Setting) -> float:
    if s.papers:
        return 0 if record.op == "act_act" else record["rate_sop"]
    if not s.profile.graded_spikes:
        return record["ac"] + record["graded_ac"]
    return record["ac"] + sum(level * n for level, n in _added(record, s).items())


def _graded(record: Record, s: Setting) -> float:
    return record["graded"] - sum(_added(record, s).values()) if s.profile.graded_spikes and not s.papers else 0


def _added(record: Record, s: Setting) -> Mapping[int, int]:
    """Of the graded events of a chip with graded spikes, by value, those that cost less as so many additions."""
    once, whole = s.cost_of("ac_pj"), s.cost_of("graded_pj")
    if once is None:
        return {}
    most = 1 if whole is None else whole / once if once else inf
    return {level: n for level, n in record.levels.items() if level <= most}


def _mac(record: Record, s: Setting) -> float:
    count = {
        "as_run": record["mac"],
        "once": record["mac"] - record["static_mac"],
        "every_step": record["mac"] + record["static_once"] * (s.steps - 1),
    }[s.assume.static_input]
    return count * record["dense"] / max(record["synapses"], 1) if s.papers else count


def _act_act(record: Record, s: Setting) -> float:
    if s.papers:
        return record["rate_sop"] if record.op == "act_act" else 0
    return record["gates"] + (record["act_act"] if s.profile.graded_spikes else record["act_act_units"])


def _idle(record: Record, s: Setting) -> float:
    return record["updates"] - record["triggered"] if s.profile.updates == "clocked" else 0


def _synaptic(record: Record, s: Setting) -> float:
    """Accesses of a weight: a graded event reads its weight once, however it is added up."""
    events = record["ac"] + record["graded" if s.profile.graded_spikes else "graded_ac"]
    return 0 if s.papers else events + _mac(record, s)


def _state_bits(record: Record, s: Setting) -> float:
    """A sum is read and written at every event, a membrane at every update."""
    touched = _synaptic(record, s) + record["triggered"] + _idle(record, s)
    return 2 * touched * s.profile.state_bits


def _activation_bits(record: Record, s: Setting) -> float:
    wide = 1 if record.operand == "spikes" else s.profile.activation_bits
    return record["inputs"] * wide


def _batch_norm(record: Record, s: Setting) -> float:
    return record["batch_norm"] if s.assume.batch_norm == "count" else 0


def _of(name: str) -> Amount:
    return lambda record, _: record[name]


TERMS: tuple[Term, ...] = (
    Term("spike events", "ac_pj", _events),
    Term("graded events", "graded_pj", _graded),
    Term("multiply-accumulates", "mac_pj", _mac),
    Term("activation x activation", "act_act_pj", _act_act),
    Term("neuron updates", "update_pj", _of("triggered")),
    Term("idle neuron updates", "update_idle_pj", _idle),
    Term("spikes sent", "spike_pj", _of("spikes")),
    Term("hops", "hop_pj", lambda record, s: record["packets"] * (1.0 if s.assume.hops is None else s.assume.hops)),
    Term("weight reads", "weight_read_pj_per_bit", lambda record, s: _synaptic(record, s) * s.profile.weight_bits),
    Term("state accesses", "state_pj_per_bit", _state_bits),
    Term("activation reads", "activation_pj_per_bit", _activation_bits),
    Term("additions", "add_pj", _of("adds")),
    Term("multiplications", "mul_pj", _of("muls")),
    Term("comparisons", "compare_pj", _of("compares")),
    Term("special functions", "special_pj", _of("special")),
    Term("batch norm", "batch_norm_pj", _batch_norm),
)
"""Every term of an estimate, in the order in which reports show them."""

BY_PRICE: Mapping[str, Term] = {term.price: term for term in TERMS}
