"""Where the token and the endpoints come from, where they are kept, and that nobody sees the token."""

from __future__ import annotations

import logging
import os
import pickle
import stat
import sys
import types
from pathlib import Path

import pytest

from synd.client.credentials import (
    PRODUCTION_ENDPOINTS,
    Endpoints,
    Token,
    endpoints,
    find_token,
    forget_token,
    from_base,
    save_token,
)
from synd.config import Config
from synd.errors import ConfigError, NotLoggedIn

LOCAL = from_base("http://127.0.0.1:8991")
ABROAD = from_base("https://synapse.example.org")


class Ring(types.ModuleType):
    """The keyring package, with a backend in memory."""

    def __init__(self) -> None:
        super().__init__("keyring")
        self.kept: dict[tuple[str, str], str] = {}
        self.broken = False

    def get_keyring(self) -> object:
        return self

    def get_password(self, service: str, name: str) -> str | None:
        if self.broken:
            raise RuntimeError("no bus")
        return self.kept.get((service, name))

    def set_password(self, service: str, name: str, value: str) -> None:
        if self.broken:
            raise RuntimeError("no bus")
        self.kept[service, name] = value

    def delete_password(self, service: str, name: str) -> None:
        del self.kept[service, name]


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> Ring:
    ring = Ring()
    fail = types.ModuleType("keyring.backends.fail")
    fail.Keyring = type("Keyring", (), {})  # type: ignore[attr-defined]
    backends = types.ModuleType("keyring.backends")
    backends.fail = fail  # type: ignore[attr-defined]
    ring.backends = backends  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keyring", ring)
    monkeypatch.setitem(sys.modules, "keyring.backends", backends)
    monkeypatch.setitem(sys.modules, "keyring.backends.fail", fail)
    return ring


@pytest.fixture
def no_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def write(home: Path, text: str) -> dict[str, str]:
    (home / ".synapseConfig").write_text(text)
    return {"HOME": str(home)}


class TestOrder:
    """Environment, systemd, keyring, file: the first that has a token wins."""

    def test_sources_when_all_have_one_win_in_order(self, home: Path, ring: Ring) -> None:
        """Taking one away lets the next through."""
        env = write(home, "[default]\nauthtoken = from-file\n")
        env |= {"SYNAPSE_AUTH_TOKEN": "from-env", "CREDENTIALS_DIRECTORY": str(home)}
        (home / "synapse-token").write_text("from-systemd\n")
        ring.kept["synd", PRODUCTION_ENDPOINTS.name] = "from-ring"
        found = []
        for forget in (
            lambda: env.pop("SYNAPSE_AUTH_TOKEN"),
            lambda: env.pop("CREDENTIALS_DIRECTORY"),
            ring.kept.clear,
            lambda: None,
        ):
            found.append(find_token(PRODUCTION_ENDPOINTS, env).reveal())
            forget()

        assert found == ["from-env", "from-systemd", "from-ring", "from-file"]

    def test_token_when_nowhere_names_every_place_and_the_mend(
        self, home: Path, ring: Ring
    ) -> None:
        """Who is not logged in learns where was looked, and what to run."""
        with pytest.raises(NotLoggedIn) as caught:
            find_token(PRODUCTION_ENDPOINTS, {"HOME": str(home)})

        for place in ("SYNAPSE_AUTH_TOKEN", "systemd credential", "keyring", ".synapseConfig"):
            assert place in str(caught.value)
        assert "synd login" in caught.value.hint

    @pytest.mark.usefixtures("no_ring")
    def test_keyring_when_not_installed_is_passed_by(self, home: Path) -> None:
        """The keyring is optional."""
        env = write(home, "[default]\nauthtoken=t\n")

        assert find_token(PRODUCTION_ENDPOINTS, env).reveal() == "t"

    def test_keyring_when_broken_is_passed_by(self, home: Path, ring: Ring) -> None:
        """A keyring that fails is named, and does not stop the look."""
        ring.broken = True
        with pytest.raises(NotLoggedIn, match="it failed: RuntimeError"):
            find_token(PRODUCTION_ENDPOINTS, {"HOME": str(home)})

        env = write(home, "[default]\nauthtoken=t\n")
        assert find_token(PRODUCTION_ENDPOINTS, env).reveal() == "t"

    def test_keyring_when_of_another_service_is_not_used(self, home: Path, ring: Ring) -> None:
        """Keyring entries are kept apart by service."""
        ring.kept["synd", LOCAL.name] = "local"

        assert find_token(LOCAL, {"HOME": str(home)}).reveal() == "local"
        with pytest.raises(NotLoggedIn):
            find_token(ABROAD, {"HOME": str(home)})


