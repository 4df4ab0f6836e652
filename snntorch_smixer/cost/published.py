"""Figures that others have published: the Spikingformer energy logs, and the SMixer paper's energies and FLOPs."""

from __future__ import annotations

import csv
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from io import StringIO
from math import isfinite

from snntorch_smixer.errors import SettingError, check_choice

LOGS = ("spikingformer_8_768", "spikingformer_8_512")
"""Names that `published_log` knows."""


@dataclass(frozen=True)
class LogRow:
    """One layer of a log; counts are per image, summed over the steps."""

    layer: str  # its name in the authors' code
    kind: str  # "Conv1d", "Conv2d" or "Linear"
    arguments: str  # its settings, as printed in the log
    dense: float  # multiply-accumulates as FLOP counters count them, zero padding included
    ac: float  # synaptic events
    mac: float  # multiply-accumulates of real-valued inputs
    rate: float  # firing rate of the input, 0..1, as the log states it; within 2e-5 of ``ac / dense``


@dataclass(frozen=True)
class BlockRates:
    """Mean firing rates, 0..1, of what enters the layers of one block."""

    qkv: float  # input of the q, k and v projections
    proj: float  # input of the projection behind the attention
    fc1: float  # input of the MLP
    fc2: float  # input of its second layer
    q: float  # q in front of the attention product
    k: float  # k in front of it
    v: float  # v in front of it


@dataclass(frozen=True)
class PublishedLog:
    """An energy log that its authors publish with a trained model."""

    name: str  # one of `LOGS`
    rows: tuple[LogRow, ...]  # layers in the order of the log: stem, six layers a block, head
    blocks: tuple[BlockRates, ...]  # rates by block
    heads: int  # h
    channels: int  # C
    tokens: int  # N
    steps: int  # T
    energy_mj: float  # the total that the log states, per image
    source: str  # repository and folder
    licence: str  # of the source

    @property
    def stem(self) -> tuple[LogRow, ...]:
        """Convolutions in front of the blocks; the first of them reads the image."""
        return tuple(row for row in self.rows if row.layer.startswith("patch_embed."))

    @property
    def mac(self) -> float:
        """Multiply-accumulates of real-valued inputs, per image."""
        return sum(row.mac for row in self.rows)

    @property
    def attention_ac(self) -> float:
        """Synaptic events of the attention products, per image, by the authors' formula.

        ``T * heads * N * d^2 * (min(r_k, r_v) + r_q)`` per block with ``d = C / heads``. Source: their energy script.
        """
        width = self.channels // self.heads
        dense = self.steps * self.heads * self.tokens * width**2
        return dense * sum(min(block.k, block.v) + block.q for block in self.blocks)

    @property
    def ac(self) -> float:
        """Synaptic events per image, attention products included."""
        return sum(row.ac for row in self.rows) + self.attention_ac


def published_log(name: str) -> PublishedLog:
    """A log that is shipped with the package, one of `LOGS`.

    Raises:
        SettingError: another name.
    """
    check_choice("published_log", "name", name, LOGS)
    rows = tuple(map(_row, csv.DictReader(StringIO(read_data(f"{name}.csv")))))
    attention = csv.DictReader(StringIO(read_data("attention_rates.csv")))
    blocks = tuple(_block(rows, raw) for raw in attention if raw["log"] == name)
    return PublishedLog(name=name, rows=rows, blocks=blocks, **tomllib.loads(read_data("logs.toml"))[name])


def log_energy_mj(log: PublishedLog, *, mac_pj: float, ac_pj: float) -> float:
    """Energy per image in mJ, as the log computes it: ``mac_pj * MAC + ac_pj * AC``.

    Args:
        log: from `published_log`.
        mac_pj: price of a multiply-accumulate.
        ac_pj: price of an accumulate.

    Raises:
        SettingError: a negative price.
    """
    check_within("log_energy_mj", "mac_pj", mac_pj)
    check_within("log_energy_mj", "ac_pj", ac_pj)
    return (log.mac * mac_pj + log.ac * ac_pj) * 1e-9


def static_saving_mj(log: PublishedLog, *, mac_pj: float) -> float:
    """What the log would save by running the first convolution once: the image is the same at each of the T steps.

    Args:
        log: from `published_log`.
        mac_pj: price of a multiply-accumulate.

    Returns:
        ``(T - 1) / T`` of that layer's energy per image, in mJ.

    Raises:
        SettingError: a negative price.
    """
    check_within("static_saving_mj", "mac_pj", mac_pj)
    return log.stem[0].mac * (log.steps - 1) / log.steps * mac_pj * 1e-9


def read_data(file: str) -> str:
    """Text of a file of ``published_logs``."""
    return (files("snntorch_smixer.cost") / "published_logs" / file).read_text(encoding="utf-8")


def check_within(where: str, name: str, value: object, low: float = 0.0, high: float = float("inf")) -> None:
    """Raise `SettingError` unless ``value`` is a finite number in ``[low, high]``."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
    if not (number and low <= value <= high):  # type: ignore[operator]
        wanted = f"in [{low:g}, {high:g}]" if isfinite(high) else f"of at least {low:g}"
        raise SettingError(f"{where}: {name}={value!r} must be a finite number {wanted}. Pass one.")


def _row(raw: dict[str, str]) -> LogRow:
    dense, ac, mac, percent = (float(raw[key]) for key in ("total_ops", "ac", "mac", "firing_rate_percent"))
    return LogRow(raw["layer"], raw["type"], raw["arguments"], dense, ac, mac, percent / 100)


def _block(rows: tuple[LogRow, ...], raw: dict[str, str]) -> BlockRates:
    """Rates of one block: the logs name its MLP in two ways, so its six layers are told by their order."""
    q, _, _, proj, fc1, fc2 = (row.rate for row in rows if row.layer.startswith(f"block[{raw['block']}]."))
    return BlockRates(q, proj, fc1, fc2, q=float(raw["r_q"]), k=float(raw["r_k"]), v=float(raw["r_v"]))


@dataclass(frozen=True)
class PaperEnergy:
    """Energy of STMixer-8-768 on ImageNet, without and with DSTSP."""

    base_mj: float  # per image without pruning
    pruned_mj: float  # with it
    ps: float  # share of tokens dropped
    steps: int  # T; one step, so DSTSP has none to drop
    source: str  # where it stands


@dataclass(frozen=True)
class PaperRow:
    """One row of the paper's ablation on CIFAR-100."""

    ps: float  # share of tokens dropped
    pt: float  # share of steps dropped
    flops_g: float  # the column "FLOPs", G per image
    images_per_second: float  # the column of the throughput


PAPER_ENERGY = PaperEnergy(4.45, 2.36, 0.3, 1, "SMixer (ICLR 2026), ImageNet-1K table, quoted second-hand")
"""Theoretical figures, not measured: operations times the 45 nm prices that all mJ of this literature use."""

PAPER_ABLATION = (
    PaperRow(0.0, 0.0, 3.45, 266.0),
    PaperRow(0.4, 0.0, 2.72, 337.0),
    PaperRow(0.0, 0.5, 2.54, 671.0),
    PaperRow(0.3, 0.75, 2.04, 738.0),
)
"""SMixer (ICLR 2026), ablation of DSTSP on CIFAR-100 at T = 4, quoted second-hand; our counts fit STMixer-4-384."""
