"""The commands do what they print, and the files they read and write hold what they say."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import packrank_kernels
from packrank import LateInteraction, Reranker
from packrank.commands import info
from packrank.commands.cli import main
from packrank.jobs import score as score_file
from packrank_kernels.backend import cuda, cuda_maxsim

WORDS = "red blue fox dog owl snake runs sleeps hunts at night by day in the sun"
DOCUMENTS = ["the fox runs", "owl hunts at night", "snake sleeps in the sun", "blue dog", "red"]
QUERY = "owl by night"


@pytest.fixture(scope="module")
def model(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """model(suffix, **options): a tiny BERT folder with a tokenizer."""

    def make(suffix: str = "ForSequenceClassification", **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("model") / "bert"
        shutil.copytree(checkpoint("Bert", suffix, **options), folder)
        save_tokenizer(folder, WORDS)
        return folder

    return make


@pytest.fixture(scope="module")
def cross_encoder(model: Any) -> Path:
    folder: Path = model(num_labels=1)
    return folder


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


# rank


def test_rank_prints_what_the_reranker_says(
    cross_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = tmp_path / "documents.txt"
    documents.write_text("\n".join(DOCUMENTS))
    arguments = ["rank", str(cross_encoder), "--query", QUERY, "--documents", str(documents)]
    assert main([*arguments, "--json"]) == 0
    shown = json_lines(capsys.readouterr().out)
    expected = Reranker(cross_encoder).rank(QUERY, DOCUMENTS)
    assert [(row["line"] - 1, row["score"], row["text"]) for row in shown] == expected
    assert [row["rank"] for row in shown] == [1, 2, 3, 4, 5]

    assert main([*arguments, "--top-k", "2"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 3
    assert table[1].split()[:3] == ["1", f"{expected[0].score:.4f}", str(expected[0].index + 1)]
    assert table[1].endswith(expected[0].document)


def test_a_terminal_gets_only_what_it_can_show(
    cross_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = tmp_path / "documents.jsonl"
    write_lines(documents, [{"text": "caf\u00e9 \u732b \x1b[2J\nfox"}])
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr("sys.stdout", terminal)
    assert main(["rank", str(cross_encoder), "--query", "x", "--documents", str(documents)]) == 0
    terminal.seek(0)
    assert terminal.read().splitlines()[1].endswith("  caf\u00e9 ? ?[2J fox")


def test_rank_reads_standard_input_and_ids(
    cross_encoder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = b"".join(
        json.dumps({"text": text, "id": f"d{i}"}).encode() + b"\n"
        for i, text in enumerate(DOCUMENTS)
    )
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(source)))
    arguments = ["--query", QUERY, "--documents", "-", "--input-format", "jsonl"]
    arguments += ["--output-format", "jsonl", "--summary"]
    assert main(["rank", str(cross_encoder), *arguments]) == 0
    *shown, last = json_lines(capsys.readouterr().out)
    assert last["summary"]["layers"] == {str(number): 3 for number in range(1, 6)}
    assert [(row["id"], row["text"], row["layers"]) for row in shown] == [
        (f"d{index}", text, 3) for index, _, text in Reranker(cross_encoder).rank(QUERY, DOCUMENTS)
    ]


def test_a_plain_encoder_ranks_by_late_interaction(
    model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model("Model")
    documents = tmp_path / "documents.txt"
    documents.write_text("\n".join(DOCUMENTS))
    arguments = ["--query", QUERY, "--documents", str(documents), "--json", "--dtype", "float32"]
    assert main(["rank", str(folder), *arguments]) == 0
    shown = json_lines(capsys.readouterr().out)
    expected = LateInteraction(folder, dtype="float32").rank(QUERY, DOCUMENTS)
    assert [(row["line"] - 1, row["score"]) for row in shown] == [r[:2] for r in expected]


def test_every_option_reaches_the_model(
    cross_encoder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    restored_threads: None,
) -> None:
    query, document = "owl hunts by night red", " ".join(DOCUMENTS)
    path = tmp_path / "documents.txt"
    path.write_text(document + "\n")
    arguments = ["rank", str(cross_encoder), "--query", query, "--documents", str(path), "--json"]

    def score(*options: str) -> float:
        assert main([*arguments, *options]) == 0
        [row] = json_lines(capsys.readouterr().out)
        return float(row["score"])

    # Of 9 tokens 6 are for both texts: 5 and 1, or 3 and 3.
    options: dict[str, Any] = {"max_length": 9, "activation": "identity", "dtype": "bfloat16"}
    options["truncation"] = "only_second"
    flags = {f"--{name.replace('_', '-')}": str(value) for name, value in options.items()}
    given = score(*(word for flag in flags.items() for word in flag), "--threads", "1")
    assert packrank_kernels.get_num_threads() == 1
    assert given == Reranker(cross_encoder, **options).rank(query, [document])[0].score
    for left_out in flags:
        others = (word for flag in flags.items() if flag[0] != left_out for word in flag)
        assert score(*others) != given, left_out


# score


@pytest.mark.parametrize("suffix", ["ForSequenceClassification", "Model"])
def test_scores_come_in_order_through_every_window(
    model: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
) -> None:
    monkeypatch.setattr(score_file, "_FIRST_BATCH_PAIRS", 3)
    folder = model(suffix, num_labels=1)
    queries = ["owl by night", "red dog"]
    pairs = [(queries[i % 2], DOCUMENTS[i % 5]) for i in range(11)]
    source = write_lines(
        tmp_path / "pairs.jsonl",
        [{"query": q, "document": d, "id": [i]} for i, (q, d) in enumerate(pairs)],
    )
    out = tmp_path / "out.jsonl"
    capsys.readouterr()
    assert main(["score", str(folder), str(source), "--output", str(out)]) == 0
    rows = json_lines(out.read_text())
    assert [row["id"] for row in rows] == [[i] for i in range(11)]
    if suffix == "Model":
        by_query = {q: LateInteraction(folder).rank(q, DOCUMENTS) for q in queries}
        want = [next(r.score for r in by_query[q] if r.document == d) for q, d in pairs]
    else:
        want = Reranker(folder).score(pairs).tolist()
    assert [row["score"] for row in rows] == want
    summary = capsys.readouterr().err
    assert summary.startswith("pairs scored: 11, rows: 11, failed: 0")
    assert "pairs/s" in summary and "tokens/s" in summary


def test_several_labels_give_lists(model: Any, tmp_path: Path) -> None:
    folder = model(num_labels=3)
    source = write_lines(tmp_path / "pairs.jsonl", [{"query": "red", "document": "fox"}])
    out = tmp_path / "out.jsonl"
    assert main(["score", str(folder), str(source), "--output", str(out), "--quiet"]) == 0
    [row] = json_lines(out.read_text())
    assert row["score"] == Reranker(folder).score([("red", "fox")])[0].tolist()


def test_tokens_are_counted(cross_encoder: Path) -> None:
    reranker = Reranker(cross_encoder)
    reranker.score([("red fox", "blue dog runs"), ("red", "")])
    assert reranker.num_tokens == (2 + 3 + 3) + (1 + 0 + 3)


# info


def test_info_names_every_op_and_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    assert torch.__version__ in shown
    assert ("cuda graphs" in shown) == torch.cuda.is_available()
    for dtype in (torch.float32, torch.bfloat16):
        for op, row in packrank_kernels.backends(torch.device("cpu"), dtype).items():
            first = next(name for name, reason in row if reason is None)
            assert f"  {op:17} {first}" in shown
            for name, reason in row:
                assert reason is None or f"not {name}: {reason}" in shown


@pytest.mark.parametrize(
    ("ops", "reason", "expected"),
    [
        ([], None, "captured and replayed"),
        ([], "operation not permitted", "none: operation not permitted"),
        (["attention", "linear"], None, "none: attention, linear would wait for the device"),
    ],
)
def test_info_says_whether_packs_run_in_graphs(
    monkeypatch: pytest.MonkeyPatch, ops: list[str], reason: str | None, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a device")
    monkeypatch.setattr(info, "ops_that_wait", lambda device, dtype: ops)
    monkeypatch.setattr(info, "why_not", lambda device: reason)
    monkeypatch.setattr(packrank_kernels, "backends", lambda device, dtype: {})
    lines = list(info.describe_machine())
    assert f"cuda graphs      {expected}" in lines


@pytest.mark.parametrize("missing", [None, "packrank_kernels._cuda cannot be loaded (no libc)"])
def test_info_says_whether_the_cuda_module_loads(
    monkeypatch: pytest.MonkeyPatch, missing: str | None
) -> None:
    """Without a device too: for attention and MaxSim, in both dtypes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for module in (cuda, cuda_maxsim):
        monkeypatch.setattr(module, "_missing", missing)
    loaded = "packrank_kernels._cuda is loaded, but the tensors are on cpu, not on a CUDA device"
    lines = list(info.describe_machine())
    assert lines.count(f"  {'':17} not cuda: {missing or loaded}") == 4


