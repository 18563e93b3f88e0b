"""Who may come in: one unguessable token for each rater and one for the owner, the same after a restart."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.engine import make_url

from kit.humaneval import schema
from kit.humaneval.errors import StoreError
from kit.humaneval.store import Store

SECRET_BYTES = 32
DIGITS = 26  # of base 32: 130 bits
NAME = "arena_secret"  # in PostgreSQL, the row of kit's own table


@dataclass(frozen=True)
class Guest:
    """Somebody whose token was good.

    Args:
        rater: The rater's name; empty for the owner.
    """

    rater: str

    @property
    def is_owner(self) -> bool:
        """Whether it is the owner, who sees the leaderboard."""
        return not self.rater


@dataclass(frozen=True, repr=False)
class Tokens:
    """The tokens of one study, made from a secret: nothing but the secret has to be kept.

    Args:
        secret: At least 32 random bytes.
        study: The study's name.
        raters: Who gets one.
    """

    secret: bytes
    study: str
    raters: tuple[str, ...]

    def of_rater(self, rater: str) -> str:
        """Return a rater's token."""
        return self._token("rater", rater)

    def of_owner(self) -> str:
        """Return the owner's token."""
        return self._token("owner", "")

    def holder(self, rater: str, window: str) -> str:
        """Return the name under which one of a rater's windows holds tasks, which is told to nobody."""
        return self._token("window", f"{rater}|{window}")

    def guest(self, token: str) -> Guest | None:
        """Return whose token it is, or None; the time that takes tells nothing about the right ones."""
        found = None
        for name in ("", *self.raters):
            right = self.of_rater(name) if name else self.of_owner()
            if hmac.compare_digest(right.encode(), token.encode()):
                found = Guest(name)
        return found

    def _token(self, what: str, name: str) -> str:
        text = f"{what}\n{self.study}\n{name}".encode()
        digest = hmac.new(self.secret, text, hashlib.sha256).digest()
        return base64.b32encode(digest).decode().lower()[:DIGITS]


def tokens_of(store: Store, study: str, raters: Sequence[str]) -> Tokens:
    """Return a study's tokens, from a secret that is made at the first call and kept with the votes.

    Beside an SQLite file it is a file of its own with mode 0600, because the database's file may be everybody's to
    read; in PostgreSQL it is a row, which whoever may read the votes may read.

    Raises:
        StoreError: the secret can be neither read nor written, or others may read its file.
    """
    url = make_url(str(store.engine.url))
    file = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")
    secret = _in_file(Path(f"{url.database}.secret")) if file else _in_store(store)
    return Tokens(secret, study, tuple(raters))


def _in_file(path: Path) -> bytes:
    try:
        # With a name of its own first: whoever is second finds the whole secret or none.
        part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        if not path.exists():
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex(SECRET_BYTES))
            try:
                os.link(part, path)
            except FileExistsError:
                pass
            finally:
                part.unlink()
        if path.stat().st_mode & 0o077:
            what = "others may read it, and whoever reads it can vote as anybody"
            raise StoreError.of(str(path), what, f"chmod 600 {path}, or delete it: links change then")
        return _bytes(str(path), path.read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError) as error:
        what = f"cannot be read or written: {getattr(error, 'strerror', None) or error}"
        raise StoreError.of(str(path), what, "choose another folder for the database") from error


def _in_store(store: Store) -> bytes:
    row = {"name": NAME, "value": secrets.token_hex(SECRET_BYTES)}
    with schema.told(store.url), store.engine.begin() as connection:
        schema.insert_new(connection, schema.meta, row)
        found = connection.execute(select(schema.meta.c.value).where(schema.meta.c.name == NAME)).scalar_one()
    return _bytes(schema.hidden(store.url), str(found))


def _bytes(where: str, text: str) -> bytes:
    try:
        secret = bytes.fromhex(text.strip())
    except ValueError:
        secret = b""
    if len(secret) < SECRET_BYTES:
        raise StoreError.of(where, "is no secret of kit's", "delete it: a new one is made, and links change")
    return secret
