"""Settings: file, then environment, then flags; every bad field by name."""

import dataclasses
import tomllib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synd import config
from synd.errors import CacheFull, ConfigError


@pytest.fixture
def env(tmp_path):
    return {"SYND_HOME": str(tmp_path), "HOME": str(tmp_path)}


def write(env, text):
    file = config.folders(env).config_file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


class TestFolders:
    def test_folders_when_home_is_given_lie_under_it(self, tmp_path):
        """One variable moves everything."""
        found = config.folders({"SYND_HOME": str(tmp_path)})

        assert {f.parent for f in (found.config, found.state, found.cache, found.runtime)} == {
            tmp_path
        }

    def test_folders_when_nothing_is_given_follow_xdg(self, tmp_path):
        """State and cache are apart, so that cleaning one cannot cost the other."""
        found = config.folders({"HOME": "/home/a", "XDG_RUNTIME_DIR": str(tmp_path)})

        assert str(found.config) == "/home/a/.config/synd"
        assert str(found.state) == "/home/a/.local/state/synd"
        assert str(found.cache) == "/home/a/.cache/synd"
        assert found.runtime == tmp_path / "synd"

    def test_folders_when_there_is_no_runtime_folder_use_the_state(self):
        """Machines without a login session have none."""
        found = config.folders({"HOME": "/home/a", "XDG_RUNTIME_DIR": "/nowhere"})

        assert str(found.runtime) == "/home/a/.local/state/synd/run"


class TestLoad:
    def test_load_when_nothing_is_set_is_the_defaults(self, env):
        """No file is fine."""
        assert config.load(env) == config.Config()

    def test_load_when_all_three_speak_the_nearest_wins(self, env):
        """File < environment < flag; a flag of None was not given."""
        write(env, 'mount = "/file"\nfreshness_s = 5\nrequest_concurrency = 2\n')
        env |= {"SYND_MOUNT": "/env", "SYND_FRESHNESS_S": "6"}
        found = config.load(env, {"mount": "/flag", "freshness_s": None})

        assert (found.mount, found.freshness_s, found.request_concurrency) == ("/flag", 6.0, 2)

    @pytest.mark.req("S1-61")
    @pytest.mark.parametrize(
        ("name", "text", "value"),
        [
            ("allow_other", "yes", True),
            ("allow_other", "0", False),
            ("projects", "syn1, syn2", ("syn1", "syn2")),
            ("log_level", "debug", "DEBUG"),
            ("cache_max_bytes", "10", 10),
            ("sort_memory", "64K", "64K"),
            ("lease", "90", 90.0),
            ("jobs", "0", 0),
        ],
    )
    def test_load_when_from_the_environment_is_typed(self, env, name, text, value):
        """Texts become what the field is."""
        env[f"SYND_{name.upper()}"] = text

        assert getattr(config.load(env), name) == value

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("allow_other", "perhaps"),
            ("cache_max_bytes", "-1"),
            ("cache_max_bytes", "1.5"),
            ("freshness_s", "inf"),
            ("freshness_s", "nan"),
            ("transport", "carrier pigeon"),
            ("log_level", "LOUD"),
            ("sort_memory", "0M"),
            ("sort_memory", "12T"),
            ("samtools_memory", "1K"),
            ("lease", "0.5"),
            ("job_attempts", "0"),
            ("bgzf_level", "10"),
            ("engine", "cloud"),
        ],
    )
    def test_load_when_a_value_is_wrong_names_variable_and_value(self, env, name, text):
        """The message is enough to mend it."""
        env[f"SYND_{name.upper()}"] = text
        with pytest.raises(ConfigError, match=f"SYND_{name.upper()}.*{text}"):
            config.load(env)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("nonsense = 1", "there is no setting 'nonsense'"),
            ("mount = 5", "mount = 5"),
            ("projects = [1]", "projects"),
            ('projects = ["syn1", "foo"]', "projects: 'foo' is not an entity id"),
            ("mount = ", "not valid TOML"),
            ("cache_max_bytes = true", "cache_max_bytes"),
            ('conflicts = "mine"', "keep.both, keep.local, overwrite.local"),
            ('versions = "some"', "merged, every"),
            ("uploads_at_once = 0", "not between 1 and 256"),
            ("poll_per_minute = 0", "not between 1 and 1000000"),
            ("connect_timeout_s = 0", "not between 0.1 and 86400"),
            ("read_timeout_s = 0", "not between 0.1 and 86400"),
            ("delete_hold_percent = 101", "not between 1 and 100"),
            ("upload_delay_s = -1", "upload_delay_s = -1 is not a number from 0 on"),
            ("uploads = 2", "uploads = 2 is not true or false"),
            ('sort_memory = "128MB"', "'128MB' is not a size such as 128M"),
            ('samtools_memory = "512K"', "512K is not between 1M and 1024G"),
            ('local_only = ["a/b"]', "'a/b' is not a pattern of file names"),
            ('local_only = ["!"]', "'!' is not a pattern"),
        ],
    )
    def test_load_when_the_file_is_wrong_names_file_and_field(self, env, text, said):
        """So that nobody has to search."""
        file = write(env, text)
        with pytest.raises(ConfigError) as caught:
            config.load(env)

        assert said in str(caught.value)
        assert str(file) in str(caught.value)


