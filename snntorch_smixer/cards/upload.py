"""Uploading a model folder to the Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from snntorch_smixer.cards.card import CARD, CONFIG, WEIGHTS, is_repo_id
from snntorch_smixer.cards.reach import is_reachable, transport_errors
from snntorch_smixer.cards.readme import README
from snntorch_smixer.errors import CardError

RECIPE = "recipe.toml"
LOG = "log.jsonl"

UPLOADED = (CONFIG, WEIGHTS, CARD, README, RECIPE, LOG)
"""The files of a model folder that are published; whatever else lies there stays."""


@dataclass(frozen=True)
class Published:
    """A commit on the Hub.

    Attributes:
        repo_id: ``org/name``.
        revision: commit, 40 hexadecimal digits.
        url: page of the repository.
    """

    repo_id: str
    revision: str
    url: str


def check_repo_id(where: str, repo_id: str) -> None:
    """Raise `CardError` unless ``repo_id`` is ``org/name``."""
    if not is_repo_id(repo_id):
        raise CardError(f"{where}: {repo_id!r} is no repository. Expected org/name. Pass the name on the Hub.")


def push_folder(folder: Path, repo_id: str, *, private: bool = False, message: str = "Upload model") -> Published:
    """Upload the files of `UPLOADED` from ``folder``, in one commit.

    Args:
        folder: a model folder, as `Network.save_pretrained` writes it.
        repo_id: ``org/name``; made where it does not exist.
        private: of a repository that is made now.
        message: of the commit.

    Raises:
        CardError: no model folder, offline, or the Hub refused.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    check_repo_id("push", repo_id)
    missing = [name for name in (CONFIG, WEIGHTS, CARD) if not (folder / name).is_file()]
    if missing:
        raise CardError(f"push: {folder / missing[0]} does not exist. Save the model with save_pretrained first.")
    if constants.is_offline_mode():
        raise CardError("push: HF_HUB_OFFLINE is set, so nothing is uploaded. Unset it and try again.")
    if not is_reachable(constants.ENDPOINT):
        raise CardError(f"push: {constants.ENDPOINT} cannot be reached. Check the network, and try again.")
    api = HfApi(endpoint=constants.ENDPOINT, library_name="snntorch-smixer")
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, allow_patterns=list(UPLOADED), commit_message=message
        )
    except LocalTokenNotFoundError as error:
        raise CardError("push: not logged in to the Hub. Run `hf auth login`, or set HF_TOKEN.") from error
    except ValueError as error:
        raise CardError(f"push: the Hub does not take {README} of {folder}: {error} Mend the card.") from error
    except HfHubHTTPError as error:
        raise CardError(
            f"push: the Hub refused {repo_id}: {error}. Log in with an account that may write there."
        ) from error
    except transport_errors() as error:
        raise CardError(f"push: {constants.ENDPOINT} cannot be reached: {error}. Check the network.") from error
    return Published(repo_id, commit.oid, f"{constants.ENDPOINT}/{repo_id}")
