"""The page at /: one document that loads nothing, under a policy that lets it."""

import base64
import hashlib
import re
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from fastapi.testclient import TestClient

from packrank.server.page import _SCRIPTS

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


class Inside(HTMLParser):
    """Tags with their attributes, and the text of each kind of tag."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._within = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = tag

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        self.texts[self._within] = self.texts.get(self._within, "") + data


@pytest.fixture
def page(client: TestClient) -> Inside:
    return Inside(client.get("/", headers=BROWSER).text)


def test_a_browser_gets_a_page_and_others_whether_it_is_well(client: TestClient) -> None:
    page = client.get("/", headers=BROWSER)
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["vary"] == "accept"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.text.startswith("<!doctype html>")
    assert page.text.rstrip().endswith("</html>")
    for headers in ({}, {"accept": "*/*"}, {"accept": "application/json"}):
        assert client.get("/", headers=headers).content == b""
    client.models.state = "draining"  # type: ignore[attr-defined]
    assert client.get("/", headers=BROWSER).status_code == 200
    assert client.get("/").status_code == 503


def test_there_may_be_none(serve: Callable[..., TestClient]) -> None:
    answer = serve(page=False).get("/", headers=BROWSER)
    assert (answer.status_code, answer.content) == (200, b"")


def test_the_policy_lets_its_own_style_and_script_run_and_nothing_else(
    client: TestClient, page: Inside
) -> None:
    policy = client.get("/", headers=BROWSER).headers["content-security-policy"]
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    for name in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.texts[name].encode()).digest()).decode()
        assert rules.pop(f"{name}-src") == f"'sha256-{digest}'"
        assert [tag for tag, _ in page.tags].count(name) == 1
    assert rules == {
        "default-src": "'none'", "connect-src": "'self'", "img-src": "data:",
        "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'", "trusted-types": "'none'",
    }  # fmt: skip


def test_nothing_is_loaded_from_anywhere(client: TestClient, page: Inside) -> None:
    assert re.search(r"https?://", client.get("/", headers=BROWSER).text) is None
    links = [
        value for _, given in page.tags for name, value in given.items() if name in ("src", "href")
    ]
    assert [link for link in links if not (link or "").startswith("data:")] == [
        "openapi.json", "metrics", "live",
    ]  # fmt: skip
    for link in links[1:]:
        assert client.get(f"/{link}").status_code == 200
    assert not [name for _, given in page.tags for name in given if name.startswith("on")]
    assert not [given for _, given in page.tags if "style" in given]


def test_every_file_is_in_it(page: Inside) -> None:
    folder = files("packrank.server").joinpath("static")
    found = {file.name for file in folder.iterdir()}
    assert found == {"page.html", "page.css", *_SCRIPTS}
    script = page.texts["script"]
    for name in _SCRIPTS:
        assert folder.joinpath(name).read_text(encoding="utf-8") in script
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in script


def test_every_field_has_a_label(page: Inside) -> None:
    ids = [given["id"] for _, given in page.tags if "id" in given]
    assert len(ids) == len(set(ids))
    labelled = {given.get("for") for tag, given in page.tags if tag == "label"}
    inside = {"layers", "raw"}  # their labels
    fields = {given["id"] for tag, given in page.tags if tag in ("input", "select", "textarea")}
    assert fields == (labelled - {None}) | inside
    for _, given in page.tags:
        for name in ("aria-describedby", "aria-labelledby"):
            assert given.get(name) is None or given[name] in ids
