"""The database file: its schema by every path, its errors in our words, one writer that cannot get stuck."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from synd.errors import CacheFull, ConfigError, StoreError
from synd.jobs.queue import Queue
from synd.store import meta
from synd.store.connect import Store
from synd.store.migrations import MIGRATIONS, SCHEMA_VERSION

OLDER = Path(__file__).parents[2] / "fixtures" / "schema"
"""``1.sql`` and so on: the schemas that releases wrote."""


def schema(path: Path) -> list[tuple[str, str]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
    # Comments are for people, and may become clearer without a new schema.
    bare = [(name, re.sub(r"--[^\n]*", "", sql or "")) for name, sql in rows]
    return [(name, " ".join(sql.split())) for name, sql in bare]


class TestSchema:
    def test_migrations_are_numbered_up_to_the_present_schema(self):
        """Each step leads to the next number, and the last one to what schema.sql makes."""
        assert list(range(2, SCHEMA_VERSION + 1)) == [number for number, _ in MIGRATIONS]

    @pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
    def test_open_of_every_older_schema_ends_in_the_same_tables(self, tmp_path, version):
        """Whatever release wrote the file, the tables are those of a new one."""
        Store(tmp_path / "new.db").close()
        old = tmp_path / "old.db"
        if version == SCHEMA_VERSION:
            Store(old).close()
        else:
            with contextlib.closing(sqlite3.connect(old)) as db:
                db.executescript((OLDER / f"{version}.sql").read_text())
                db.execute(f"PRAGMA user_version = {version}")
        Store(old).close()

        assert schema(tmp_path / "new.db") == schema(old)
        with contextlib.closing(sqlite3.connect(old)) as db:
            assert (SCHEMA_VERSION,) == db.execute("PRAGMA user_version").fetchone()

    def test_open_of_an_older_file_keeps_its_jobs_and_what_ran_may_be_taken_up(self, tmp_path):
        """An upgrade loses no work: what the old daemon was running has no holder."""
        path = tmp_path / "old.db"
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.executescript((OLDER / "2.sql").read_text())
            db.executemany(
                """INSERT INTO job (id, kind, subject, arguments, state, created_ns, started_ns, problem)
                VALUES (?, 'prefetch', 's', '{"entities": [1]}', ?, ?, ?, ?)""",
                [("a", "running", 1, 5, None), ("b", "failed", 2, 6, '{"title": "no"}')],
            )
            db.execute("PRAGMA user_version = 2")
            db.commit()
        store = Store(path)
        queue = Queue(store)
        lost = queue.reclaim(lambda owner: True)

        assert ["a"] == [job.id for job in lost]
        assert {"entities": [1]} == queue.newest("a").arguments
        assert ("pending", 2) == (queue.newest("a").state, queue.newest("a").attempt)
        assert {"title": "no"} == queue.get("b").problem
        store.close()

    @pytest.mark.req("S1-42", "S1-44")
    def test_every_index_is_used_by_the_statement_it_names(self, store):
        """The hot look-ups search by index; none reads the whole table."""
        statements = {
            "entity_by_name": "SELECT id FROM entity WHERE parent=1 AND file_name=x'61' AND listed=1",
            "entity_in_folder": "SELECT id, name FROM entity WHERE parent=1 AND listed=1 AND id>0 ORDER BY id",
            "entity_undetailed": "SELECT id FROM entity INDEXED BY entity_undetailed WHERE parent=1 AND listed=1"
            " AND detail_ns <> modified_ns ORDER BY id",
            "folder_by_visit": "SELECT id FROM folder WHERE visited_ns >= 5 AND listed_ns > 0"
            " ORDER BY visited_ns DESC LIMIT 3",
            "job_active": "SELECT id FROM job WHERE workflow_key='k' AND state IN ('pending', 'running')",
            "job_due": "SELECT id FROM job WHERE state='pending' AND waits=0 AND kind='k' AND not_before_ns <= 5"
            " ORDER BY priority, created_ns, id LIMIT 1",
            "job_by_update": "SELECT id FROM job WHERE state='running' ORDER BY updated_ns",
            "job_by_age": "SELECT id, kind FROM job ORDER BY created_ns DESC, id DESC LIMIT 5",
            "job_by_end": "SELECT id FROM job WHERE finished_ns IS NOT NULL ORDER BY finished_ns DESC, id DESC",
            "job_after_needs": "SELECT job FROM job_after WHERE needs='j'",
            "artifact_by_md5": "SELECT digest FROM artifact WHERE md5='m' AND processor='p' AND processor_version=1"
            " AND kind='data'",
            "artifact_by_digest": "SELECT cache_key FROM artifact WHERE digest='d'",
        }
        for index, statement in statements.items():
            plan = " ".join(row[3] for row in store.read.execute(f"EXPLAIN QUERY PLAN {statement}"))
            assert index in plan
            assert "TEMP B-TREE" not in plan


class TestOpening:
    def test_open_again_keeps_the_rows_and_the_mode_is_private(self, tmp_path):
        """A restart finds everything; nobody else may read it."""
        path = tmp_path / "state" / "state.db"
        first = Store(path)
        meta.put(first, "user", "ann")
        first.close()
        again = Store(path)

        assert "ann" == meta.get(again, "user")
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)
        assert 0o700 == stat.S_IMODE(path.parent.stat().st_mode)
        again.close()

    def test_open_of_a_newer_schema_is_refused_with_the_mend(self, tmp_path):
        """An older synd must not write into what it does not know."""
        path = tmp_path / "state.db"
        Store(path).close()
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")

        with pytest.raises(StoreError, match="newer synd") as told:
            Store(path)
        assert "upgrade" in told.value.hint

    @pytest.mark.parametrize(
        "content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\1" * 4080]
    )
    def test_open_of_a_corrupt_file_is_a_store_error_with_the_mend(self, tmp_path, content):
        """The user is told which file to move away."""
        path = tmp_path / "state.db"
        path.write_bytes(content)

        with pytest.raises(StoreError) as told:
            Store(path)
        assert str(path) in str(told.value)
        assert str(path) in told.value.hint

    def test_open_where_the_folder_cannot_be_made_names_it(self, tmp_path):
        """A file in its place is as good as a read-only home."""
        (tmp_path / "in the way").write_text("")

        with pytest.raises(ConfigError, match="in the way") as told:
            Store(tmp_path / "in the way" / "state.db")
        assert "SYND_HOME" in told.value.hint

    def test_open_where_the_file_cannot_be_opened_names_it(self, tmp_path):
        """A folder in its place."""
        (tmp_path / "state.db").mkdir()

        with pytest.raises(ConfigError, match=r"state\.db"):
            Store(tmp_path / "state.db")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root writes where it likes")
    def test_open_in_a_read_only_folder_names_it(self, tmp_path):
        """The mend is to make it writable, or to go elsewhere."""
        folder = tmp_path / "state"
        folder.mkdir(mode=0o500)

        with pytest.raises(ConfigError) as told:
            Store(folder / "state.db")
        assert "SYND_HOME" in told.value.hint

    def test_open_that_fails_leaves_no_descriptor_open(self, tmp_path):
        """A daemon that tries again and again does not run out of them."""
        (tmp_path / "state.db").write_bytes(b"nonsense" * 1000)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            with pytest.raises(StoreError):
                Store(tmp_path / "state.db")

        assert before >= len(os.listdir("/proc/self/fd"))

    def test_path_with_signs_that_mean_something_in_a_uri_is_a_path(self, tmp_path):
        """Question marks, hashes and percent signs in a home folder."""
        store = Store(tmp_path / "a?b#c%41" / "state.db")
        meta.put(store, "user", "ann")

        assert "ann" == meta.get(store, "user")
        store.close()


class TestWriting:
    def test_write_that_raises_changes_nothing(self, store):
        """A transaction is whole or not at all."""
        with pytest.raises(StoreError), store.write() as tx:
            tx.executescript("SAVEPOINT a; INSERT INTO meta VALUES ('user', 'ann'); SELECT no;")

        assert meta.get(store, "user") is None
        meta.put(store, "user", "bob")
        assert "bob" == meta.get(store, "user")

    def test_commit_that_fails_does_not_wedge_the_store(self, store):
        """The next transaction begins as if nothing had been."""
        with store.write() as tx:
            tx.execute(
                "CREATE TABLE late (x INTEGER REFERENCES entity (id) DEFERRABLE INITIALLY DEFERRED)"
            )
        with pytest.raises(StoreError), store.write() as tx:
            tx.execute("INSERT INTO late VALUES (99)")
        meta.put(store, "user", "ann")

        assert "ann" == meta.get(store, "user")
        assert [] == store.read.execute("SELECT x FROM late").fetchall()

    def test_write_on_a_full_disk_says_so_and_the_store_lives_on(self, store):
        """What ended the transaction is told, not what came of it."""
        pages = store.read.execute("PRAGMA page_count").fetchone()[0]
        with store.write() as tx:
            tx.execute("SELECT 1")
        store._writer.execute(f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(CacheFull, match="full") as told, store.write() as tx:
            tx.execute("INSERT INTO meta VALUES ('big', ?)", ("x" * 100_000,))
        store._writer.execute("PRAGMA max_page_count = 100000")
        meta.put(store, "user", "ann")

        assert told.value.hint.startswith("make room")
        assert "ann" == meta.get(store, "user")
        assert meta.get(store, "big") is None

    def test_readers_cannot_write(self, store):
        """A thread's own connection is for reading only."""
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            store.read.execute("DELETE FROM meta")

    def test_every_thread_reads_by_its_own_connection_and_sees_what_is_committed(self, store):
        """Readers neither wait for the writer nor see half of what it does."""
        seen: list[object] = []
        with store.write() as tx:
            tx.execute("INSERT INTO meta VALUES ('user', 'ann')")
            thread = threading.Thread(
                target=lambda: seen.extend([meta.get(store, "user"), id(store.read)])
            )
            thread.start()
            thread.join(5)

        assert seen[0] is None
        assert id(store.read) != seen[1]
        assert "ann" == meta.get(store, "user")

    def test_threads_that_come_and_go_leave_no_connections(self, store):
        """Who calls from ever new threads, as libfuse does, does not run out of open files."""
        for _ in range(40):
            thread = threading.Thread(target=lambda: meta.get(store, "user"))
            thread.start()
            thread.join(5)
        opened = []
        for fd in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                opened.append(os.readlink(fd))

        assert opened.count(str(store.path)) < 20

    def test_closed_store_refuses_in_our_words(self, tmp_path):
        """Late writers at the daemon's end get an error, no crash."""
        store = Store(tmp_path / "state.db")
        store.close()
        store.close()

        with pytest.raises(StoreError, match="closed"):
            meta.put(store, "user", "ann")
        with pytest.raises(StoreError, match="closed"):
            _ = store.read

    def test_check_says_whether_the_file_is_sound(self, store):
        """SQLite's own check, for `synd doctor`."""
        assert store.check() is None
