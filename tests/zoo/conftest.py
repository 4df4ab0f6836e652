"""Model folders to load from, a zoo of our own, and a Hub on loopback."""

import copy
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from huggingface_hub import close_session, constants

from snntorch_smixer.cards.card import Card, Measured, Reported
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.zoo import locate, registry
from tests.zoo.hub_server import TOKEN, Hub

MEASURED = Measured("top-1 accuracy", 0.875, "noise", "all test images", 8, 'train "tiny"', 0, "torch 2")
REPORTED = Reported("top-1 accuracy", 95.5, "%", "noise", "A paper, table 1")


def card_of(net: SMixerNet, **changes: object) -> Card:
    """A full card for a network that `firing_net` made."""
    prune, c = net.live_config().prune, net.config
    values: dict[str, object] = {
        "name": "tiny",
        "summary": "A network for tests.",
        "license": "MIT",
        "T": c.T,
        "ps": 0.0 if prune is None else prune.ps,
        "t": c.T if prune is None or prune.t is None else prune.t,
        "input_size": (c.in_channels, *c.img_size),
        "dataset": "noise",
        "mean": (0.5, 0.25),
        "std": (0.5, 1.0),
        "classes": ("a", "b", "c", "d", "é"),
        "trains": "smixer train tiny --data DATA",
    }
    return Card(**{**values, **changes})


@pytest.fixture
def save_model() -> Callable[..., Path]:
    """Writes a network with a full card, results included, to a model folder and returns the folder.

    Keywords are fields of the card. Results belong to bytes, so the card is saved twice.
    """

    def save(net: SMixerNet, folder: Path, **changes: object) -> Path:
        card = net.save_pretrained(folder, card=card_of(net))
        values = {"measured": (MEASURED,), "reported": (REPORTED,), "files": card.files, **changes}
        net.save_pretrained(folder, card=card_of(net, **values))
        net.card = None
        return folder

    return save


_MADE: dict[str, tuple[SMixerNet, Mapping[str, bytes]]] = {}


@pytest.fixture
def made(
    firing_net: Callable[..., SMixerNet], save_model: Callable[..., Path], tmp_path: Path
) -> Callable[..., SMixerNet]:
    """Writes a model folder with a full card, and gives its network; each kind is made once and copied.

    Keywords are those of `firing_net`. What a test draws at random does not depend on it.
    """

    def make(folder: Path, **changes: object) -> SMixerNet:
        key = repr(sorted(changes.items()))
        if key not in _MADE:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(7)
                net = firing_net(**changes)
            _MADE[key] = net, files_of(save_model(net, tmp_path / "made once"))
            shutil.rmtree(tmp_path / "made once")
        net, files = _MADE[key]
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return copy.deepcopy(net)

    return make


@pytest.fixture
def own_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the shipped models."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    for module in (registry, locate):
        monkeypatch.setattr(module, "zoo_folder", lambda: folder)
    return folder


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Points the Hub's client at an address, logged in, with an empty cache in ``tmp_path / "cache"``."""
    for key in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_ETAG_TIMEOUT"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)

    def point(endpoint: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + template)

    return point


@pytest.fixture
def hub(online: Callable[[str], None]) -> Iterator[Hub]:
    """A running Hub that the client is pointed at."""
    with Hub() as server:
        online(server.endpoint)
        close_session()
        yield server
        close_session()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection, and every look-up of a host, fails the test."""

    def refuse(*args: object, **settings: object) -> None:
        pytest.fail(f"the network was used: {args}")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


@pytest.fixture
def published(hub: Hub, made: Callable[..., SMixerNet], tmp_path: Path) -> str:
    """The commit of a model that lies on the Hub as org/tiny, and in ``tmp_path / "tiny"``."""
    made(tmp_path / "tiny")
    return hub.add("org/tiny", files_of(tmp_path / "tiny"))


def files_of(folder: Path) -> Mapping[str, bytes]:
    """Contents of a model folder, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
