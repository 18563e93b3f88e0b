"""Bundles and Spaces to the Hugging Face Hub, with the token of its own login and nothing that must not go."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from kit.errors import BundleError, raise_faults
from kit.sharing.space_files import MOST_BYTES, files_of, folder_faults

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
MODEL_BYTES = 50_000_000_000


def upload(
    folder: Path, name: str, *, kind: Literal["model", "space"], private: bool, dry_run: bool
) -> list[tuple[str, int]]:
    """Upload a folder as one commit to a repository, which is made where there is none.

    Args:
        folder: The folder.
        name: ORG/NAME.
        kind: "model" or "space".
        private: Whether a repository that is new is private.
        dry_run: Upload nothing; only look.

    Returns:
        What goes, or would go: names and bytes.

    Raises:
        BundleError: a name that is none, files that must not go (all at once), no login, or what the Hub says.
    """
    if not NAME.fullmatch(name):
        raise BundleError.of(name, "is no repository's name", "write ORG/NAME, as in its address on the Hub")
    raise_faults(folder_faults(folder, most=MOST_BYTES if kind == "space" else MODEL_BYTES), BundleError)
    files = [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files_of(folder)]
    if dry_run:
        return files
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    more: dict[str, Any] = {"space_sdk": "gradio"} if kind == "space" else {}
    try:
        api.whoami()
        api.create_repo(name, repo_type=kind, private=private, exist_ok=True, **more)
        api.upload_folder(
            repo_id=name, folder_path=folder, repo_type=kind, commit_message="kit push",
            ignore_patterns=["__pycache__/*", ".git/*", ".cache/*"],
        )  # fmt: skip
    except LocalTokenNotFoundError as error:
        raise BundleError.of(name, "cannot be uploaded: nobody is logged in here", "hf auth login") from error
    except HfHubHTTPError as error:
        fix = "look whether the login may write there (hf auth whoami)"
        raise BundleError.of(name, f"the Hub refuses it: {str(error).splitlines()[0]}", fix) from error
    except Exception as error:  # the Hub's client has had three HTTP libraries: requests, httpx, httpx2
        what = f"the Hub cannot be reached ({type(error).__name__})"
        raise BundleError.of(name, what, "try again with a network") from error
    return files
