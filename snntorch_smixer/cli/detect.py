"""``smixer detect``: train a spiking detector, measure it, and find objects in pictures."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from snntorch_smixer.cli.arguments import Commands, add_command, add_json, add_out, add_quiet
from snntorch_smixer.cli.dataset import check_positive
from snntorch_smixer.cli.printing import print_json, progress
from snntorch_smixer.detect.data import STRIDE, SUFFIXES, BoxData, BoxFolder
from snntorch_smixer.detect.detector import SpikingDetector
from snntorch_smixer.detect.draw import draw_boxes, dropped_tokens
from snntorch_smixer.detect.metrics import evaluate
from snntorch_smixer.errors import SettingError
from snntorch_smixer.extras import need
from snntorch_smixer.pruning.rates import check_rate
from snntorch_smixer.zoo.hub import from_pretrained

FRAMES = (".gif", ".webp", ".apng", ".mp4", ".avi", ".mov", ".mkv", ".webm")
"""Files with several pictures."""

_EXAMPLES = """
  smixer detect train spike-yolo-n-smixer --data DATA --ps 0.2 --t 1 --out runs/detector   through ultralytics
  smixer detect val runs/detector --data DATA                                              mAP50 and mAP50-95
  smixer detect predict spike-yolo-p-person-dstsp --input photos --out found               boxes on each picture
