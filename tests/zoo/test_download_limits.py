"""No network, no answer, two processes at once: fast and clear, and the cache serves what it has."""

import os
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch
from huggingface_hub import constants

from snntorch_smixer import create_model, from_pretrained, load_pretrained
from snntorch_smixer.cards import reach
from snntorch_smixer.cards.reach import is_reachable
from snntorch_smixer.errors import CardError
from tests.zoo.hub_server import Fault

NOBODY = "not in the cache, and {} cannot be reached. Download it once with a network, or name a folder."


@pytest.fixture
def closed_port():
    """Address of a port where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def silent():
    """Address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def stuck(monkeypatch):
    """Looking up a host takes until the test is over."""
    over = threading.Event()

    def hang(*args, **settings):
        over.wait(10)
        raise OSError("the test is over")

    monkeypatch.setattr(reach.socket, "create_connection", hang)
    yield
    over.set()


def refused(name="org/tiny", seconds=2.0):
    began = time.perf_counter()
    with pytest.raises(CardError) as caught:
        from_pretrained(name)
    assert time.perf_counter() - began < seconds
    return str(caught.value)


def test_nothing_listens(online, closed_port):
    online(closed_port)
    assert refused() == "from_pretrained: org/tiny at main is " + NOBODY.format(closed_port)
    assert refused(f"org/tiny@{'0' * 40}") == f"from_pretrained: org/tiny at {'0' * 40} is " + NOBODY.format(
        closed_port
    )


def test_a_host_that_no_name_server_knows(online):
    online("https://hub.invalid")
    assert refused() == "from_pretrained: org/tiny at main is " + NOBODY.format("https://hub.invalid")


def test_a_name_server_that_never_answers(online, stuck):
    online("https://hub.example")
    assert refused() == "from_pretrained: org/tiny at main is " + NOBODY.format("https://hub.example")


def test_offline_says_so_and_opens_no_connection(online, closed_port, monkeypatch, no_network):
    online(closed_port)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    text = refused(seconds=0.5)
    assert text == (
        "from_pretrained: org/tiny at main is not in the cache, and HF_HUB_OFFLINE is set. Download it once with a "
        "network, or name a folder."
    )


def test_shipped_models_need_no_network(no_network, monkeypatch):
    for offline in (True, False):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        assert from_pretrained("smixer-2-64-fmnist")(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


@pytest.mark.parametrize("revision", ["", "@main", "@{}"])
def test_the_cache_serves_without_a_network(hub, published, monkeypatch, revision):
    name = "org/tiny" + revision.format(published)
    net, x = from_pretrained(name), torch.randn(2, 2, 16, 16)
    hub.log.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    began = time.perf_counter()
    assert torch.equal(from_pretrained(name)(x), net(x))
    assert time.perf_counter() - began < 2
    assert hub.log == []


def test_the_cache_serves_with_a_warning_when_the_hub_is_gone(hub, published, online, closed_port):
    net, x = from_pretrained("org/tiny"), torch.randn(2, 2, 16, 16)
    online(closed_port)
    began = time.perf_counter()
    with pytest.warns(UserWarning, match="cannot be reached") as caught:
        again = from_pretrained("org/tiny")
    assert time.perf_counter() - began < 2
    assert [str(w.message) for w in caught] == [
        f"{closed_port} cannot be reached; org/tiny at main is taken from the cache."
    ]
    assert torch.equal(again(x), net(x))
    from_pretrained(f"org/tiny@{published}")  # a commit needs no look, so there is no warning


def test_the_warning_points_at_the_call(hub, published, online, closed_port):
    from_pretrained("org/tiny")
    online(closed_port)
    for load in (from_pretrained, lambda name: create_model(name, pretrained=True)):
        with pytest.warns(UserWarning, match="taken from the cache") as caught:
            net = load("org/tiny")
        assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="taken from the cache") as caught:
        load_pretrained(net, "org/tiny")
    assert caught[0].filename == __file__


def test_half_a_model_in_the_cache_is_no_model(hub, published, monkeypatch, tmp_path):
    from_pretrained("org/tiny")
    [weights] = (tmp_path / "cache").glob("*/snapshots/*/model.safetensors")
    weights.unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "is not in the cache, and HF_HUB_OFFLINE is set" in refused()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert from_pretrained("org/tiny").config.num_classes == 5


def test_a_cached_file_that_rots_is_found_and_fetched_again(hub, published, tmp_path):
    from_pretrained("org/tiny")
    [weights] = (tmp_path / "cache").glob("*/snapshots/*/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.resolve().write_bytes(content)
    assert refused(f"org/tiny@{published}").endswith("It was taken out of the cache.")
    assert not weights.exists()
    assert from_pretrained(f"org/tiny@{published}").config.num_classes == 5


def run(code, endpoint, cache, **environment):
    env = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    env |= {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    env |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONWARNINGS": "ignore", **environment}
    return subprocess.Popen([sys.executable, "-c", code], env=env, stdout=-1, stderr=-1, text=True)


LOAD = """
import torch
from snntorch_smixer import from_pretrained
net = from_pretrained("org/tiny")
print(sum(v.double().abs().sum().item() for v in net.state_dict().values()))
"""


def test_two_processes_download_at_once(hub, published, tmp_path):
    both = [run(LOAD, hub.endpoint, tmp_path / "home") for _ in range(2)]
    results = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    net = from_pretrained(tmp_path / "tiny")
    total = sum(v.double().abs().sum().item() for v in net.state_dict().values())
    assert [float(out) for out, _ in results] == [pytest.approx(total), pytest.approx(total)]
    blobs = [path.name for path in (tmp_path / "home" / "hub").glob("*/blobs/*")]
    assert len(blobs) == 3
    assert not [name for name in blobs if name.endswith(".incomplete")]


SILENT = """
import time
began = time.perf_counter()
from snntorch_smixer import from_pretrained
from snntorch_smixer.errors import CardError
began = time.perf_counter()
try:
    from_pretrained("org/tiny")
except CardError as error:
    print(time.perf_counter() - began, error)
"""


def test_a_server_that_never_answers_takes_the_clients_own_limit(silent, tmp_path):
    process = run(SILENT, silent, tmp_path, HF_HUB_ETAG_TIMEOUT="1")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    seconds, text = out.split(" ", 1)
    assert 0.9 < float(seconds) < 3
    assert text.startswith("from_pretrained: org/tiny at main: the download failed: ")


def test_the_cache_serves_while_the_hub_is_down(hub, published):
    """The Hub answers 503 to everything; the branch was loaded before."""
    from_pretrained("org/tiny")
    hub.faults["config.json"] = Fault(status=503, method="HEAD")
    with pytest.warns(UserWarning, match="taken from the cache") as caught:
        from_pretrained("org/tiny")
    text = str(caught[0].message)
    assert text.startswith("the download failed: ")
    assert "503" in text
    assert text.endswith("; org/tiny at main is taken from the cache.")


def test_the_limit_can_be_set(monkeypatch, stuck):
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.1")
    began = time.perf_counter()
    assert not is_reachable("https://hub.example")
    assert time.perf_counter() - began < 0.9


def test_a_proxy_is_what_must_be_there(monkeypatch, online, closed_port, silent):
    online("http://hub.invalid")
    for key in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("http_proxy", silent)
    assert is_reachable("http://hub.invalid")
    monkeypatch.setenv("http_proxy", closed_port.removeprefix("http://"))
    assert not is_reachable("http://hub.invalid")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert is_reachable(silent)
