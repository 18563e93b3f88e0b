"""What can be wrong with a study and with its store."""

from __future__ import annotations

from kit.errors import KitError


class StudyError(KitError):
    """A study, its items or a vote is not as it must be."""


class StoreError(KitError):
    """The store cannot be opened, read or written."""