@pytest.mark.usefixtures("no_ring")
class TestConfigFile:
    """The official client's file, by the official client's rules."""

    @pytest.mark.parametrize(
        ("text", "profile", "expected"),
        [
            ("[default]\nauthtoken = a\n[authentication]\nauthtoken = b\n", "", "a"),
            ("[authentication]\nauthtoken = b\n", "", "b"),
            ("[authentication]\nauthtoken = b\n", "default", "b"),
            ("[default]\nusername = me\n[authentication]\nauthToken = b\n", "", "b"),
            ("[profile work]\nauthtoken = w\n[default]\nauthtoken = a\n", "work", "w"),
            ("[default]\nAUTHTOKEN: a ; \n", "", "a ;"),
            ("# a comment\n[default]\nauthtoken = %(x)s\n", "", "%(x)s"),
        ],
    )
    def test_token_when_in_file_is_found(
        self, home: Path, text: str, profile: str, expected: str
    ) -> None:
        """Profiles, the older section's name, any case of keys, raw values."""
        env = write(home, text) | {"SYNAPSE_PROFILE": profile}

        if " " in expected:
            with pytest.raises(ConfigError):
                find_token(PRODUCTION_ENDPOINTS, env)
        else:
            assert expected == find_token(PRODUCTION_ENDPOINTS, env).reveal()

    def test_profile_when_missing_does_not_fall_back(self, home: Path) -> None:
        """A named profile that is not there is not silently another user."""
        env = write(home, "[default]\nauthtoken = a\n") | {"SYNAPSE_PROFILE": "other"}

        with pytest.raises(NotLoggedIn, match=r"\[profile other\]"):
            find_token(PRODUCTION_ENDPOINTS, env)

    def test_token_when_service_is_foreign_is_kept_from_it(self, home: Path) -> None:
        """The production token is not sent to whichever host SYND_ENDPOINT names."""
        env = write(home, "[default]\nauthtoken = a\n")

        with pytest.raises(NotLoggedIn, match="it is for https://repo-prod"):
            find_token(ABROAD, env)
        assert find_token(LOCAL, env).reveal() == "a"

    def test_token_when_file_names_the_service_is_used(self, home: Path) -> None:
        """A file's token belongs to the file's own endpoints."""
        env = write(
            home,
            "[endpoints]\nrepoEndpoint=https://synapse.example.org/repo/v1\n[default]\nauthtoken=a\n",
        )

        assert find_token(ABROAD, env).reveal() == "a"
        with pytest.raises(NotLoggedIn):
            find_token(PRODUCTION_ENDPOINTS, env)

    def test_file_when_broken_is_told_without_its_content(self, home: Path) -> None:
        """The parser quotes the line; the line may be the token."""
        env = write(home, "authtoken = very-secret\n")

        with pytest.raises(ConfigError) as caught:
            find_token(PRODUCTION_ENDPOINTS, env)

        error: BaseException | None = caught.value
        while error is not None:
            assert "very-secret" not in str(error)
            error = error.__cause__
        assert ".synapseConfig" in str(caught.value)


