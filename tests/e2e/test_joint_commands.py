"""packrank rank and info on models that judge several documents at a time."""

import json
from pathlib import Path

import pytest
from listwise_folders import chat_model, jina

from packrank import Listwise, Pairwise, Setwise
from packrank.commands.cli import main

QUERY = "what is a panda?"
DOCUMENTS = ["it was the query", "a panda is an animal", "what", "yes no", "the document"]


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "chat"
    chat_model(folder)
    return folder


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return jina(tmp_path_factory.mktemp("jina")).folder


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    path = tmp_path / "documents.jsonl"
    rows = [json.dumps({"id": f"d{n}", "text": text}) for n, text in enumerate(DOCUMENTS)]
    path.write_text("\n".join(rows))
    return path


def ranked(
    capsys: pytest.CaptureFixture[str], model: Path, documents: Path, *options: object
) -> tuple[list[str], dict[str, object], str]:
    """Ids in their order, the summary, and what was said."""
    arguments = ["rank", model, "--query", QUERY, "--documents", documents, *options]
    arguments += ["--output-format", "jsonl", "--summary"]
    capsys.readouterr()
    assert main([str(one) for one in arguments]) == 0
    shown = capsys.readouterr()
    *rows, summary = map(json.loads, shown.out.splitlines())
    return [row["id"] for row in rows], summary["summary"], shown.err


def ids(ranking: list[tuple[int, float, str]]) -> list[str]:
    return [f"d{index}" for index, *_ in ranking]


def test_methods_are_those_of_the_front_doors(
    chat: Path, documents: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, door in (
        (("--method", "pairwise"), Pairwise(chat)),
        (("--method", "pairwise", "--order", "allpair"), Pairwise(chat, method="allpair")),
        (("--method", "pairwise", "--order", "sliding"), Pairwise(chat, method="sliding")),
        (("--method", "setwise", "--num-child", 2), Setwise(chat, num_child=2)),
        (("--method", "setwise", "--votes", 3), Setwise(chat, votes=3)),
        (
            ("--method", "first", "--window", 3, "--stride", 2, "--context", 1500),
            Listwise(chat, method="first", window=3, stride=2, context=1500),
        ),
    ):
        found, summary, said = ranked(capsys, chat, documents, "--top-k", 3, *options)
        want = door.rank(QUERY, DOCUMENTS, 3)
        assert found == ids(want)
        assert want.calls is not None
        calls = summary["calls"]
        assert isinstance(calls, dict)
        assert calls["prompts"] == want.calls.prompts > 0
        assert f"prompts read: {want.calls.prompts}, tokens: {want.calls.prompt_tokens:,}" in said


def test_a_listwise_model_needs_no_method(
    marked: Path, documents: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    want = Listwise(marked, block_size=2).rank(QUERY, DOCUMENTS)
    for options in ((), ("--method", "listwise")):
        found, summary, said = ranked(capsys, marked, documents, *options, "--block-size", 2)
        assert found == ids(want)
        assert "prompts read: 3" in said
        assert "layers" in summary


def test_many_queries_share_packs(
    chat: Path, documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = tmp_path / "queries.jsonl"
    texts = {"q1": "panda", "q2": "what is it", "q3": ""}
    queries.write_text(
        "\n".join(json.dumps({"id": name, "text": text}) for name, text in texts.items())
    )
    arguments = ["rank", chat, "--queries", queries, "--documents", documents]
    arguments += ["--method", "setwise", "--output-format", "trec", "--top-k", 2]
    capsys.readouterr()
    assert main([str(one) for one in arguments]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    setwise = Setwise(chat)
    for name, text in texts.items():
        mine = [line[2] for line in lines if line[0] == name]
        assert mine == ids(setwise.rank(text, DOCUMENTS, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "or rank with Listwise, Pairwise or Setwise (--method)"),
        (("--method", "pointwise"), "does not say what makes it a reranker"),
        (("--method", "pairwise", "--window", "3"), "--window is for --method listwise and first,"),
        (("--method", "pairwise", "--votes", "3"), "--votes is for --method setwise, and this is"),
        (("--window", "3"), "--window is for --method listwise and first, and this is pointwise"),
        (("--method", "setwise", "--template", "qwen3"), "--template is for models that read one"),
        (
            ("--method", "setwise", "--instruction", "x"),
            "--instruction has no place in the prompts",
        ),
        (("--method", "setwise", "--order", "allpair"), "method is 'allpair', expected one of 'he"),
        (("--method", "first", "--block-size", "3"), "--block-size is for --method listwise, and"),
        (("--method", "setwise", "--num-child", "30"), "31 documents are compared at a time"),
        (
            ("--method", "setwise", "--long-documents", "windows"),
            "--long-documents is for models that read one",
        ),
        (("--method", "setwise", "--prompt", "prp"), "--prompt is for --method pairwise, and this"),
    ],
)
def test_options_that_do_not_go_together(
    chat: Path,
    documents: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    arguments = ["rank", str(chat), "--query", QUERY, "--documents", str(documents), *options]
    assert main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_store_is_for_late_interaction(
    marked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store.json").write_text("{}")
    assert main(["rank", str(marked), "--query", "q", "--store", str(tmp_path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "holds a listwise reranker; Listwise ranks with it" in line
    documents = tmp_path / "documents.txt"
    documents.write_text("a\nb\n")
    arguments = ["rank", str(marked), "--query", "q", "--documents", str(documents)]
    assert main([*arguments, "--method", "first"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "method is for chat models" in line


def test_titles_are_named_in_prompts(
    chat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in Python, where a mapping has one."""
    rows = [{"id": f"d{n}", "title": f"T{n} it", "text": text} for n, text in enumerate(DOCUMENTS)]
    rows[3] |= {"title": " ", "text": " yes"}
    path = tmp_path / "titled.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    options = ("--method", "first", "--window", 3, "--stride", 2, "--context", 1500)
    found, summary, _ = ranked(capsys, chat, path, *options)
    first = Listwise(chat, method="first", window=3, stride=2, context=1500)
    want = first.rank(QUERY, [row | {} for row in rows])
    assert found == ids(want)
    assert want.calls is not None
    calls = summary["calls"]
    assert isinstance(calls, dict)
    assert calls["prompt_tokens"] == want.calls.prompt_tokens


def test_a_model_that_scores_no_pair_says_so(
    marked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"query": "a", "document": "b"}')
    assert main(["score", str(marked), str(pairs), "--output", str(tmp_path / "out")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "Listwise ranks with it (packrank rank); it has no score of a pair alone" in line


def test_info_says_how_they_rank(
    chat: Path, marked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(marked)]) == 0
    shown = capsys.readouterr().out
    assert "ranks by         documents side by side, each by the vector of its marker\n" in shown
    assert "markers          <|embed_token|>, <|rerank_token|>\n" in shown
    assert main(["info", str(chat)]) == 0
    shown = capsys.readouterr().out
    assert "ranks by         --method listwise, first, pairwise or setwise\n" in shown
    assert "template         the folder's chat template\n" in shown
    named = tmp_path / "rank_zephyr_7b_v1_full"
    named.symlink_to(chat)
    assert main(["info", str(named)]) == 0
    shown = capsys.readouterr().out
    assert "scores by        none: by its name it ranks by --method listwise\n" in shown
    vicuna = tmp_path / "rank_vicuna_7b_v1"
    vicuna.symlink_to(chat)
    assert main(["info", str(vicuna)]) == 0
    assert "template         rank_llm's of RankVicuna\n" in capsys.readouterr().out
