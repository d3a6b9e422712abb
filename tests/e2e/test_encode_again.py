"""`packrank encode` into a store that is there: nothing twice, nothing lost, all is said."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm import tqdm

from packrank import InputError, LateInteraction, StoreError
from packrank.commands.cli import main
from packrank.jobs import codec as codec_file
from packrank.jobs import documents as documents_file
from packrank.jobs import encode as encode_file
from packrank.jobs.documents import Documents
from packrank.jobs.pace import Pace
from packrank.records.record import Record
from packrank.stores.appender import Appender
from packrank.stores.store import Store

TEXTS = [f"{color} {animal} runs" for color in ("red", "blue") for animal in ("fox", "dog", "owl")]


@pytest.fixture(scope="module")
def encoder(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "bert"
    shutil.copytree(checkpoint("Bert", "Model"), folder)
    save_tokenizer(folder, "red blue fox dog owl runs")
    return folder


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents_file, "_WINDOW_DOCUMENTS", 2)
    monkeypatch.setattr("packrank.stores.segments._SEGMENT_TOKENS", 1)
    monkeypatch.setattr("packrank.stores.appender._COMMIT_SECONDS", 0.0)


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def encode(*arguments: object) -> int:
    return main(["encode", *map(str, arguments), "--device", "cpu", "--quiet"])


def stop_after(monkeypatch: pytest.MonkeyPatch, segments: int, error: BaseException) -> None:
    original, left = Appender.commit, segments

    def commit(self: Appender, *args: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise error
        return original(self, *args)

    monkeypatch.setattr(Appender, "commit", commit)


@pytest.mark.parametrize("segments", range(5))
def test_appending_that_was_stopped_goes_on(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segments: int
) -> None:
    one, two = write(tmp_path / "1.txt", TEXTS), write(tmp_path / "2.txt", TEXTS[::-1])
    for store in ("undisturbed", "stopped"):
        assert encode(encoder, one, tmp_path / store) == 0
    assert encode(encoder, two, tmp_path / "undisturbed", "--append") == 0
    with monkeypatch.context() as patch:
        stop_after(patch, segments, InputError("stopped"))
        assert encode(encoder, two, tmp_path / "stopped", "--append") == (2 if segments < 4 else 0)
    for _ in range(2):
        assert encode(encoder, two, tmp_path / "stopped", "--append") == 0
        assert bytes_of(tmp_path / "stopped") == bytes_of(tmp_path / "undisturbed")
    assert len(Store.open(tmp_path / "stopped")) == 2 * len(TEXTS)


def test_a_file_that_was_edited_is_refused(
    encoder: Path, tmp_path: Path, one_sentence: Callable[..., None]
) -> None:
    store, documents = tmp_path / "store", write(tmp_path / "d.txt", TEXTS)
    assert encode(encoder, documents, store) == 0
    before = bytes_of(store)
    for lines in (["blue runs", *TEXTS[1:]], TEXTS[:-1], [*TEXTS[:-1], "red", "dog"]):
        write(documents, lines)
        assert encode(encoder, documents, store) == 2
        one_sentence("d.txt does not begin with the 6 lines added last", "--append to add all")
        assert bytes_of(store) == before
    assert encode(encoder, documents, store, "--append") == 0
    assert [*Store.open(store).ids] == [str(number) for number in range(1, 14)]


def test_files_that_were_encoded_whole_are_not_encoded_again(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop over files, stopped in the last and run again."""
    store = tmp_path / "store"
    files = [write(tmp_path / f"{n}.txt", TEXTS[n : n + 3]) for n in range(3)]
    for path in files[:2]:
        assert encode(encoder, path, store, "--append") == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 1, InputError("stopped"))
        assert encode(encoder, files[2], store, "--append") == 2
    before = (store / "store.json").read_bytes()
    for options in ([], ["--append"]):
        for path in files[:2]:
            assert encode(encoder, path, store, *options) == 0
            assert (store / "store.json").read_bytes() == before
    for _ in range(2):
        for path in files:
            assert encode(encoder, path, store, "--append") == 0
        assert [*Store.open(store).ids] == [str(number) for number in range(1, 10)]
        assert Store.open(store).complete


def test_a_file_grows_after_a_program_has_added_documents(encoder: Path, tmp_path: Path) -> None:
    store, documents = tmp_path / "store", write(tmp_path / "d.txt", TEXTS[:2])
    assert encode(encoder, documents, store) == 0
    model = LateInteraction(encoder, device="cpu")
    model.encode_documents(["fox"], store, ["4"])
    model.encode_documents(["dog", "owl"], store)
    write(documents, TEXTS)
    assert encode(encoder, documents, store) == 0
    model.encode_documents(["dog"], store)
    ids = [*Store.open(store).ids]
    assert ids == ["1", "2", "4", "3", "5", "6", "7", "8", "9", "10"]


