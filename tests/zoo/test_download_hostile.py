"""A server that is no Hub: its headers become no path, its bodies end at a bound, and every failure is a CardError."""

import gzip

import pytest

from snntorch_smixer import from_pretrained
from snntorch_smixer.errors import CardError

OUTSIDE = "../../../../outside"


@pytest.fixture
def twist(hub, published, monkeypatch):
    """Sets a function of (handler, status, headers, content) that changes what the Hub of org/tiny answers."""
    handler = hub.server.RequestHandlerClass
    plain = handler.answer

    def set_up(change):
        def answer(self, status, headers, content=b""):
            plain(self, *change(self, status, dict(headers), content))

        monkeypatch.setattr(handler, "answer", answer)

    return set_up


def refused(cache):
    with pytest.raises(CardError) as caught:
        from_pretrained("org/tiny", cache_dir=cache)
    return str(caught.value)


@pytest.mark.parametrize("etag", [OUTSIDE, "", ".", "a" * 39, "A" * 40, "a" * 64 + "/..", "g" * 40, "a" * 41])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "card.toml"])
def test_an_etag_is_checked_before_it_is_a_path(twist, tmp_path, name, etag):
    def change(handler, status, headers, content):
        if handler.path.endswith(name):
            headers |= {"ETag": f'"{etag}"', "X-Linked-ETag": f'"{etag}"'}
        return status, headers, content

    cache, before = tmp_path / "deep" / "cache", {*tmp_path.rglob("*")}
    twist(change)
    assert "ETag of" in refused(cache)
    assert all(path == cache.parent or path.is_relative_to(cache) for path in {*tmp_path.rglob("*")} - before)


@pytest.mark.parametrize("commit", ["../../evil", "b" * 40, "main", "A" * 40])
def test_a_commit_that_changes_between_requests_is_refused(twist, tmp_path, commit):
    asked = []

    def change(handler, status, headers, content):
        asked.append(handler.path)
        return status, headers | ({"X-Repo-Commit": commit} if len(asked) > 2 else {}), content

    twist(change)
    assert "commit" in refused(tmp_path / "cache")
    assert not [*(tmp_path / "cache").rglob("model.safetensors")]


@pytest.mark.parametrize("size", ["1000000000000000", "-1", "99999999999999999999999"])
def test_an_absurd_size_is_refused(twist, tmp_path, size):
    def change(handler, status, headers, content):
        if "resolve" in handler.path:
            headers["X-Linked-Size"] = size
        return status, headers, content

    twist(change)
    refused(tmp_path / "cache")
    assert not [*(tmp_path / "cache").rglob("*.incomplete")]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "card.toml"])
def test_a_body_that_is_longer_than_announced_is_stopped(twist, hub, published, tmp_path, name):
    """The body goes on for 40 MiB where HEAD announced a few bytes; without a size in the GET it is read to its end."""
    whole = hub.repos["org/tiny"].commits[published][name]
    sent = []

    def change(handler, status, headers, content):
        if handler.command == "GET" and content == whole:
            sent.append(name)
            headers["Content-Length"] = str(40 << 20)
            content += bytes((40 << 20) - len(content))
        return status, headers, content

    twist(change)
    assert "so it was stopped" in refused(tmp_path / "cache")
    assert sent == [name]
    assert sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file()) < 1 << 20


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "card.toml"])
def test_compressed_bytes_are_never_unpacked(twist, hub, published, tmp_path, name):
    whole = hub.repos["org/tiny"].commits[published][name]

    def change(handler, status, headers, content):
        if handler.command == "GET" and content == whole:
            content = gzip.compress(bytes(1 << 20))
            headers |= {"Content-Encoding": "gzip", "Content-Length": str(len(content))}
        return status, headers, content

    twist(change)
    assert "compressed bytes that nobody asked for" in refused(tmp_path / "cache")


@pytest.mark.parametrize("target", ["/loop", "file:///etc/passwd", "http://[::1", "//", "ftp://127.0.0.1/x"])
def test_a_redirect_to_nowhere_is_a_card_error(twist, tmp_path, monkeypatch, target):
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def change(handler, status, headers, content):
        if handler.command == "GET":
            return 302, {"Location": target}, b""
        return status, headers, content

    twist(change)
    refused(tmp_path / "cache")