class TestSave:
    def test_save_when_one_setting_changes_keeps_the_others_and_the_comments(self, env):
        """What a user wrote into the file is the user's."""
        file = write(env, '# mine\nmount = "/a"  # here\nfreshness_s = 5.0\n')
        config.save({"freshness_s": 7.5, "allow_other": True}, env)

        assert config.load(env).freshness_s == 7.5
        assert config.load(env).allow_other is True
        assert config.load(env).mount == "/a"
        assert "# mine" in file.read_text()
        assert '"/a"  # here' in file.read_text()

    def test_save_when_a_setting_is_unset_takes_it_out(self, env):
        """None removes."""
        file = write(env, 'projects = [\n  "syn1",\n]\nmount = "/a"\n')
        config.save({"projects": None}, env)

        assert tomllib.loads(file.read_text()) == {"mount": "/a"}

    def test_save_when_unknown_or_wrong_writes_nothing(self, env):
        """The file stays good."""
        file = write(env, 'mount = "/a"\n')
        for change in ({"nonsense": 1}, {"transport": "x"}):
            with pytest.raises(ConfigError):
                config.save(change, env)

        assert file.read_text() == 'mount = "/a"\n'

    def test_save_when_the_disk_is_full_leaves_the_file_and_nothing_beside_it(self, env):
        """What is written aside meets a full disk; the file stays as it was."""
        file = write(env, 'mount = "/a"\n')
        file.with_suffix(".new").symlink_to("/dev/full")

        with pytest.raises(CacheFull, match=r"config\.toml"):
            config.save({"mount": "/b"}, env)

        assert [file] == list(file.parent.iterdir())
        assert file.read_text() == 'mount = "/a"\n'

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
    def test_save_always_is_undone_by_load(self, env, text):
        """Whatever text a value holds, the file stays TOML and gives it back."""
        config.save({"mount": text}, env)

        assert config.load(env).mount == text


def test_config_always_documents_every_field():
    """docs/configuration.md and `synd config list` are made from it."""
    assert all(f.metadata.get("doc") for f in dataclasses.fields(config.Config))


@pytest.mark.parametrize(
    ("patterns", "name", "kept"),
    [
        ([], "a.tmp", False),
        (["*.tmp"], "a.tmp", True),
        (["*.tmp"], "a.TMP", False),
        (["*.tmp", "!keep.tmp"], "keep.tmp", False),
        (["!keep.tmp", "*.tmp"], "keep.tmp", True),
        (["[ab]?"], "b1", True),
        ([".Rhistory"], ".Rhistory2", False),
    ],
    ids=str,
)
def test_name_filter_reads_patterns_as_gitignore_does(patterns, name, kept):
    """The last one that fits decides."""
    assert config.name_filter(patterns)(name) is kept


