"""Model folders from the Hub, through its own cache: pinned, checked, and fast to say that there is no network."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from snntorch_smixer.cards.card import CARD, CONFIG, WEIGHTS, Card, FileRecord, is_commit, is_repo_id
from snntorch_smixer.cards.folder import PICKLES, check_file, record_of
from snntorch_smixer.cards.reach import is_reachable, transport_errors
from snntorch_smixer.errors import CardError

_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")


def download(
    repo_id: str,
    *,
    revision: str = "main",
    cache_dir: str | Path | None = None,
    files: Mapping[str, FileRecord] | None = None,
) -> Path:
    """Folder of the cache that holds a model of the Hub, with every byte checked.

    A pinned commit that is in the cache needs no network. A branch or tag is looked up, and taken from the cache where
    the Hub cannot be reached.

    Args:
        repo_id: ``org/name``.
        revision: commit, branch or tag.
        cache_dir: default: that of the Hub's own client.
        files: what the bytes must be; default: what the repository's own card says, and the hashes that the Hub
            announces.

    Raises:
        CardError: no such repository, revision or file, no access, no network, or other bytes than announced; those
            are taken out of the cache again.
    """
    if not is_repo_id(repo_id):
        raise CardError(f"from_pretrained: {repo_id!r} is no repository. Expected org/name. Pass the name on the Hub.")
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise CardError(f"from_pretrained: {revision!r} is no revision. Pass a commit, branch or tag of {repo_id}.")
    cached = _cached(repo_id, revision, cache_dir)
    folder = cached if cached is not None and is_commit(revision) else None
    if folder is None:
        try:
            folder = _fetch(repo_id, revision, cache_dir)
        except _NoAnswer as error:
            if cached is None:
                raise CardError(str(error)) from error
            if not error.wanted:
                warnings.warn(f"{error.why}; {repo_id} at {revision} is taken from the cache.", stacklevel=4)
            folder = cached
    _check(folder, repo_id, files)
    return folder


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


def _fetch(repo_id: str, revision: str, cache_dir: str | Path | None) -> Path:
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
    with _translated(repo_id, revision):
        commit = _commit(repo_id, CONFIG, revision)
        # Asked here first, because the client's own download asks for half a minute where there is no answer.
        _commit(repo_id, WEIGHTS, commit)
        folder = _get(repo_id, CONFIG, revision, cache_dir).parent
        folder = folder if folder.name == commit else _get(repo_id, CONFIG, commit, cache_dir).parent
        _get(repo_id, WEIGHTS, commit, cache_dir)
    with _translated(repo_id, revision, optional=True):
        _get(repo_id, CARD, commit, cache_dir)
    return folder


def _commit(repo_id: str, name: str, revision: str) -> str:
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repo_id, name, revision=revision, endpoint=constants.ENDPOINT)
    commit = get_hf_file_metadata(url, endpoint=constants.ENDPOINT).commit_hash
    if commit is None or not is_commit(commit):
        raise CardError(f"from_pretrained: {constants.ENDPOINT} is no Hub, it names no commit. Check HF_ENDPOINT.")
    return commit


def _get(repo_id: str, name: str, revision: str, cache_dir: str | Path | None) -> Path:
    from huggingface_hub import constants, hf_hub_download

    path = hf_hub_download(
        repo_id,
        name,
        revision=revision,
        cache_dir=cache_dir,
        endpoint=constants.ENDPOINT,
        library_name="snntorch-smixer",
    )
    return Path(path)


@contextmanager
def _translated(repo_id: str, revision: str, *, optional: bool = False) -> Iterator[None]:
    """Errors of the Hub's client as `CardError`; a file that is ``optional`` may be missing."""
    from huggingface_hub import errors

    where = f"from_pretrained: {repo_id} at {revision}"
    failures: tuple[type[Exception], ...] = (errors.HfHubHTTPError, *transport_errors())
    try:
        yield
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
    except errors.HFValidationError as error:
        raise CardError(f"{where}: no repository can be called so: {error}") from error
    except errors.LocalEntryNotFoundError as error:
        raise _failed(where, error) from error
    except errors.EntryNotFoundError as error:
        if not optional:
            raise CardError(
                f"{where}: no {CONFIG} with {WEIGHTS}, so it is no model of this package. Pickled weights "
                f"({', '.join(PICKLES)}) are never loaded; `smixer zoo convert` turns a checkpoint that you trust "
                "into a model."
            ) from error
    except failures as error:
        raise _failed(where, error) from error


def _failed(where: str, error: Exception) -> _NoAnswer:
    return _NoAnswer(f"{where}: the download failed: {error} Try again.", why=f"the download failed: {error}")


def _check(folder: Path, repo_id: str, files: Mapping[str, FileRecord] | None) -> None:
    pinned = files is not None
    try:
        if files is None and (folder / CARD).is_file():
            files = Card.load(folder).files
        for name in (CONFIG, WEIGHTS):
            path, wanted = folder / name, (files or {}).get(name)
            found = _check_announced(path)
            # Weights are large: what was hashed just now is not hashed once more.
            if wanted is not None and found != wanted:
                check_file(path, wanted, owner=repo_id)
    except CardError as error:
        for name in (CONFIG, WEIGHTS) if pinned else (CONFIG, WEIGHTS, CARD):
            _forget(folder / name)
        raise CardError(f"{error} It was taken out of the cache.") from error


def _check_announced(path: Path) -> FileRecord | None:
    """In the cache a file is called as the Hub announced it: large ones by SHA-256, small ones by git's hash.

    Returns:
        What the file was found to be, where it was called by its SHA-256.
    """
    announced, kind, record = path.resolve().name, "SHA-256", None
    if re.fullmatch(r"[0-9a-f]{64}", announced):
        record = record_of(path)
        found = record.sha256
    elif is_commit(announced):
        content, kind = path.read_bytes(), "git hash"
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    else:
        return None
    if found != announced:
        raise CardError(
            f"{path}: {kind} {found[:12]}..., the Hub announced {announced[:12]}...; the file is corrupt. Get it again."
        )
    return record


def _forget(path: Path) -> None:
    """Delete a file of the cache and the link to it."""
    blob = path.resolve()
    path.unlink(missing_ok=True)
    if blob.parent.name == "blobs" and blob.parent.parent == path.parent.parent.parent:
        blob.unlink(missing_ok=True)