class TestEndpoints:
    """SYND_ENDPOINT and config.toml, then ~/.synapseConfig, then production."""

    def test_endpoints_when_set_come_from_the_setting(self, home: Path) -> None:
        """One base URL makes four."""
        env = write(home, "[endpoints]\nrepoEndpoint = http://other/repo/v1\n")

        got = endpoints(Config(endpoint="http://127.0.0.1:8991/"), env)

        assert got == LOCAL
        assert (got.repo, got.file) == (
            "http://127.0.0.1:8991/repo/v1",
            "http://127.0.0.1:8991/file/v1",
        )
        assert got.page("syn1") == "http://127.0.0.1:8991/Synapse:syn1"
        assert got.is_loopback

    def test_endpoints_when_in_the_file_are_used_each_alone(self, home: Path) -> None:
        """What the file does not name stays production's."""
        got = endpoints(Config(), write(home, "[endpoints]\nrepoEndpoint = http://h:1/repo/v1/\n"))

        assert got.repo == "http://h:1/repo/v1"
        assert got.file == PRODUCTION_ENDPOINTS.file

    def test_endpoints_when_nothing_is_set_are_productions(self, home: Path) -> None:
        """Three hosts, and the web site's."""
        got = endpoints(Config(), {"HOME": str(home)})

        assert got == PRODUCTION_ENDPOINTS == from_base(got.name)
        assert got.is_production
        assert len(got.hosts) == 3

    @pytest.mark.parametrize(
        "text", ["ftp://x", "nonsense", "http://", "http://u:p@h", "http://h:99999", "http://h?q=1"]
    )
    def test_endpoint_when_no_base_url_is_refused(self, text: str) -> None:
        """The setting is named, with how to write it."""
        with pytest.raises(ConfigError, match="endpoint"):
            endpoints(Config(endpoint=text), {"HOME": "/nonexistent"})

    @pytest.mark.parametrize(
        ("url", "local"),
        [
            ("http://localhost:1", True),
            ("http://[::1]:1", True),
            ("http://127.9.9.9:1", True),
            ("http://localhost.example.org", False),
            ("http://10.0.0.1", False),
        ],
    )
    def test_loopback_when_asked_is_told_by_address(self, url: str, local: bool) -> None:
        """Only this machine's own addresses count."""
        assert local == from_base(url).is_loopback


class TestSaving:
    """A saved token is found again, and nothing else in the file changes."""

    def test_token_when_there_is_a_keyring_goes_there(self, home: Path, ring: Ring) -> None:
        """The file is left alone."""
        env = {"HOME": str(home)}

        place = save_token(Token("new"), LOCAL, env)

        assert place == "the keyring"
        assert not (home / ".synapseConfig").exists()
        assert find_token(LOCAL, env).reveal() == "new"

    @pytest.mark.parametrize(
        "service", [PRODUCTION_ENDPOINTS, LOCAL, ABROAD], ids=["own", "local", "abroad"]
    )
    def test_token_when_keyring_fails_goes_to_the_file(
        self, home: Path, ring: Ring, service: Endpoints
    ) -> None:
        """With mode 0600, for whichever service."""
        ring.broken = True
        env = {"HOME": str(home)}

        save_token(Token("new"), service, env)
        ring.broken = False

        assert stat.S_IMODE((home / ".synapseConfig").stat().st_mode) == 0o600
        assert find_token(service, env).reveal() == "new"

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("", "[default]\nauthtoken = new\n"),
            ("[default]\nauthtoken = old\n", "[default]\nauthtoken = new\n"),
            (
                "# mine\n[cache]\nlocation = ~/c  ; here\n\n[default]\n# token below\nAuthToken: old\nusername = me\n\n[debug]\n",
                "# mine\n[cache]\nlocation = ~/c  ; here\n\n[default]\n# token below\nauthtoken = new\nusername = me\n\n[debug]\n",
            ),
            (
                "[default]\nusername = me\n\n\n[debug]",
                "[default]\nusername = me\nauthtoken = new\n\n\n[debug]\n",
            ),
            ("[debug]", "[debug]\n\n[default]\nauthtoken = new\n"),
            ("[default]\nauthtoken=a\nauthtoken=b\n", "[default]\nauthtoken = new\n"),
        ],
        ids=["empty", "replace", "comments", "add", "new section", "twice"],
    )
    def test_file_when_saved_keeps_all_else(self, home: Path, before: str, after: str) -> None:
        """Comments, order, other sections and blank lines stay."""
        env = write(home, before)
        (home / ".synapseConfig").chmod(0o644)

        save_token(Token("new"), PRODUCTION_ENDPOINTS, env, keyring=False)

        assert after == (home / ".synapseConfig").read_text()
        assert stat.S_IMODE((home / ".synapseConfig").stat().st_mode) == 0o600
        assert [p.name for p in home.iterdir()] == [".synapseConfig"]

    @pytest.mark.usefixtures("no_ring")
    def test_profile_when_chosen_is_where_it_is_saved(self, home: Path) -> None:
        """SYNAPSE_PROFILE counts for saving as for finding."""
        env = write(home, "[default]\nauthtoken = a\n") | {"SYNAPSE_PROFILE": "work"}

        save_token(Token("w"), PRODUCTION_ENDPOINTS, env)

        assert find_token(PRODUCTION_ENDPOINTS, env).reveal() == "w"
        assert find_token(PRODUCTION_ENDPOINTS, {"HOME": str(home)}).reveal() == "a"

    def test_file_when_it_is_a_link_stays_one(self, home: Path) -> None:
        """Dotfiles are often links into another folder."""
        (home / "dotfiles").mkdir()
        (home / "dotfiles/synapse").write_text("[debug]\n")
        (home / ".synapseConfig").symlink_to("dotfiles/synapse")

        save_token(Token("t"), PRODUCTION_ENDPOINTS, {"HOME": str(home)}, keyring=False)

        assert (home / ".synapseConfig").is_symlink()
        assert "authtoken = t" in (home / "dotfiles/synapse").read_text()

    def test_token_when_forgotten_is_gone_everywhere(self, home: Path, ring: Ring) -> None:
        """Logging out removes what logging in kept, and says from where."""
        env = write(
            home, "[default]\nauthtoken = a\nusername = me\n[authentication]\nauthtoken = b\n"
        )
        ring.kept["synd", PRODUCTION_ENDPOINTS.name] = "c"

        places = forget_token(PRODUCTION_ENDPOINTS, env)

        assert len(places) == 3
        assert "username = me" in (home / ".synapseConfig").read_text()
        with pytest.raises(NotLoggedIn):
            find_token(PRODUCTION_ENDPOINTS, env)
        assert forget_token(PRODUCTION_ENDPOINTS, env) == []


