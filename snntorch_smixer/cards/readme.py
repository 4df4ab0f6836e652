"""``README.md`` of a model, with the front matter that the Hub reads: made from its card, never by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence

from snntorch_smixer.cards.card import WEIGHTS, Card, Measured

README = "README.md"

OURS = "snntorch-smixer"
"""Organisation on the Hub whose models are known by their name alone."""

DETECTORS = "spike-yolo"
"""The architecture of detectors: how their names begin, and the summaries of those without one."""
_CLASSES = "image-classification"
_METRICS = {_CLASSES: ("top-1 accuracy", "accuracy"), "object-detection": ("mAP50", "mAP50")}
"""Of a task: the metric of a card that the Hub shows, and its name there."""

_HUB_DATASETS = {
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "cifar-10": "uoft-cs/cifar10",
    "cifar-100": "uoft-cs/cifar100",
    "imagenet-1k": "ILSVRC/imagenet-1k",
}
"""Ids on the Hub of the data sets that are there."""


def model_readme(card: Card) -> str:
    """The text of ``README.md``."""
    sections = [
        _front_matter(card),
        f"# {card.name}\n\n{card.summary}{_state(card)}",
        _facts(card),
        _usage(card),
        _measured(card),
        _reported(card),
        _training(card),
        _citation(card),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def models_table(cards: Sequence[Card]) -> str:
    """A markdown table of models, one row per card."""
    lines = [
        "| model | data set | parameters | input | T | DSTSP | weights | measured here | reported in the paper |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for card in cards:
        found = [f"{_value(m)} ({m.samples:,} images)" for m in card.measured if m.metric.startswith("top-1")][:1]
        told = [f"{r.value:g} {r.unit}" for r in card.reported if r.metric.startswith("top-1")][:1]
        weights = card.repo_id if card.is_published else "shipped" if WEIGHTS in card.files else "not published"
        pruning = f"ps={card.ps}, t={card.t}" if card.ps or card.t != card.T else "-"
        cells = (
            f"`{card.name}`",
            card.dataset or "-",
            f"{card.parameters / 1e6:.2f} M" if card.parameters else "-",
            _input(card),
            str(card.T),
            pruning,
        )
        lines.append("| " + " | ".join((*cells, weights, *(found or ["-"]), *(told or ["-"]))) + " |")
    return "\n".join(lines) + "\n"


def _front_matter(card: Card) -> str:
    lines = ["---", "library_name: snntorch-smixer", f"pipeline_tag: {_task(card)}"]
    lines += [f"license: {json.dumps(card.license.lower())}"] if card.license else []
    lines += ["tags:", *(f"- {tag}" for tag in ("snntorch", "spiking-neural-network", "neuromorphic", "smixer"))]
    if card.dataset in _HUB_DATASETS:
        lines += ["datasets:", f"- {_HUB_DATASETS[card.dataset]}"]
    metric = _METRICS[_task(card)]
    found = [m for m in card.measured if m.metric == metric[0]]
    if found:
        lines += ["metrics:", f"- {metric[1]}", *_model_index(card, found)]
    return "\n".join([*lines, "---"])


def _task(card: Card) -> str:
    return "object-detection" if card.name.startswith(DETECTORS) or card.summary.startswith(DETECTORS) else _CLASSES


def _model_index(card: Card, accuracies: Sequence[Measured]) -> list[str]:
    lines = ["model-index:", f"- name: {json.dumps(card.name)}", "  results:"]
    for m in accuracies:
        lines += [
            "  - task:",
            f"      type: {_task(card)}",
            "    dataset:",
            f"      name: {json.dumps(f'{m.dataset}, {m.split}')}",
            f"      type: {json.dumps(_HUB_DATASETS.get(m.dataset, m.dataset))}",
            "    metrics:",
            f"    - type: {_METRICS[_task(card)][1]}",
            f"      value: {round(100 * m.value, 4):g}",
        ]
    return lines


def _state(card: Card) -> str:
    if WEIGHTS in card.files:
        return ""
    return "\n\n**Nobody has published weights yet.** `create_model` builds the network untrained."


def _facts(card: Card) -> str:
    pruning = "none"
    if card.ps or card.t != card.T:
        pruning = f"DSTSP, ps={card.ps}: that share of the tokens is dropped; t={card.t} of {card.T} steps are kept"
    rows = [
        ("data set", card.dataset_text or card.dataset),
        ("input", _input(card)),
        ("mean, std", f"{list(card.mean)}, {list(card.std)}, for pixels in [0, 1]" if card.mean else ""),
        ("time steps T", str(card.T)),
        ("pruning", pruning),
        ("parameters", f"{card.parameters:,}" if card.parameters else ""),
        ("licence of the weights", card.license),
        ("repository", f"{card.repo_id} at {card.revision}" if card.is_published else ""),
    ]
    rows += [(name, f"{r.size_bytes:,} bytes, SHA-256 `{r.sha256}`") for name, r in sorted(card.files.items())]
    return "| | |\n|---|---|\n" + "\n".join(f"| {key} | {value} |" for key, value in rows if value)


def _usage(card: Card) -> str:
    known = WEIGHTS in card.files
    place = card.name if card.repo_id.startswith(f"{OURS}/") else card.repo_id or f"path/to/{card.name}"
    load = f'net = from_pretrained("{place}")' if known else f'net = create_model("{card.name}")  # untrained'
    call = "from_pretrained" if known else "create_model"
    c, h, w = card.input_size
    shape = f"({card.T}, 8, {c}, {h}, {w})" if c == 2 else f"(8, {c}, {h}, {w})"
    run = f"logits = net(torch.randn{shape})" + ("  # net.card.preprocess(images) normalises" if card.mean else "")
    needs = ["import torch"]
    if _task(card) == "object-detection":
        run, needs = 'found = net.predict(["photo.jpg"])  # boxes, scores and labels of each picture', []
    code = [*needs, f"from snntorch_smixer import {call}", "", load, run]
    return "\n".join(["## Use", "", "```python", *code, "```"])


def _measured(card: Card) -> str:
    if not card.measured:
        return ""
    lines = [
        "## Measured by us",
        "",
        "| metric | value | on | command | seed | versions |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {m.metric} | {_value(m)} | {m.dataset}, {m.split}, {m.samples:,} samples | `{m.command}` | {m.seed} | "
        f"{m.versions} |"
        for m in card.measured
    ]
    return "\n".join(lines)


def _reported(card: Card) -> str:
    if not card.reported:
        return ""
    note = "Not measured here, and not results of these weights."
    lines = ["## Reported in the paper", "", note, "", "| metric | value | on | source |", "|---|---|---|---|"]
    lines += [f"| {r.metric} | {r.value:g} {r.unit} | {r.dataset} | {r.source} |" for r in card.reported]
    return "\n".join(lines)


def _training(card: Card) -> str:
    return f"## Train\n\n```\n{card.trains}\n```" if card.trains else ""


def _citation(card: Card) -> str:
    return f"## Paper\n\n{card.paper}" if card.paper else ""


def _input(card: Card) -> str:
    c, h, w = card.input_size
    return f"{h} x {w}, {c} channel{'s' if c > 1 else ''}"


def _value(m: Measured) -> str:
    return f"{m.value:.2%}" if m.metric.endswith("accuracy") or m.metric.startswith("mAP") else f"{m.value:g}"
