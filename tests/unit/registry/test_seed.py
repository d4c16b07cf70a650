"""Names that Synapse allows, and made-up trees."""

import pytest

from synd.errors import Exists
from synd.paths import ENTITY_NAME
from synd.registry import kinds, seed
from synd.registry.db import Database


class TestAllowedName:
    @pytest.mark.parametrize(
        ("name", "allowed"),
        [
            ("a.txt", "a.txt"),
            ("x=1.txt", "x_1.txt"),
            ("naïve.txt", "na_ve.txt"),
            (" lead", "lead"),
            ("@", "_"),
            ("y" * 300, "y" * 256),
        ],
    )
    def test_refused_signs_become_underscores(self, name, allowed):
        """A name that Synapse accepts stays as it is."""
        assert allowed == seed.allowed_name(name, set())

    def test_sibling_with_the_same_name_gets_a_number(self):
        """Two files whose names fall together are both kept."""
        taken = {"a_b.txt"}

        found = seed.allowed_name("a=b.txt", taken)

        assert found == "a_b (2).txt"
        assert ENTITY_NAME.fullmatch(found)

    def test_number_fits_into_the_longest_name(self):
        """A numbered name is never longer than 256 letters."""
        assert len(seed.allowed_name("z" * 300, {"z" * 256})) == 256


class TestSynthetic:
    @pytest.fixture
    def db(self, tmp_path):
        database = Database(tmp_path / "registry.db")
        yield database
        database.close()

    def test_tree_has_the_wanted_number_of_entities(self, db):
        """Folders and files together are what was asked for; counts agree with the rows."""
        project = seed.synthetic(db, 1000, per_folder=20)

        below = db.all(
            "WITH RECURSIVE below (id, kind) AS (SELECT id, kind FROM entity WHERE parent_id = ?"
            " UNION ALL SELECT e.id, e.kind FROM entity AS e JOIN below ON e.parent_id = below.id)"
            " SELECT kind, count(*) FROM below GROUP BY kind",
            (project,),
        )
        counted = db.all(
            "SELECT parent_id, kind, n FROM child_count WHERE n > 0 ORDER BY parent_id, kind"
        )
        rows = db.all(
            "SELECT parent_id, kind, count(*) FROM entity WHERE parent_id IS NOT NULL"
            " GROUP BY parent_id, kind ORDER BY parent_id, kind"
        )
        assert sum(n for _, n in below) == 1000
        assert rows == counted

    def test_project_of_that_name_is_not_touched(self, db):
        """A second project of the same name is refused."""
        seed.synthetic(db, 10, name="One")

        with pytest.raises(Exists):
            seed.synthetic(db, 10, name="One")
        assert db.one("SELECT count(*) FROM entity WHERE parent_id = ?", (kinds.ROOT,)) == (1,)
