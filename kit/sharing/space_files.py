"""What may go to the world: files by size, and nothing that looks like a secret or tells about this machine."""

from __future__ import annotations

import re
from pathlib import Path

from kit.errors import Fault

STATIC = "space.json"  # what a static Space's page reads first
MOST_BYTES = 1_000_000_000  # of a Space's repository
TEXT_BYTES = 5_000_000  # of a file that is looked through; larger ones are weights and pictures
SECRETS = {
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{30,}"),
    "an OpenAI or Anthropic key": re.compile(r"\bsk-(?:ant-|proj-)?[A-Za-z0-9_-]{32,}"),
    "an AWS key": re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a GitHub token": re.compile(r"\b(?:ghp|gho|ghs|github_pat)_[A-Za-z0-9_]{30,}"),
    "a Google key": re.compile(r"\bAIza[A-Za-z0-9_-]{35}"),
    "a Slack token": re.compile(r"\bxox[abpr]-[A-Za-z0-9-]{20,}"),
    "a private key": re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----"),
}
NAMES = re.compile(r"(^\.env|\.pem$|\.key$|^id_(rsa|ed25519|ecdsa)|^\.netrc$|^\.git-credentials$|\.secret$|\.db$)")
# Somebody's home, in a text: it names a person. Emscripten gives every program that it compiles a /home/web_user.
HOME = re.compile(r"(?:/home/|/Users/|C:\\\\?Users\\\\?)(?!user/|runner/|web_user\b)([A-Za-z0-9._-]+)")


def is_static(folder: Path) -> bool:
    """Tell whether a folder is a static Space's."""
    return all((folder / name).is_file() for name in ("README.md", "index.html", STATIC))


def folder_faults(folder: Path, *, most: int = MOST_BYTES) -> list[Fault]:
    """Return what must not go to the world, or cannot: all of it at once.

    Args:
        folder: What would be uploaded.
        most: Bytes that it may have.
    """
    faults: list[Fault] = []
    total = 0
    for path in files_of(folder):
        name = path.relative_to(folder).as_posix()
        size = path.stat().st_size
        total += size
        if path.is_symlink():
            faults.append(Fault(name, "is a link, which may lead out of the folder", "put the file itself there"))
            continue
        if NAMES.search(path.name):
            faults.append(Fault(name, "has a name that files with secrets have", "move it out of the folder"))
        if size <= TEXT_BYTES and (text := _text(path)) is not None:
            faults += _in_text(name, text)
    if total > most:
        what = f"has {total / 1e6:.0f} MB, and a repository takes {most / 1e6:.0f}"
        faults.append(
            Fault(str(folder.name), what, "use a smaller copy of the bundle (kit quantize), or fewer pictures")
        )
    return faults


def files_of(folder: Path) -> list[Path]:
    """Return the files that would be uploaded: all but caches of Python and of git."""
    left = {"__pycache__", ".git", ".cache"}
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and not left & set(path.relative_to(folder).parts)
    )


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):
        return None


def _in_text(name: str, text: str) -> list[Fault]:
    faults = []
    for what, pattern in SECRETS.items():
        if found := pattern.search(text):
            line = text.count("\n", 0, found.start()) + 1  # where, but never what
            faults.append(
                Fault(f"{name}: line {line}", f"looks like {what}", "take it out, and revoke it where it was made")
            )
    if found := HOME.search(text):
        line = text.count("\n", 0, found.start()) + 1
        what = "names a home folder of this machine"
        fix = "make the bundle again from a source that others have (a part, hub:, hf:), or from another folder"
        faults.append(Fault(f"{name}: line {line}", what, fix))
    return faults