def test_backends_agree_with_dispatch() -> None:
    rows = packrank_kernels.backends(torch.device("cpu"), torch.float64)
    assert rows["maxsim"][-1] == ("reference", None)


def test_info_describes_a_model(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(model(num_labels=3))]) == 0
    shown = capsys.readouterr().out
    for words in ("BertForSequenceClassification", "60 in 4 heads", "40 tokens", "identity"):
        assert words in shown
    assert main(["info", str(model("Model"))]) == 0
    shown = capsys.readouterr().out
    assert "late interaction (encoder)" in shown and "40 tokens of a document" in shown


def pickled(folder: Path) -> None:
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()


def without(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        save_file({n: x for n, x in weights.items() if n != name}, folder / "model.safetensors")

    return damage


def wider(folder: Path) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"intermediate_size": 84}))


@pytest.mark.parametrize(
    ("suffix", "damage", "reason"),
    [
        ("ForSequenceClassification", pickled, "has only pytorch_model.bin; convert it once with"),
        ("Model", pickled, "has only pytorch_model.bin; convert it once with"),
        ("ForSequenceClassification", without("classifier.bias"), "no tensor classifier.bias"),
        ("Model", without("encoder.layer.2.output.dense.bias"), "no tensor encoder.layer.2.output"),
        ("ForSequenceClassification", wider, "has shape [83, 60], config.json implies [84, 60]"),
    ],
)
def test_info_says_what_cannot_be_loaded(
    model: Any,
    suffix: str,
    damage: Callable[[Path], None],
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = model(suffix, num_labels=1)
    damage(folder)
    assert main(["info", str(folder)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert reason in line
