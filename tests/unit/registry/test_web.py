"""The route table and the refusals."""

import pytest

from synd.registry.web import (
    RETRY_WORDS,
    RefusedError,
    Reply,
    Request,
    Router,
    bad,
)


def answer(_: Request) -> Reply:
    return Reply(200, b"")


@pytest.fixture
def router():
    router = Router()
    for method, template in (
        ("GET", "/"),
        ("GET", "/repo/v1/entity/{id}"),
        ("GET", "/repo/v1/entity/type"),
        ("PUT", "/repo/v1/entity/{id}"),
        ("POST", "/repo/v1/entity/{id}/version/{version}/bundle2"),
        ("GET", "/repo/v1/schema/{rest*}"),
    ):
        router.add(method, template, answer, scope="view")
    return router


class TestRouter:
    @pytest.mark.parametrize(
        ("method", "path", "template", "arguments"),
        [
            ("GET", "/", "/", {}),
            ("GET", "/repo/v1/entity/syn1", "/repo/v1/entity/{id}", {"id": "syn1"}),
            ("GET", "/repo/v1/entity/syn1/", "/repo/v1/entity/{id}", {"id": "syn1"}),
            ("GET", "/repo/v1/entity/type", "/repo/v1/entity/type", {}),
            ("PUT", "/repo/v1/entity/type", "/repo/v1/entity/{id}", {"id": "type"}),
            ("GET", "/repo/v1/entity/a%2Fb", "/repo/v1/entity/{id}", {"id": "a/b"}),
            ("GET", "/repo/v1/schema/a/b", "/repo/v1/schema/{rest*}", {"rest": "a/b"}),
        ],
    )
    def test_find_prefers_literals_and_decodes_arguments(
        self, router, method, path, template, arguments
    ):
        """A literal segment wins over a parameter; parameters are percent-decoded."""
        found = router.find(method, path)

        assert found is not None
        assert (template, arguments) == (found[0].template, found[1])

    @pytest.mark.parametrize(
        ("method", "path"),
        [("DELETE", "/"), ("GET", "/repo/v1/nothing"), ("GET", "/repo/v1/entity/a/b")],
    )
    def test_find_of_an_unknown_method_or_path_is_none(self, router, method, path):
        """What is not in the table is not found, whatever else is at that path."""
        assert router.find(method, path) is None

    def test_add_twice_is_an_error(self, router):
        """Two handlers for one route would hide one of them."""
        with pytest.raises(ValueError, match="routed twice"):
            router.add("GET", "/", answer, scope="view")


class TestRefusal:
    @pytest.mark.parametrize("word", RETRY_WORDS)
    def test_reason_never_holds_a_word_that_means_again(self, word):
        """The official client repeats an error for half an hour if its text holds such a word."""
        body = bad(f"Before {word.upper()} and {word} after").body()

        assert word not in body["reason"].lower()
        assert "after" in body["reason"]

    def test_reason_is_never_empty(self):
        """A JSON error without a reason makes the official client fail with AttributeError."""
        assert RefusedError(400, "").body()["reason"]
