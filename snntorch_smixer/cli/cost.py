"""``smixer cost``: what a model costs on a chip, and the audit of the paper's figures."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace

from snntorch_smixer.cli import audit_paper, w_prime
from snntorch_smixer.cli.arguments import add_json, add_out, add_pruning
from snntorch_smixer.cli.printing import to_json
from snntorch_smixer.cli.subject import add_subject, check_pruning, load_batch, load_model, pruned
from snntorch_smixer.cost import Assumptions, CostReport, compare, estimate, list_profiles, load_profile, measure
from snntorch_smixer.cost.fits import fit_to_text, fits
from snntorch_smixer.cost.report import BATCH_NORM, STATIC
from snntorch_smixer.errors import SettingError

_TABLES = ("audit-paper", "chips")
"""What is asked for in the place of a model."""

_EXAMPLES = """
examples:
  smixer cost smixer-2-64-fmnist --chip loihi1
  smixer cost smixer-2-64-fmnist --input images.npy --ps 0.3 --t 1       against the net without pruning
  smixer cost my_package.nets:build --shape 4,3,32,32 --json             your own model: a function without arguments
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
    parser.add_argument("--no-fold", action="store_true", help="linear layers in a row apart, and not as one")
    parser.add_argument("--hops", type=float, help="mean hops of a packet between cores")
    parser.add_argument("--latency-ms", type=float, help="time of one inference, for static power")
    parser.add_argument("--rate", type=float, help="w-prime: firing rate of what enters the mixers, if not as measured")
    parser.add_argument("--held", type=float, help="w-prime: share of the spikes that the kept tokens hold")
    parser.add_argument("--fits", action="store_true", help="cores and chips instead of energy")
    parser.add_argument("--strict", action="store_true", help="fail where an operation is not counted")
    parser.add_argument("--format", choices=["text", "json", "csv", "markdown"], help="default: text")
    add_json(parser)
    add_out(parser, "write there instead of the terminal")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, estimate, print."""
    kind = _kind(args)
    shown = _named(args, kind) if args.model in _TABLES else _of_model(args, kind)
    if args.out:
        args.out.write_text(shown, encoding="utf-8")
    else:
        print(shown)
    return 0


def _kind(args: argparse.Namespace) -> str:
    """How it is to be printed; csv and markdown are of a report alone."""
    if args.json and args.format not in (None, "json"):
        raise SettingError(f"cost: got --json and --format {args.format}. Pass one of them.")
    kind = "json" if args.json else args.format or "text"
    other = args.model if args.model in _TABLES else "w-prime" if args.what == "w-prime" else "--fits"
    is_report = args.model not in _TABLES and args.what == "report" and not args.fits
    if kind in ("csv", "markdown") and not is_report:
        raise SettingError(f"cost: {other} has no --format {kind}. Pass --json, or leave it out for text.")
    return kind


def _named(args: argparse.Namespace, kind: str) -> str:
    if args.model == "audit-paper":
        return audit_paper.text() if kind == "text" else to_json(audit_paper.as_dict())
    profiles = [load_profile(name) for name in list_profiles()]
    if kind == "json":
        return to_json([{"name": p.name, "title": p.title, "node": p.node} for p in profiles])
    return "\n".join(f"{p.name:<22}{p.title}, {p.node}" for p in profiles)


def _of_model(args: argparse.Namespace, kind: str) -> str:
    check_pruning("cost", args)
    profile = load_profile(args.chip)
    model, origin = load_model(args.model)
    batch, shown = load_batch(args, model)
    records = measure(model, batch, axes=args.axes, steps=args.steps, strict=args.strict)
    assume = Assumptions(args.static, args.batch_norm, args.hops, args.latency_ms, fold=not args.no_fold)
    if args.what == "w-prime":
        planned = w_prime.plan(records, profile, args.ps, rate=args.rate, held=args.held)
        return w_prime.text(planned) if kind == "text" else to_json(planned.to_dict())
    before = estimate(records, profile, assume=assume)
    if args.fits:
        fit = fits(before.records, profile)
        text = fit_to_text(fit) if kind == "text" else to_json({**asdict(fit), "ok": fit.ok})
    elif args.ps is not None:
        records = measure(pruned(model, args), batch, axes=args.axes, steps=args.steps, strict=args.strict)
        after = estimate(records, profile, assume=replace(assume))
        text = str(compare(before, after)) if kind == "text" else _text(after, kind)
    else:
        text = _text(before, kind)
    return f"{origin}; {shown}\n{text}" if kind == "text" else text


def _text(report: CostReport, kind: str) -> str:
    formats = {"text": report.__str__, "json": report.to_json, "csv": report.to_csv, "markdown": report.to_markdown}
    return formats[kind]()
