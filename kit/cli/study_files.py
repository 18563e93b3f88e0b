"""Where things of a study are: its database, its only study, and the protocol that was served."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import select, update
from sqlalchemy.engine import make_url

from kit.errors import KitError, listed
from kit.humaneval import schema
from kit.humaneval.errors import StoreError, StudyError
from kit.humaneval.open_study import FILE, closed, is_open
from kit.humaneval.protocol import read_study
from kit.humaneval.store import Store
from kit.humaneval.study import Study, changes, protocol_digest


def open_store(url: str) -> Store:
    """Open a store that is there; looking at votes makes no empty database.

    Raises:
        StoreError: there is none, or it cannot be opened.
    """
    url = in_folder(url)
    path = _file(url)
    if path is not None and not path.is_file():
        raise StoreError.of(f"--db {url}", "no such database", "kit study serve, or kit study import, makes one")
    return Store(url)


def in_folder(url: str) -> str:
    """Return the database in a folder that a demo keeps its votes in; anything else as it is."""
    return str(Path(url) / FILE) if "://" not in url and Path(url).is_dir() else url


@contextmanager
def store_to_fill(url: str) -> Iterator[Store]:
    """Open a store, made if it is not there; one that was made for nothing is taken away again."""
    url = in_folder(url)
    path = _file(url)
    new = path is not None and not path.exists()
    store = Store(url)
    try:
        with store:
            yield store
    except KitError:
        if new and path is not None and not _holds_something(url):
            path.unlink(missing_ok=True)
        raise


def _holds_something(url: str) -> bool:
    with Store(url) as store:
        return bool(store.studies())


def only_study(store: Store, name: str) -> str:
    """Return the name of the study that is meant.

    Raises:
        StudyError: there are several, or none.
    """
    there = store.studies()
    if name or len(there) == 1:
        return name or next(iter(there))
    if not there:
        raise StudyError.of("--db", "holds no study", "vote, or import votes")
    raise StudyError.of("--db", "holds several studies", "name one: --study NAME", f"There: {listed(there)}.")


def remember(store: Store, study: Study, path: Path) -> None:
    """Keep in the store where a study's protocol lies, for who exports preferences later."""
    name, value = _key(study.digest), str(path.absolute())
    with schema.told(store.url), store.engine.begin() as connection:
        schema.insert_new(connection, schema.meta, {"name": name, "value": value})
        connection.execute(update(schema.meta).where(schema.meta.c.name == name).values(value=value))


def protocol_of(store: Store, name: str, path: Path | None) -> Study:
    """Return a study in the store with its prompts and outputs, which lie in its YAML.

    Args:
        store: The store.
        name: The study.
        path: The YAML; by default where it was when it was served, or beside an SQLite file.

    Raises:
        StudyError: it is nowhere, or not the one that was voted on; names every difference.
    """
    protocol = store.protocol(name)
    if is_open(protocol):
        file = _file(store.url)
        return closed(store, name, file.parent if file is not None else None)
    found = path or _remembered(store, protocol_digest(protocol))
    if found is None:
        fix = "give --protocol STUDY.yaml (kit.humaneval.protocol.write_study makes one of a study built in Python)"
        raise StudyError.of(
            "--format dpo", "the store keeps votes, not the prompts and outputs that they are about", fix
        )
    study = read_study(found)
    if differing := changes(protocol, study.protocol(), where=str(found)):
        raise StudyError(differing)
    return study


def _remembered(store: Store, digest: str) -> Path | None:
    query = select(schema.meta.c.value).where(schema.meta.c.name == _key(digest))
    with schema.told(store.url), store.engine.connect() as connection:
        value = connection.execute(query).scalar()
    beside = _file(store.url)
    candidates = [Path(value)] if value else []
    candidates += [beside.with_suffix(".yaml")] if beside is not None else []
    return next((one for one in candidates if one.is_file()), None)


def _key(digest: str) -> str:
    return f"source:{digest[:32]}"


def _file(url: str) -> Path | None:
    """Return the file of an SQLite URL; None for a server."""
    engine = schema.engine_of(url)
    parsed = make_url(str(engine.url))
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None