"""


def add(commands: Commands) -> None:
    """Add the command with its three parts."""
    parser = add_command(commands, "detect", text="objects in pictures", examples=_EXAMPLES)
    parts = parser.add_subparsers(required=True, metavar="WHAT")
    _add_train(parts)
    _add_val(parts)
    _add_predict(parts)


def _add_train(parts: Commands) -> None:
    text = "train a detector through ultralytics, whose licence is AGPL-3.0"
    parser = add_command(parts, "train", text=text, examples=_EXAMPLES)
    parser.add_argument("model", help="configuration such as spike-yolo-n-smixer; smixer list shows them")
    parser.add_argument("--data", type=Path, required=True, help="folder with data.yaml, images/ and labels/")
    parser.add_argument("--epochs", type=int, default=100, help="default: 100")
    parser.add_argument("--img-size", type=int, default=320, help="pixels of both sides; default: 320")
    parser.add_argument("--batch-size", type=int, default=16, help="pictures at once; default: 16")
    parser.add_argument("--lr", type=float, default=0.002, help="of AdamW; default: 0.002")
    parser.add_argument("--ps", type=float, help="share of tokens to drop, in [0, 1)")
    parser.add_argument("--t", type=int, help="time steps to keep; default: all")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--device", help="cpu, 0, ...; default: as ultralytics chooses")
    add_out(parser, "folder of the model; default: runs/NAME")
    add_json(parser)
    parser.set_defaults(run=train)


def _add_val(parts: Commands) -> None:
    example = "  smixer detect val runs/detector --data DATA --split train"
    parser = add_command(parts, "val", text="mAP50 and mAP50-95 of a detector", examples=example)
    parser.add_argument("model", help="name, folder or repository of a detector with weights")
    parser.add_argument("--data", type=Path, required=True, help="folder with data.yaml, images/ and labels/")
    parser.add_argument("--split", choices=("train", "val", "test"), default="val", help="default: val")
    parser.add_argument("--batch-size", type=int, default=8, help="pictures at once; default: 8")
    parser.add_argument("--img-size", type=int, help="pixels of both sides; default: that of the training")
    _add_pruning(parser)
    add_json(parser)
    parser.set_defaults(run=val)


def _add_predict(parts: Commands) -> None:
    parser = add_command(parts, "predict", text="find objects and draw their boxes", examples=_EXAMPLES)
    parser.add_argument("model", help="name, folder or repository of a detector with weights")
    parser.add_argument("--input", type=Path, required=True, help="a picture, a folder of pictures, or a film")
    parser.add_argument("--score", type=float, default=0.25, help="least score of a box, in [0, 1]; default: 0.25")
    parser.add_argument("--img-size", type=int, help="pixels of the longer side; default: that of the training")
    parser.add_argument("--dropped", action="store_true", help="dim the tokens that the SMixer blocks drop")
    _add_pruning(parser)
    add_out(parser, "folder of the drawn pictures; default: found", default=Path("found"))
    add_json(parser)
    add_quiet(parser)
    parser.set_defaults(run=predict)


def _add_pruning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ps", type=float, help="share of tokens to drop instead of the model's, in [0, 1)")
    parser.add_argument("--t", type=int, help="time steps to keep instead of the model's")


def train(args: argparse.Namespace) -> int:
    """Train, convert, save."""
    for name, value in (("--epochs", args.epochs), ("--batch-size", args.batch_size)):
        check_positive(name, value)
    _check_size(args.img_size)
    data = BoxFolder.read(args.data)
    data.check()
    from snntorch_smixer.detect import yolo

    out = args.out or Path("runs") / args.model
    model = yolo.SpikeYOLO(f"{args.model.removesuffix('.yaml')}.yaml")
    yaml_file = args.data / "data.yaml" if args.data.is_dir() else args.data
    more = {} if args.device is None else {"device": args.device}
    model.train(
        data=str(yaml_file), epochs=args.epochs, imgsz=args.img_size, batch=args.batch_size, lr0=args.lr, ps=args.ps,
        t=args.t, seed=args.seed, optimizer="AdamW", nbs=args.batch_size, plots=False, exist_ok=True,
        project=str(out.resolve().parent), name=out.name, **more,
    )  # fmt: skip
    net = yolo.detector_of(model, names=data.names, img_size=(args.img_size, args.img_size))
    card = net.save_pretrained(out)
    if args.json:
        print_json({"card": dataclasses.asdict(card), "out": str(out)})
    else:
        print(f"{out}: {card.parameters:,} parameters; smixer detect val {out} --data {args.data} measures it")
    return 0


def val(args: argparse.Namespace) -> int:
    """Load, measure, print."""
    check_positive("--batch-size", args.batch_size)
    net = _detector(args)
    data = BoxFolder.read(args.data)
    names = net.card.classes if net.card else ()
    if names:
        data = data.only(names)
    elif len(data.names) != net.config.num_classes:
        raise SettingError(
            f"detect val: the model has {net.config.num_classes} classes without names, the data have "
            f"{len(data.names)}. Use data of its classes."
        )
    data.check((args.split,))
    size = args.img_size or max(net.config.img_size)
    found = evaluate(net, BoxData(data, args.split, size=size), batch_size=args.batch_size)
    if args.json:
        print_json({"model": args.model, "split": args.split, "size": size, **dataclasses.asdict(found)})
    else:
        print(f"{args.model} on {args.split} at {size} px: {found}")
    return 0


def predict(args: argparse.Namespace) -> int:
    """Load, find, draw."""
    if not 0 <= args.score <= 1:
        raise SettingError(f"detect predict: --score {args.score} is outside [0, 1]. Pass 0.25.")
    net = _detector(args)
    names = net.card.classes if net.card else ()
    pictures = _pictures(args.input)
    first = next(pictures)  # what is not there is refused before a folder is made
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    # Drawn beside the folder first, so that a picture that cannot be read leaves nothing half done.
    with TemporaryDirectory(dir=args.out, prefix=".smixer-") as scratch:
        for name, picture in progress(chain([first], pictures), args, text="detect", unit="picture"):
            found = net.predict([picture], score=args.score, size=args.img_size)[0]
            dropped = dropped_tokens(net, picture, size=args.img_size) if args.dropped else None
            draw_boxes(picture, found, names=names, dropped=dropped).save(Path(scratch) / f"{name}.png")
            rows.append({"picture": name, "boxes": _as_rows(found, names)})
        for file in Path(scratch).iterdir():
            file.replace(args.out / file.name)
    (args.out / "found.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    if args.json:
        print_json(rows)
    else:
        total = sum(len(row["boxes"]) for row in rows)
        print(f"{args.out}: {total} boxes in {len(rows)} pictures; found.json lists them")
    return 0


def _as_rows(found: dict[str, Any], names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [
        {
            "label": names[int(label)] if int(label) < len(names) else int(label),
            "score": round(float(score), 4),
            "box": [round(float(edge), 1) for edge in box],
        }
        for box, score, label in zip(found["boxes"], found["scores"], found["labels"], strict=True)
    ]


def _detector(args: argparse.Namespace) -> SpikingDetector:
    _check_size(args.img_size)
    if args.ps is not None:
        check_rate(args.ps)
    net = from_pretrained(args.model)
    if not isinstance(net, SpikingDetector):
        raise SettingError(f"detect: {args.model} is a {type(net).__name__}, expected a detector. Run smixer list.")
    if args.ps is not None:
        net.dstsp.ps = args.ps
    if args.t is not None:
        net.dstsp.t = args.t
    return net


def _check_size(size: int | None) -> None:
    if size is not None and (size < STRIDE or size % STRIDE):
        raise SettingError(
            f"detect: --img-size {size} is no multiple of {STRIDE}. Pass {max(STRIDE, -(-size // STRIDE) * STRIDE)}."
        )


def _pictures(place: Path) -> Iterator[tuple[str, Any]]:
    """Name and picture of each; a film gives its frames."""
    if place.is_dir():
        files = sorted(p for p in place.iterdir() if p.suffix.lower() in SUFFIXES)
        if not files:
            raise SettingError(f"detect: no picture in {place}. Expected files {', '.join(SUFFIXES)}.")
        stems = [file.stem for file in files]
        yield from ((f.stem if stems.count(f.stem) == 1 else f.name, f) for f in files)
    elif not place.is_file():
        raise SettingError(f"detect: there is no file {place}.")
    elif place.suffix.lower() in FRAMES:
        yield from ((f"{place.stem}-{i:05d}", frame) for i, frame in enumerate(_frames(place)))
    else:
        yield place.stem, place


def _frames(place: Path) -> Iterator[Any]:
    if place.suffix.lower() in FRAMES[:3]:
        sequence = need("PIL.ImageSequence", extra="vision")
        with need("PIL.Image", extra="vision").open(place) as film:
            yield from (frame.convert("RGB") for frame in sequence.Iterator(film))
        return
    opencv = need("cv2", extra="detect")
    film = opencv.VideoCapture(str(place))
    count = 0
    while True:
        there, frame = film.read()
        if not there:
            break
        count += 1
        yield frame[:, :, ::-1].copy()
    film.release()
    if not count:
        raise SettingError(f"detect: {place} cannot be read as a film. Convert it to MP4 or GIF.")
