"""``smixer cost``: what a model costs on a chip, and the audit of the paper's figures."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from snntorch_smixer.cli import audit_paper, w_prime
from snntorch_smixer.cli.arguments import add_pruning
from snntorch_smixer.cli.subject import add_subject, check_pruning, load_batch, load_model, pruned
from snntorch_smixer.cost import Assumptions, CostReport, compare, estimate, list_profiles, load_profile, measure
from snntorch_smixer.cost.fits import fits
from snntorch_smixer.cost.report import fit_to_text
from snntorch_smixer.cost.terms import BATCH_NORM, STATIC

_EXAMPLES = """
examples:
  smixer cost smixer-2-64-fmnist --chip loihi1
  smixer cost smixer-2-64-fmnist --input images.npy --ps 0.3 --t 1       against the net without pruning
  smixer cost my_package.nets:build --shape 4,3,32,32 --format json      your own model: a function without arguments
  smixer cost smixer-4-384 --fits --chip loihi1                          cores and chips that it needs
  smixer cost smixer-8-768 w-prime --ps 0.3 --chip loihi1                three ways of pruning W_M
  smixer cost audit-paper                                                the paper's energies and FLOPs, rebuilt
  smixer cost chips                                                      the profiles
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "cost",
        help="energy, events and cores of a model on a chip",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_subject(parser)
    parser.add_argument("what", nargs="?", choices=["report", "w-prime"], default="report", help="default: report")
    parser.add_argument("--chip", default="horowitz45-fp32", help="a profile (see `smixer cost chips`) or a .toml file")
    add_pruning(parser, "prune the model, and compare")
    parser.add_argument("--static", default="as_run", choices=STATIC, help="layers of an image")
    parser.add_argument("--batch-norm", default="fold", choices=BATCH_NORM)
    parser.add_argument("--hops", type=float, help="mean hops of a packet between cores")
    parser.add_argument("--latency-ms", type=float, help="time of one inference, for static power")
    parser.add_argument("--rate", type=float, help="w-prime: firing rate of what enters the mixers, if not as measured")
    parser.add_argument("--held", type=float, help="w-prime: share of the spikes that the kept tokens hold")
    parser.add_argument("--fits", action="store_true", help="cores and chips instead of energy")
    parser.add_argument("--strict", action="store_true", help="fail where an operation is not counted")
    parser.add_argument("--format", default="text", choices=["text", "json", "csv", "markdown"])
    parser.add_argument("--output", type=Path, help="file instead of the terminal")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, estimate, print."""
    if args.model == "audit-paper":
        print(audit_paper.text())
        return 0
    if args.model == "chips":
        profiles = [load_profile(name) for name in list_profiles()]
        print("\n".join(f"{p.name:<22}{p.title}, {p.node}" for p in profiles))
        return 0
    check_pruning("cost", args)
    profile = load_profile(args.chip)
    model, origin = load_model(args.model)
    batch, shown = load_batch(args, model)
    records = measure(model, batch, axes=args.axes, steps=args.steps, strict=args.strict)
    assume = Assumptions(args.static, args.batch_norm, args.hops, args.latency_ms)
    if args.what == "w-prime":
        print(w_prime.text(records, profile, args.ps, rate=args.rate, held=args.held))
        return 0
    before = estimate(records, profile, assume=assume)
    text = fit_to_text(fits(records, profile)) if args.fits else _text(before, args.format)
    if args.ps is not None and not args.fits:
        records = measure(pruned(model, args), batch, axes=args.axes, steps=args.steps, strict=args.strict)
        after = estimate(records, profile, assume=replace(assume))
        text = str(compare(before, after)) if args.format == "text" else _text(after, args.format)
    if args.format == "text":
        text = f"{origin}; {shown}\n{text}"
    if args.output:
        args.output.write_text(text, encoding="utf-8")
    else:
        print(text)
    return 0


def _text(report: CostReport, kind: str) -> str:
    formats = {"text": report.__str__, "json": report.to_json, "csv": report.to_csv, "markdown": report.to_markdown}
    return formats[kind]()
