"""``smixer zoo convert``: a published checkpoint as a model folder of ours."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from snntorch_smixer.cards.card import CONFIG, WEIGHTS
from snntorch_smixer.cli.arguments import Commands, add_command, add_json
from snntorch_smixer.cli.printing import print_json
from snntorch_smixer.cli.subject import call
from snntorch_smixer.errors import CardError, SettingError
from snntorch_smixer.models.saving import Blueprint, describe
from snntorch_smixer.zoo.convert import SOURCES, Conversion, convert, looks_like, open_checkpoint

_EXAMPLES = """
  smixer zoo convert checkpoint.safetensors --from spikformer --out my-model
  smixer zoo convert checkpoint.pth --allow-pickle --out my-model           a pickle that you trust; no code of it runs
  smixer zoo convert checkpoint.pth --allow-pickle --from qkformer --heads 8 --T 4
  smixer zoo convert checkpoint.safetensors --upstream published:build --out my-model   compared with the original
"""


def add(commands: Commands) -> None:
    """Add the command."""
    text = "turn a published checkpoint into a model folder"
    parser = add_command(commands, "convert", text=text, examples=_EXAMPLES)
    parser.add_argument("file", type=Path, help="safetensors, or a pickle with --allow-pickle")
    parser.add_argument("--from", dest="source", choices=list(SOURCES), help="default: what its names look like")
    parser.add_argument("--out", type=Path, help="folder to write; without it the file is only checked")
    parser.add_argument("--allow-pickle", action="store_true", help="load a pickle, tensors and plain values only")
    parser.add_argument("--upstream", help="package.module:function that builds the published model, to compare with")
    parser.add_argument("--heads", type=int, help="where the weights do not tell it and it is not the published one")
    parser.add_argument("--T", type=int, help="time steps, where they are not the published ones")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read, convert, compare, write."""
    there = [name for name in (CONFIG, WEIGHTS) if args.out is not None and (args.out / name).exists()]
    if there:
        raise SettingError(f"zoo convert: {args.out / there[0]} exists. Name another folder.")
    checkpoint = open_checkpoint(args.file, allow_pickle=args.allow_pickle)
    source = args.source or looks_like(checkpoint.state)
    if source is None:
        raise CardError(f"{args.file}: its names look like none of {', '.join(SOURCES)}. Pass --from.")
    upstream = None if args.upstream is None else call(args.upstream)
    done = convert(checkpoint.state, source, heads=args.heads, T=args.T, upstream=upstream)
    result = {
        "source": source,
        "entry": checkpoint.entry,
        "config": {"architecture": done.config.architecture, **done.config.to_dict()},
        "parameters": sum(p.numel() for p in done.net.parameters()),
        "dropped": list(done.dropped),
        "verified": done.verified,
        "folder": None if args.out is None else str(args.out),
    }
    if args.out is not None:
        _save(done, args)
    if args.json:
        print_json(result)
    else:
        config = ", ".join(f"{key}={value}" for key, value in done.config.to_dict().items())
        of = f", entry {checkpoint.entry}" if checkpoint.entry else ""
        print(f"{args.file}{of}: {source}, {result['parameters']:,} parameters\n{config}")
        print(f"{len(done.dropped)} tensors that the published code never uses are left out\n{done.verified}")
        print(
            "nothing written; pass --out" if args.out is None else f"{args.out}: written; no licence is in its card yet"
        )
    return 0


def _save(done: Conversion, args: argparse.Namespace) -> None:
    card = describe(Blueprint.of(done.net), {}, None, name=args.out.resolve().name)
    summary = f"Converted from the {done.source} checkpoint {args.file.name}; {done.verified}"
    done.net.save_pretrained(args.out, card=dataclasses.replace(card, summary=summary))