@pytest.mark.parametrize(
    ("text", "size"), [("7", 7), ("64K", 64 << 10), ("128M", 128 << 20), ("2G", 2 << 30)]
)
def test_size_when_spelled_with_a_unit_is_bytes(text, size):
    """As sort and samtools read theirs."""
    assert size == config.size_bytes(text)


@pytest.mark.parametrize("text", ["", "0", "0M", "M", "1.5M", "-1", "1k", "1 M", "1MB", "1M\n"])
def test_size_when_spelled_otherwise_is_refused(text):
    """Nothing is guessed."""
    with pytest.raises(ValueError, match="size"):
        config.size_bytes(text)


class TestListen:
    @pytest.mark.parametrize(
        ("text", "found"),
        [("", None), ("127.0.0.1:8421", ("127.0.0.1", 8421)), ("localhost:0", ("127.0.0.1", 0)),
         ("[::1]:80", ("::1", 80)), ("127.8.9.10:1", ("127.8.9.10", 1))],
    )  # fmt: skip
    def test_listen_on_the_loopback_is_taken(self, env, text, found):
        """Empty: off."""
        assert text == config.load(env | {"SYND_HTTP_LISTEN": text}).http_listen
        assert found == config.loopback(text)

    @pytest.mark.parametrize(
        "text",
        ["0.0.0.0:8421", "[::]:8421", "192.168.1.2:80", "example.org:80", ":80", "8421", "127.0.0.1",
         "127.0.0.1:65536", "127.0.0.256:80", "127.0.0.1:80\n", "localhost.evil.org:80", "::1:80"],
    )  # fmt: skip
    def test_listen_elsewhere_is_refused_by_name(self, env, text):
        """Other machines are not served; the setting, its value and the mend are told."""
        with pytest.raises(ConfigError, match="http_listen") as caught:
            config.load(env | {"SYND_HTTP_LISTEN": text})

        assert "127.0.0.1:8421" in caught.value.hint

    @pytest.mark.parametrize(
        "url",
        [
            "ftp://x",
            "example.org",
            "http://",
            "http://u@h",
            "http://h?a=1",
            "http://h:0",
            "http://h:x",
        ],
    )
    def test_endpoint_that_is_none_is_refused_by_name(self, env, url):
        """Wherever it is set, before anything is asked of it."""
        with pytest.raises(ConfigError, match=r"SYND_ENDPOINT.* is not the base URL") as caught:
            config.load(env | {"SYND_ENDPOINT": url})

        assert "http://127.0.0.1:PORT" in caught.value.hint

    @pytest.mark.parametrize(
        "page", ["igv.org", "https://igv.org/app", "https://", "https://a b", ""]
    )
    def test_origin_that_is_none_is_refused(self, env, page):
        """A browser tells scheme and host, and no path: anything else would never match."""
        with pytest.raises(ConfigError, match="http_origins"):
            config.load(env, {"http_origins": [page]})

    def test_origins_are_taken_as_a_list(self, env):
        """From the environment, with commas."""
        found = config.load(
            env | {"SYND_HTTP_ORIGINS": "https://igv.org, http://localhost:3000,null"}
        )

        assert ("https://igv.org", "http://localhost:3000", "null") == found.http_origins


@pytest.mark.req("S1-61")
def test_folder_and_number_of_workers_when_in_the_environment_are_in_force(env, tmp_path):
    """Where what is made lies, and how many jobs run at once."""
    from syndd.schedule import known

    env |= {"SYND_HOME": str(tmp_path / "elsewhere"), "SYND_JOBS": "7"}

    assert tmp_path / "elsewhere" / "cache" == config.folders(env).cache
    assert 7 == known.settings(config.load(env)).jobs