class TestToken:
    """A token does not show itself."""

    def test_token_when_shown_in_any_way_is_hidden(self, caplog: pytest.LogCaptureFixture) -> None:
        """repr, str, format, logging and pickling give nothing away."""
        token = Token("very-secret", "the test")
        with caplog.at_level(logging.DEBUG):
            logging.getLogger("x").debug("got %s %r", token, {"t": token})

        shown = [repr(token), str(token), f"{token}", f"{token!r}", repr([token]), caplog.text]
        assert not any("very-secret" in text for text in shown)
        with pytest.raises(TypeError):
            pickle.dumps(token)
        assert not hasattr(token, "__dict__")

    @pytest.mark.parametrize("text", ["", "   ", "two words", "line\nbreak", "naïve"])
    def test_token_when_not_one_plain_word_is_refused(self, text: str) -> None:
        """It goes into a header; the message does not repeat it."""
        with pytest.raises(ConfigError) as caught:
            Token(text, "here")

        assert "naïve" not in str(caught.value)
        assert "here" in str(caught.value)

    @pytest.mark.parametrize(
        ("value", "scopes"),
        [
            ("x.eyJhY2Nlc3MiOnsic2NvcGUiOlsidmlldyIsImRvd25sb2FkIl19fQ.y", {"view", "download"}),
            ("x.eyJhIjoxfQ.y", None),
            ("x.###.y", None),
            ("opaque", None),
        ],
        ids=["told", "without", "not base64", "opaque"],
    )
    def test_scopes_when_told_are_read(self, value: str, scopes: set[str] | None) -> None:
        """What a token allows stands in its middle part, when it tells at all."""
        assert scopes == Token(value).scopes()


def test_environment_when_not_given_is_the_process_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers need not hand it in."""
    monkeypatch.setenv("SYNAPSE_AUTH_TOKEN", "mine")

    assert find_token(PRODUCTION_ENDPOINTS).reveal() == "mine"
    assert os.environ["SYNAPSE_AUTH_TOKEN"] == "mine"
