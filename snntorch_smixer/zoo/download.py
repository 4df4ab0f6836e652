"""Model folders from the Hub, through its own cache: pinned, checked, and fast to say that there is no network."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urljoin, urlsplit

from snntorch_smixer.cards.card import CARD, CONFIG, WEIGHTS, Card, FileRecord, is_commit, is_repo_id
from snntorch_smixer.cards.folder import PICKLES, check_record, read_checked
from snntorch_smixer.cards.reach import is_reachable, transport_errors
from snntorch_smixer.errors import CardError, SMixerError

_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_TRIES = 5
_HOPS = 5
_MAX_SMALL = 1 << 20
"""Bytes of a card or a configuration."""
_MAX_WEIGHTS = 1 << 34
"""Bytes of weights that no card tells the size of."""


@dataclass(frozen=True)
class Downloaded:
    """A model folder of the cache, and the bytes in it that were checked.

    Attributes:
        folder: in the cache.
        card: None where the repository has none.
        contents: by file name, of ``config.json`` and ``model.safetensors``.
    """

    folder: Path
    card: Card | None
    contents: Mapping[str, bytes]


def download(
    repo_id: str,
    *,
    revision: str = "main",
    cache_dir: str | Path | None = None,
    files: Mapping[str, FileRecord] | None = None,
) -> Downloaded:
    """Folder of the cache that holds a model of the Hub, with every byte checked.

    A pinned commit that is in the cache needs no network. A branch or tag is looked up, and taken from the cache where
    the Hub cannot be reached. A file is never longer than its card says; a card, or a configuration without one, has
    at most 1 MiB, and weights without one at most 16 GiB.

    Args:
        repo_id: ``org/name``.
        revision: commit, branch or tag.
        cache_dir: default: that of the Hub's own client.
        files: what the bytes must be; default: what the repository's own card says, and the hashes that the Hub
            announces.

    Raises:
        CardError: no such repository, revision or file, no access, no network, an answer that no Hub gives, or other
            bytes than announced; those are taken out of the cache again.
    """
    if not is_repo_id(repo_id):
        raise CardError(f"from_pretrained: {repo_id!r} is no repository. Expected org/name. Pass the name on the Hub.")
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise CardError(f"from_pretrained: {revision!r} is no revision. Pass a commit, branch or tag of {repo_id}.")
    with _translated(repo_id, revision):
        cached = _cached(repo_id, revision, cache_dir)
    folder = cached if cached is not None and is_commit(revision) else None
    if folder is None:
        try:
            with _translated(repo_id, revision):
                folder = _fetch(repo_id, revision, cache_dir, files)
        except _NoAnswer as error:
            if cached is None:
                raise CardError(str(error)) from error
            if not error.wanted:
                warnings.warn(f"{error.why}; {repo_id} at {revision} is taken from the cache.", stacklevel=4)
            folder = cached
    return _checked(folder, repo_id, files)


class _NoAnswer(CardError):
    """The Hub gave no answer, so that the cache may do: ``why``; ``wanted`` where the user forbade to ask."""

    def __init__(self, text: str, *, why: str, wanted: bool = False) -> None:
        super().__init__(text)
        self.why, self.wanted = why, wanted


def _cached(repo_id: str, revision: str, cache_dir: str | Path | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    # A path is a file that is there; an object that is none says that the Hub has no such file.
    found = [try_to_load_from_cache(repo_id, name, cache_dir, revision) for name in (CONFIG, WEIGHTS, CARD)]
    if isinstance(found[0], str) and isinstance(found[1], str) and found[2] is not None:
        return Path(found[0]).parent
    return None


def _fetch(repo_id: str, revision: str, cache_dir: str | Path | None, files: Mapping[str, FileRecord] | None) -> Path:
    from huggingface_hub import constants

    offline = constants.is_offline_mode()
    if offline or not is_reachable(constants.ENDPOINT):
        why = "HF_HUB_OFFLINE is set" if offline else f"{constants.ENDPOINT} cannot be reached"
        raise _NoAnswer(
            f"from_pretrained: {repo_id} at {revision} is not in the cache, and {why}. Download it once with a "
            "network, or name a folder.",
            why=why,
            wanted=offline,
        )
    commit: str = _announced(repo_id, CONFIG, revision).commit_hash
    weights = _announced(repo_id, WEIGHTS, commit, same=commit)
    place = _Place.of(repo_id, commit, cache_dir)
    with _translated(repo_id, revision, optional=place):
        _get(place, CARD, _MAX_SMALL)
    with _taken_out(place.snapshot, (CONFIG, WEIGHTS, CARD)):
        card = Card.load(place.snapshot) if (place.snapshot / CARD).is_file() else None
        sizes = files if files is not None else card.files if card is not None else {}
        _get(place, CONFIG, _MAX_SMALL, sizes)
        _get(place, WEIGHTS, _MAX_WEIGHTS, sizes, weights)
    place.remember(revision)
    return place.snapshot


@dataclass(frozen=True)
class _Place:
    """Where a commit of a repository lies in the cache; the layout is that of the Hub's client."""

    repo_id: str
    commit: str
    root: Path

    @classmethod
    def of(cls, repo_id: str, commit: str, cache_dir: str | Path | None) -> _Place:
        from huggingface_hub import constants

        return cls(repo_id, commit, Path(cache_dir or constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}")

    @property
    def snapshot(self) -> Path:
        return self.root / "snapshots" / self.commit

    def blob(self, etag: str) -> Path:
        return self.root / "blobs" / etag

    def remember(self, revision: str) -> None:
        """Note which commit a branch or tag is."""
        if revision != self.commit:
            _write(self.root / "refs" / revision, self.commit.encode())

    def lacks(self, name: str) -> None:
        """Note that the commit has no such file."""
        _write(self.root / ".no_exist" / self.commit / name, b"")

    def link(self, name: str, blob: Path) -> None:
        """Let the snapshot have ``blob`` under its name."""
        fresh = self.snapshot / f".{name}.{uuid.uuid4().hex[:8]}"
        fresh.parent.mkdir(parents=True, exist_ok=True)
        try:
            fresh.symlink_to(os.path.relpath(blob, fresh.parent))
        except OSError:  # no links on this file system, or not for this user
            shutil.copyfile(blob, fresh)
        fresh.replace(self.snapshot / name)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    fresh.write_bytes(content)
    fresh.replace(path)


def _announced(repo_id: str, name: str, revision: str, *, same: str = "") -> Any:
    """What the Hub says about a file: commit, hash, size and address, each checked before it becomes a path."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repo_id, name, revision=revision, endpoint=constants.ENDPOINT)
    found = get_hf_file_metadata(url, endpoint=constants.ENDPOINT, library_name="snntorch-smixer")
    if found.commit_hash is None or not is_commit(found.commit_hash):
        raise CardError(f"from_pretrained: {constants.ENDPOINT} is no Hub, it names no commit. Check HF_ENDPOINT.")
    if same and found.commit_hash != same:
        raise CardError(
            f"from_pretrained: {constants.ENDPOINT} names commit {found.commit_hash} where {same} was asked for. "
            "Check HF_ENDPOINT."
        )
    if found.etag is None or not _ETAG.fullmatch(found.etag):
        raise CardError(
            f"from_pretrained: {constants.ENDPOINT} is no Hub, the ETag of {name} is {str(found.etag)[:80]!r} and not "
            "40 or 64 hexadecimal digits. Check HF_ENDPOINT."
        )
    return found


def _get(
    place: _Place, name: str, limit: int, sizes: Mapping[str, FileRecord] | None = None, found: Any = None
) -> None:
    """Bring a file into the cache, unless it is there; at most ``limit`` bytes, or what ``sizes`` says."""
    if (place.snapshot / name).is_file():
        return
    found = found or _announced(place.repo_id, name, place.commit, same=place.commit)
    size, record = found.size, (sizes or {}).get(name)
    if record is not None and size is not None and size > record.size_bytes:
        raise CardError(
            f"{name}: {size} bytes, the card of {place.repo_id} says {record.size_bytes}; the file is another one. Get "
            "it again."
        )
    limit = limit if record is None else record.size_bytes
    if size is not None and not 0 <= size <= limit:
        raise CardError(f"{name} of {place.repo_id}: {size} bytes are announced, at most {limit} are loaded.")
    blob = place.blob(found.etag)
    if not blob.is_file():
        blob.parent.mkdir(parents=True, exist_ok=True)
        partial = blob.with_name(f"{blob.name}.{uuid.uuid4().hex[:8]}.incomplete")
        try:
            with partial.open("xb") as file:
                _receive(name, found, file, limit)
            partial.replace(blob)
        finally:
            partial.unlink(missing_ok=True)
    place.link(name, blob)


def _receive(name: str, found: Any, file: BinaryIO, limit: int) -> None:
    """Write the body of a file, continued where the connection breaks; never more than ``limit`` bytes."""
    for tries_left in reversed(range(_TRIES)):
        try:
            _append(name, found, file, limit)
            break
        except _broken_connections():
            if not tries_left:
                raise
            time.sleep(1)
    if found.size is not None and file.tell() != found.size:
        raise OSError(f"Consistency check failed: {name} has {found.size} bytes, {file.tell()} came.")


def _append(name: str, found: Any, file: BinaryIO, limit: int) -> None:
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    with tqdm(total=found.size, initial=file.tell(), unit="B", unit_scale=True, desc=name, leave=False) as bar:
        for piece in _pieces(found.location, file):
            if file.tell() + len(piece) > limit:
                raise CardError(f"{name}: the server sends more than {limit} bytes, so it was stopped.")
            file.write(piece)
            bar.update(len(piece))


def _pieces(url: str, file: BinaryIO) -> Iterator[bytes]:
    """The body behind ``url`` from where ``file`` ends, as it is sent: neither decompressed nor read beyond need."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    headers = {**build_hf_headers(library_name="snntorch-smixer"), "Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={file.tell()}-"} if file.tell() else {}
    for _ in range(_HOPS):
        if urlsplit(url).netloc != urlsplit(constants.ENDPOINT).netloc:
            headers.pop("authorization", None)  # the token is for the Hub alone
        options: dict[str, Any] = {"headers": headers, "timeout": constants.HF_HUB_DOWNLOAD_TIMEOUT}
        with get_session().stream("GET", url, follow_redirects=False, **options) as answer:
            if answer.is_redirect:
                url = urljoin(url, answer.headers["Location"])
                continue
            if answer.status_code not in (200, 206):
                raise OSError(f"{answer.status_code} {answer.reason_phrase} for {url}")
            if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise CardError(
                    f"from_pretrained: {urlsplit(url).netloc} sends compressed bytes that nobody asked for."
                )
            if answer.status_code == 200:  # the whole of it, though only the rest may have been asked for
                file.seek(0)
                file.truncate()
            yield from answer.iter_raw()
            return
    raise OSError(f"more than {_HOPS} redirects, the last to {url}")


@contextmanager
def _translated(repo_id: str, revision: str, *, optional: _Place | None = None) -> Iterator[None]:
    """Errors of the Hub's client as `CardError`; the card of the place that is ``optional`` may be missing."""
    from huggingface_hub import errors

    where = f"from_pretrained: {repo_id} at {revision}"
    failures: tuple[type[Exception], ...] = (errors.HfHubHTTPError, *transport_errors())
    try:
        yield
    except SMixerError:
        raise
    except errors.GatedRepoError as error:
        raise CardError(
            f"{where}: access is granted on request. Ask for it on the page of {repo_id}, then run `hf auth login`."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CardError(
            f"{where}: no such repository, or a private one. Check the name; for a private one run `hf auth login`."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CardError(f"{where}: no such revision. Pass a commit, branch or tag of {repo_id}.") from error
    except errors.LocalEntryNotFoundError as error:
        raise _failed(where, error) from error
    except errors.EntryNotFoundError as error:
        if optional is not None:
            optional.lacks(CARD)
        else:
            raise CardError(
                f"{where}: no {CONFIG} with {WEIGHTS}, so it is no model of this package. Pickled weights "
                f"({', '.join(PICKLES)}) are never loaded; `smixer zoo convert` turns a checkpoint that you trust "
                "into a model."
            ) from error
    except failures as error:
        raise _failed(where, error) from error
    except Exception as error:  # nobody can say what the client makes of an odd answer
        raise CardError(
            f"{where}: no Hub answers like this ({type(error).__name__}: {error}). Check HF_ENDPOINT."
        ) from error


def _broken_connections() -> tuple[type[Exception], ...]:
    modules = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    return tuple(module.TransportError for module in modules)


def _failed(where: str, error: Exception) -> _NoAnswer:
    return _NoAnswer(f"{where}: the download failed: {error} Try again.", why=f"the download failed: {error}")


def _checked(folder: Path, repo_id: str, files: Mapping[str, FileRecord] | None) -> Downloaded:
    """The files of a folder of the cache, each read once; what is wrong is taken out of the cache."""
    with _taken_out(folder, (CONFIG, WEIGHTS) if files is not None else (CONFIG, WEIGHTS, CARD)):
        card = Card.load(folder) if files is None and (folder / CARD).is_file() else None
        wanted = files if files is not None else card.files if card is not None else {}
        contents = {name: read_checked(folder / name, None, owner=repo_id) for name in (CONFIG, WEIGHTS)}
        for name, content in contents.items():
            _check_announced(folder / name, content)
            if name in wanted:
                check_record(folder / name, content, wanted[name], owner=repo_id)
    return Downloaded(folder, card, contents)


@contextmanager
def _taken_out(folder: Path, names: tuple[str, ...]) -> Iterator[None]:
    """Files are deleted from the cache where one of them is not what it should be."""
    try:
        yield
    except _NoAnswer:
        raise
    except CardError as error:
        for name in names:
            _forget(folder / name)
        raise CardError(f"{error} It was taken out of the cache.") from error


def _check_announced(path: Path, content: bytes) -> None:
    """In the cache a file is called as the Hub announced it: large ones by SHA-256, small ones by git's hash."""
    announced, kind = path.resolve().name, "SHA-256"
    if re.fullmatch(r"[0-9a-f]{64}", announced):
        found = hashlib.sha256(content).hexdigest()
    elif is_commit(announced):
        kind = "git hash"
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    else:
        return
    if found != announced:
        raise CardError(
            f"{path}: {kind} {found[:12]}..., the Hub announced {announced[:12]}...; the file is corrupt. Get it again."
        )


def _forget(path: Path) -> None:
    """Delete a file of the cache and the link to it."""
    blob = path.resolve()
    path.unlink(missing_ok=True)
    if blob.parent.name == "blobs" and blob.parent.parent == path.parent.parent.parent:
        blob.unlink(missing_ok=True)