def test_an_unfinished_store_is_finished_first(
    encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store, documents = tmp_path / "store", write(tmp_path / "d.txt", TEXTS)
    for there in (0, 2):
        with monkeypatch.context() as patch:
            stop_after(patch, 1, KeyboardInterrupt())
            assert encode(encoder, documents, store) == 130
        assert capsys.readouterr().err == "packrank: stopped; the same command goes on\n"
        assert (len(Store.open(store)), Store.open(store).complete) == (there, False)
    with pytest.raises(StoreError, match="is unfinished; run packrank encode again first"):
        LateInteraction(encoder, device="cpu").encode_documents(["fox"], store)
    rank = ["rank", str(encoder), "--query", "fox", "--store", str(store), "--device", "cpu"]
    assert main(rank) == 0
    unfinished = f"packrank: {store} is unfinished; packrank encode goes on with it\n"
    assert capsys.readouterr().err == unfinished
    assert encode(encoder, documents, store) == 0
    assert main(rank) == 0
    assert capsys.readouterr().err == ""


# Documents


def test_a_mistyped_path_leaves_no_folder(
    encoder: Path, tmp_path: Path, one_sentence: Callable[..., None]
) -> None:
    assert encode(encoder, tmp_path / "no.txt", tmp_path / "store") == 2
    one_sentence("no.txt")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", ["d.JSONL", "d.ndjson"])
def test_json_lines_by_other_names_and_ids_as_in_beir(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    records = [{"_id": "a", "text": "fox"}, {"_id": "x", "id": "b", "text": "dog"}]
    documents = write(tmp_path / name, [*map(json.dumps, records)])
    assert encode(encoder, documents, tmp_path / "store") == 0
    assert [*Store.open(tmp_path / "store").ids] == ["a", "b"]
    rank = ["rank", str(encoder), "--query", "fox", "--documents", str(documents), "--json"]
    assert main([*rank, "--device", "cpu"]) == 0
    assert {json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()} == {
        "fox",
        "dog",
    }


def test_an_id_is_taken_by_who_is_encoded(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [{"id": "a", "text": "\ud800"}, {"id": "a", "text": "fox"}, {"id": "a", "text": "x"}]
    documents = write(tmp_path / "d.jsonl", [*map(json.dumps, records)])
    assert encode(encoder, documents, tmp_path / "store") == 1
    first, second = capsys.readouterr().err.splitlines()[:2]
    assert "line 1 was left out: the document holds a lone surrogate" in first
    assert "line 3 was left out: the store has a document with the id 'a' already" in second
    assert [*Store.open(tmp_path / "store").ids] == ["a"]


# Formats


@pytest.mark.parametrize(("format", "multiple"), [("4bit", 2), ("2bit", 4)])
def test_a_format_that_does_not_fit_is_refused_before_training(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, multiple: int
) -> None:
    model = LateInteraction(encoder, device="cpu")
    model.size = 59
    monkeypatch.setattr(encode_file, "codec_for", None)
    documents = Documents(str(write(tmp_path / "d.txt", TEXTS)))
    with pytest.raises(InputError, match=f"a multiple of {multiple} .* makes 59; take --format"):
        encode_file.encode_file(
            model, model.identity, documents, tmp_path / "store", tqdm(disable=True), format=format
        )


def test_a_store_of_another_size_is_refused(
    encoder: Path, tmp_path: Path, one_sentence: Callable[..., None]
) -> None:
    with Appender(tmp_path / "store") as writer:
        writer.create("int8", 59, None)
    documents = write(tmp_path / "d.txt", TEXTS)
    assert encode(encoder, documents, tmp_path / "store") == 2
    one_sentence("holds vectors of 59 dimensions, and the model makes 60")


def test_a_codec_sees_all_of_a_file_of_long_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec_file, "_SAMPLE_CHARACTERS", 40_000)
    lines = [f"{number:4} {'x' * 994}" for number in range(400)]
    documents = Documents(str(write(tmp_path / "d.txt", lines)))
    texts, total = codec_file.sample_of(documents)
    quarters = [int(text[:4]) // 100 for text in texts]
    assert total == 400 and 38 <= len(texts) <= 40
    assert min(map(quarters.count, range(4))) >= 4


def test_of_a_line_no_more_is_kept_than_is_needed() -> None:
    record = Record(3, {"text": "fox", "title": "x" * 1000, "id": "a", "_id": "a"})
    pace = Pace(torch.device("cpu"), 512)
    assert documents_file.next_window(iter([record]), pace) == [
        Record(3, {"text": "fox", "id": "a"})
    ]


def test_what_the_kernels_refuse_is_a_sentence(
    encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_sentence: Callable[..., None],
) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("store: documents must be [L, 7]")

    monkeypatch.setattr(Appender, "append", refuse)
    assert encode(encoder, write(tmp_path / "d.txt", TEXTS), tmp_path / "store") == 2
    one_sentence("the computation failed: store: documents must be [L, 7]")


def test_nothing_is_added_to_a_damaged_store(
    encoder: Path, tmp_path: Path, one_sentence: Callable[..., None]
) -> None:
    store, documents = tmp_path / "store", write(tmp_path / "d.txt", TEXTS[:3])
    assert encode(encoder, documents, store) == 0
    values = bytearray((store / "values.bin").read_bytes())
    values[7] ^= 4
    (store / "values.bin").write_bytes(values)
    write(documents, TEXTS)
    assert encode(encoder, documents, store) == 2
    one_sentence("values.bin is damaged")
    assert (store / "values.bin").read_bytes() == values


def test_info_describes_a_store(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    assert encode(encoder, write(tmp_path / "d.txt", TEXTS), store, "--format", "float16") == 0
    assert main(["info", str(store)]) == 0
    shown = capsys.readouterr().out
    for line in (f"encoded by {encoder}", "format float16, 120 bytes a token", "documents 6"):
        assert line in " ".join(shown.split())
    assert "complete         yes" in shown and "cut              0 of them, to " in shown
    short = [encoder, tmp_path / "d.txt", tmp_path / "short", "--document-length", "4"]
    assert main(["encode", *map(str, short), "--device", "cpu"]) == 0
    said = capsys.readouterr().err
    assert "documents encoded: 6, " in said and "documents cut to 4 tokens: 6\n" in said
    write(tmp_path / "d.txt", [*TEXTS, "owl", "blue owl runs"])
    assert main(["encode", *map(str, short), "--device", "cpu"]) == 0
    assert "documents cut to 4 tokens: 1, in all 7\n" in capsys.readouterr().err
    assert main(["info", str(tmp_path / "short")]) == 0
    assert "cut              7 of them, to 4 tokens\n" in capsys.readouterr().out
