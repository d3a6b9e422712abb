"""The page in a browser, over real servers: what a reader does, and what is then to be seen."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import CHROMIUM, Browser, Tab
from page_reader import choose, fill, listening, overflow, ranked, refused, rows, see, the
from safetensors.torch import load_file, save_file

from packrank import Engine, LateInteraction, Reranker
from packrank.demo import default_model
from packrank.exits.margins import FILE, Margins, save
from packrank.server.app import create_app
from packrank.server.models import Models, Served
from packrank.server.settings import Settings

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
Open = Callable[..., Tab]

CANDIDATES = ["a b c", "d d d d", "e", "a", "b b c d e"]
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>document.title = 'taken'</script>",
    "\u202eright to left\u202c \u05d0\u05d1\u05d2 \u0627\u0644\u0639",
    "x" * 10_000,
    "{{constructor.constructor('document.title=1')()}} '; \\ ` ${document.title=2}",
]


def with_exits(folder: Path, out: Path) -> Reranker:
    """The same with a head after each layer, and margins for the best 2."""
    shutil.copytree(folder, out)
    tensors = load_file(out / "model.safetensors")
    torch.manual_seed(3)
    heads = [name for name in tensors if name.startswith(("bert.pooler.", "classifier."))]
    for layer in (1, 2):
        for name in heads:
            tensors[f"exits.{layer}.{name}"] = 0.3 * torch.randn_like(tensors[name])
    save_file(tensors, out / "model.safetensors")
    raw = json.loads((out / "config.json").read_text()) | {"exit_layers": [1, 2]}
    (out / "config.json").write_text(json.dumps(raw))
    model = Reranker(out, activation="sigmoid")
    margins = Margins(
        model="layered", fingerprint=model._fingerprint, settings=model.exit_settings, top_k=2,
        final_layer=3, layers=(1, 2), margins=(0.5, 0.5), recall=0.8, held_out_recall=1.0,
        held_out_low=0.9, held_out_high=1.0, dropped=(0.1, 0.1), saved=0.1, num_fitted=20,
        num_held_out=20, num_left_out=0, num_candidates=12, extrapolated=False,
    )  # fmt: skip
    save(out / FILE, margins)
    return model


@pytest.fixture(scope="module")
def served(
    reranker: Reranker, small_bert: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Served]]:
    """A reranker, one that has exits, and late interaction."""
    layered = with_exits(small_bert, tmp_path_factory.mktemp("exits") / "layered")
    late = LateInteraction(default_model(), device="cpu")
    with ExitStack() as stack:
        models = {"small": reranker, "layered": layered, "<b>late": late}
        yield [Served(name, stack.enter_context(Engine(one))) for name, one in models.items()]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def open_page(browser: Browser, served: list[Served]) -> Iterator[Open]:
    """open_page(model, **settings): the page of a server of them all, one chosen."""
    with ExitStack() as stack:

        def start(model: str = "small", **settings: Any) -> Tab:
            app = create_app(Models("ready", served), replace(Settings(), **settings))
            tab = browser.open(stack.enter_context(listening(app)))
            stack.callback(tab.close)
            tab.wait(f"{the('state')}.textContent === 'ready'")
            choose(tab, "model", model)
            stack.callback(lambda: check(tab))
            return tab

        yield start


def check(tab: Tab) -> None:
    assert tab.complaints == []


def test_it_ranks_as_the_model_does(open_page: Open, reranker: Reranker) -> None:
    tab = open_page()
    fill(tab, "a b", CANDIDATES)
    want = reranker.rank("a b", CANDIDATES)
    assert ranked(tab) == [CANDIDATES[one.index] for one in want]
    for place, (one, (rank, moved, score)) in enumerate(zip(want, rows(tab), strict=True)):
        assert rank == str(place + 1)
        assert score == f"{one.score:.4f}"
        up = one.index - place
        way = f" up, given as {one.index + 1}" if up > 0 else f" down, given as {one.index + 1}"
        assert moved.lstrip("▲▼") == (f"{abs(up)}{way}" if up else "= as given")
    assert tab.run(f"{the('asked')}.textContent") == "a b"
    said = tab.run(f"{the('said')}.textContent")
    assert said.startswith("small · 5 candidates · ")
    assert tab.run("document.querySelectorAll('.slopes path').length") == 5

    tab.run(f"{the('raw')}.click()")
    ranked(tab)
    raw = reranker.score([("a b", text) for text in CANDIDATES], activation="identity")
    assert [float(row[2]) for row in rows(tab)] == pytest.approx(sorted(raw)[::-1], abs=1e-4)


@pytest.mark.parametrize(
    ("typed", "note"),
    [
        ('["a b c", {"text": "d d", "id": 7}]', "2 candidates, read as a JSON array"),
        ('{"text": "a b c"}\n\n{"_id": 7, "text": "d d"}\n', "2 candidates, read as JSONL"),
        ("a b c\n\n  d d \n", "2 candidates, one a line"),
        (
            '{"text": "a b c"}\nd d',
            "2 candidates, one a line; line 2 is no JSON, so all are taken as they are",
        ),
        ("[3]", 'Candidate 1 is neither a text nor an object with "text".'),
    ],
)
def test_forms_of_candidates(open_page: Open, typed: str, note: str) -> None:
    tab = open_page()
    fill(tab, "a", typed)
    tab.wait(f"{the('count')}.textContent === {json.dumps(note)}")
    if typed == "[3]":
        assert refused(tab) == note
    elif '"text": "d d"' in typed:
        assert sorted(ranked(tab)) == ["a b c", "d d"]
        assert tab.run("document.querySelector('.name').textContent") == "7"
    else:
        assert len(ranked(tab)) == 2


def test_the_example_and_the_keyboard(open_page: Open) -> None:
    tab = open_page("<b>late")
    tab.run(f"{the('example')}.focus()")
    tab.press("Enter")
    assert tab.run(f"{the('count')}.textContent") == "10 candidates, one a line"
    tab.press("Enter", control=True)
    tab.wait("document.querySelectorAll('#ranking tbody > tr').length === 10")
    assert tab.run("document.querySelector('.text').textContent").startswith("Pit vipers")
    # By Tab alone everything that can be used is met, and nothing holds the focus.
    tab.run(f"{the('model')}.focus()")
    met: list[str] = []
    while (here := tab.run("document.activeElement.id || document.activeElement.innerText")) and (
        tab.run("document.activeElement !== document.body")
    ):
        met.append(here)
        assert len(met) < 40
        tab.press("Tab")
    rest = ["Tokens"] * 10 + ["The same by curl", "OpenAPI", "Metrics", "Live state"]
    assert met == ["model", "query", "example", "candidates", "rank", *rest]


def test_late_interaction_shows_which_token_found_which(
    open_page: Open, served: list[Served]
) -> None:
    tab = open_page("<b>late")
    texts = ["No fox\u0301 here \U0001f98a, only owls.", "The red fox is quick."]
    fill(tab, "red foxes", texts)
    first = ranked(tab)[0]
    found = served[2].engine.model.explain("red foxes", first)
    tab.run("document.querySelector('.actions .quiet:not(.more)').click()")
    tab.wait("document.querySelector('[role=toolbar]')")
    assert tab.run("document.querySelector('.heat .note').textContent").startswith(
        f"{found.score:.4f}, the sum of {len(found.matches)} matches"
    )
    document = tab.run("document.querySelectorAll('.tokens')[1].textContent")
    assert document.replace("[CLS]", "").replace("[SEP]", "") == first
    shades = tab.run(
        "[...document.querySelectorAll('[role=toolbar] button')]"
        ".map(token => Number(token.style.getPropertyValue('--share')))"
    )
    best = max(match.score for match in found.matches)
    want = [max(match.score, 0) / best for match in found.matches]
    assert shades == pytest.approx(want, abs=1e-3)

    tab.run("document.querySelector('[role=toolbar] button').focus()")
    for match in found.matches[1:3]:
        tab.press("ArrowRight")
        asked, matched = found.query_tokens[match.query_token], match.document_token
        assert matched is not None
        there = found.document_tokens[matched].text
        said = tab.run("document.querySelector('.match').textContent").strip()
        assert said == f"{asked.text} → {there} {match.score:.4f}"
        framed = tab.run("[...document.querySelectorAll('.token.on')].map(x => x.textContent)")
        assert framed == [asked.text, there]
    tab.run("document.querySelector('[aria-expanded=true]').click()")
    assert tab.run("document.querySelector('.heat')") is None


def test_layers_and_exits_where_there_are_any(open_page: Open, served: list[Served]) -> None:
    tab = open_page()
    assert tab.run(f"{the('layers-label')}.hidden")
    choose(tab, "model", "layered")
    options = tab.run(f"[...{the('layers')}.options].map(option => option.textContent)")
    assert options == ["all 3", "2", "1", "early exits, best 2"]
    model = served[1].engine.model
    assert isinstance(model, Reranker)
    fill(tab, "a b", CANDIDATES)
    for value, options in (("layer 1", {"cutoff_layer": 1}), ("exit 2", {"exit": "calibrated"})):
        choose(tab, "layers", value)
        want = model.rank("a b", CANDIDATES, 2 if "exit" in options else None, **options)
        assert ranked(tab) == [one.document for one in want]
    assert tab.run(f"{the('raw')}.disabled")
    assert " · best 2 of 5 candidates · " in tab.run(f"{the('said')}.textContent")


def test_an_error_is_said_in_words(open_page: Open) -> None:
    tab = open_page(max_documents=3)
    assert refused(tab) == "Write a query first."
    fill(tab, "a", " \n ")
    assert refused(tab) == "Give at least one candidate."
    fill(tab, "a", CANDIDATES)
    assert refused(tab) == "Batch size 5 > maximum allowed batch size 3."
    fill(tab, "a", CANDIDATES[:2])
    assert len(ranked(tab)) == 2


def test_a_key_is_asked_for_and_kept_in_memory(open_page: Open) -> None:
    tab = open_page(api_keys=("sesame",))
    fill(tab, "a", CANDIDATES)
    assert tab.run(f"{the('key-field')}.hidden")
    assert refused(tab) == "No api key supplied."
    assert tab.run("document.activeElement.id") == "key"
    for letter in "sesam\u00e9":
        tab.press(letter)
    assert refused(tab) == "The API key has characters that cannot be sent."
    tab.run(f"{the('key')}.value = 'wrong'")
    assert refused(tab) == "Invalid api token."
    tab.run(f"{the('key')}.value = 'sesame'")
    assert len(ranked(tab)) == 5
    assert tab.run("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    curl = tab.run("document.querySelector('pre').textContent")
    assert "sesame" not in curl and "Bearer $PACKRANK_API_KEY" in curl


def test_the_engine_is_seen_to_warm_up_work_and_go(browser: Browser, served: list[Served]) -> None:
    models = Models("warming")
    app = create_app(models, Settings())
    with listening(app) as address:
        tab = browser.open(address)
        tab.wait(f"{the('state')}.textContent === 'warming'")
        fill(tab, "a", CANDIDATES)
        assert refused(tab) == "The model is being loaded. Try again in 5 s."
        models.state, models.served = "ready", served
        see(tab, f"{the('state')}.textContent === 'ready'")
        assert tab.run(f"[...{the('model')}.options].length") == 3
        before = served[0].engine.totals.requests
        assert len(ranked(tab)) == 5
        see(tab, f"{the('answered')}.textContent === '{before + 1}'")
        see(tab, "document.querySelector('#pairs-past polyline')")
        models.state = "draining"
        see(tab, f"{the('state')}.textContent === 'draining'")
        assert refused(tab) == "The server is shutting down. Try again in 1 s."
    see(tab, f"{the('state')}.textContent === 'cannot be reached'")
    assert refused(tab) == "The server cannot be reached, or closed the connection."
    check(tab)
    tab.close()


def test_who_cancels_leaves_the_queue(
    open_page: Open, served: list[Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, go_on = served[0].engine, threading.Event()
    tab = open_page()
    fill(tab, "a", CANDIDATES)
    monkeypatch.setattr(engine.totals, "has_run", lambda *facts: go_on.wait(60))
    try:
        held = engine.submit("a", ["b"])
        tab.run(f"{the('rank')}.click()")
        while engine.queue_requests < 2:
            time.sleep(0.01)
        see(tab, f"{the('queue')}.textContent === '2'")
        tab.run(f"{the('cancel')}.focus(); {the('cancel')}.click()")
        tab.wait(f"{the('error')}.textContent === 'Cancelled.'")
        assert tab.run("document.activeElement.id") == "rank"
        while engine.queue_requests > 1:
            time.sleep(0.01)
    finally:
        go_on.set()
    held.result(60)


def test_hostile_text_stays_text(open_page: Open) -> None:
    tab = open_page("<b>late")
    fill(tab, HOSTILE[0], HOSTILE)
    shown = ranked(tab)
    assert sorted(shown) == sorted(HOSTILE)
    assert tab.run(f"{the('asked')}.textContent") == HOSTILE[0]
    for row in range(len(HOSTILE)):
        tab.run(f"document.querySelectorAll('.actions .quiet:not(.more)')[{row}].click()")
    tab.wait("document.querySelectorAll('[role=toolbar]').length === 5")
    inside = "document.querySelectorAll('#ranking img, #ranking script, #ranking b').length"
    assert tab.run(inside) == 0
    assert tab.run("document.title") == "Packrank"
    curl = tab.run("document.querySelector('pre').textContent")
    assert json.loads(curl.partition("-d '")[2][:-1].replace("'\\''", "'"))["documents"] == HOSTILE
    assert "\u202e" not in curl
    assert tab.run(f"{the('model')}.options[2].textContent") == "<b>late"
    for width in (360, 1280):
        tab.look(width, 800)
        assert overflow(tab) == 0


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_and_the_night(open_page: Open, dark: bool) -> None:
    tab = open_page("<b>late", api_keys=())
    tab.run(f"{the('example')}.click()")
    ranked(tab)
    tab.run("document.querySelector('.actions .quiet:not(.more)').click()")
    tab.wait("document.querySelector('[role=toolbar]')")
    tab.run(f"{the('key-field')}.hidden = false; {the('error')}.textContent = 'x'.repeat(300)")
    tab.run(f"{the('curl')}.open = true")
    for width in (320, 360, 560, 830, 1280):
        tab.look(width, 740, dark)
        assert overflow(tab) == 0, width
    ink, paper = tab.run(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        ".map(color => Number(color.match(/\\d+/)[0]))"
    )
    assert (ink > paper) == dark
