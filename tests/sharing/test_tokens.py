"""Tokens: unguessable, the same after a restart, one for each rater and study, kept where nobody else reads."""

import pytest
from sqlalchemy import text

from kit.humaneval.errors import StoreError
from kit.humaneval.store import Store
from kit.sharing.tokens import Guest, tokens_of


def test_the_same_after_a_restart_and_different_for_everybody(tmp_path):
    def made(name, study="s"):
        with Store(str(tmp_path / name)) as store:
            return tokens_of(store, study, ("ana", "ben"))

    first, again, other, elsewhere = made("a.db"), made("a.db"), made("a.db", "t"), made("b.db")
    assert first.of_rater("ana") == again.of_rater("ana")
    every = [one.of_rater(name) for one in (first, other, elsewhere) for name in ("ana", "ben")]
    every += [one.of_owner() for one in (first, other, elsewhere)]
    assert len(set(every)) == 9
    assert all(len(token) == 26 and token.isalnum() for token in every)
    assert first.guest(first.of_rater("ben")) == Guest("ben")
    assert first.guest(first.of_owner()).is_owner
    for wrong in ("", "ana", first.of_rater("ana")[:-1], other.of_rater("ana"), elsewhere.of_owner(), "ü" * 26):
        assert first.guest(wrong) is None
    assert first.holder("ana", "w") not in {first.holder("ben", "w"), first.holder("ana", "v")}
    assert repr(first).find(first.secret.hex()) == -1


def test_the_secret_lies_beside_the_file_for_its_owner_alone(tmp_path):
    with Store(str(tmp_path / "a.db")) as store:
        tokens_of(store, "s", ("ana",))
        path = tmp_path / "a.db.secret"
        assert path.stat().st_mode & 0o777 == 0o600
        assert [one.name for one in tmp_path.iterdir() if "secret" in one.name] == ["a.db.secret"]
        assert path.read_text() not in (tmp_path / "a.db").read_bytes().decode("latin-1")
        path.chmod(0o640)
        with pytest.raises(StoreError, match="others may read it"):
            tokens_of(store, "s", ("ana",))
        path.chmod(0o600)
        path.write_text("short")
        with pytest.raises(StoreError, match="is no secret of kit's"):
            tokens_of(store, "s", ("ana",))


def test_in_postgresql_it_is_a_row(postgres):
    url = postgres.database()
    with Store(url) as store, Store(url) as other:
        assert tokens_of(store, "s", ("ana",)).of_owner() == tokens_of(other, "s", ("ana",)).of_owner()
        with store.engine.begin() as connection:
            connection.execute(text("UPDATE kit_meta SET value = 'zz' WHERE name = 'arena_secret'"))
        with pytest.raises(StoreError, match="is no secret of kit's"):
            tokens_of(store, "s", ("ana",))
