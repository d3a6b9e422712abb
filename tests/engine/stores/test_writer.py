"""Vectors from elsewhere get into a store as they are, or are refused in a sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from packrank import InputError, Store, StoreError, StoreWriter, maxsim
from packrank.stores import appender as appender_file
from packrank.stores import writer as writer_file
from packrank.stores.appender import Appender
from packrank.stores.manifest import Source
from packrank_kernels import TokenEmbeddings

SIZE = 8
LENGTHS = [3, 0, 9, 1, 2]
IDS = ["a", "", "ü/€ 𝄞", "line\nbreak", "0"]


def documents() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    every = torch.randn(sum(LENGTHS), SIZE, generator=generator)
    return list(torch.split(every, LENGTHS))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


GIVEN: dict[str, Callable[[], tuple[Any, ...]]] = {
    "tensors": lambda: (documents(),),
    "arrays": lambda: ([x.numpy() for x in documents()],),
    "float64": lambda: (tuple(x.double().numpy() for x in documents()),),
    "that need a gradient": lambda: ([x.requires_grad_() for x in documents()],),
    "end to end": lambda: (torch.cat(documents()), LENGTHS),
    "arrays end to end": lambda: (torch.cat(documents()).numpy(), np.array(LENGTHS)),
    "lengths in a tensor": lambda: (torch.cat(documents()).numpy(), torch.tensor(LENGTHS)),
}


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("format", ["float32", "bfloat16", "int8"])
def test_a_store_holds_what_was_given(tmp_path: Path, given: str, format: str) -> None:
    with StoreWriter(tmp_path / "store", format=format) as writer:
        assert writer.num_documents == 0 and "a" not in writer
        writer.append(IDS, *GIVEN[given]())
        assert writer.num_documents == 5 and "a" in writer and "b" not in writer
        assert "\ud800" not in writer and 7 not in writer
    store, wanted = Store.open(tmp_path / "store"), TokenEmbeddings.encode(documents(), format)
    assert (store.format, store.size, [*store.ids]) == (format, SIZE, IDS)
    assert (store.model, store.num_cut, store.complete) == (None, None, True)
    assert torch.equal(store.embeddings.values, wanted.values)
    assert torch.equal(store.embeddings.cu_seqlens, wanted.cu_seqlens)
    query = torch.eye(SIZE)[:4]
    scores = maxsim(query, store)
    assert isinstance(scores, torch.Tensor)
    if format == "float32":
        expected = [(query @ x.T).amax(1).sum() if len(x) else -torch.inf for x in documents()]
        torch.testing.assert_close(scores, torch.tensor(expected))


def test_documents_of_one_length(tmp_path: Path) -> None:
    every = torch.randn(4, 3, SIZE)
    with StoreWriter(tmp_path / "store", format="float32") as writer:
        writer.append([*"abcd"], every.numpy())
        writer.append([], [])
    assert torch.equal(Store.open(tmp_path / "store").embeddings.values, every.flatten(0, 1))


@pytest.mark.parametrize("format", ["8bit", "4bit", "2bit", "1bit"])
def test_residual_codes_are_trained_on_a_sample(tmp_path: Path, format: str) -> None:
    pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(2)
    sample = torch.nn.functional.normalize(torch.randn(400, SIZE, generator=generator))
    kept = sample.clone()
    options: dict[str, Any] = {"format": format, "sample": sample.numpy(), "centroids": 16}
    with StoreWriter(tmp_path / "store", **options) as writer:
        writer.append(["a"], [sample[:50]])
    with StoreWriter(tmp_path / "store", **options) as writer:  # as before
        writer.append(["b"], [sample[50:99]])
    assert torch.equal(sample, kept)
    store = Store.open(tmp_path / "store")
    assert store.format == format and store.embeddings.codec is not None
    assert len(store.embeddings.codec.centroids) == 16
    errors = (store.embeddings.decode(0) - sample[:50]).norm(dim=1)
    assert errors.mean() < {"8bit": 0.05, "4bit": 0.15, "2bit": 0.4}.get(format, 0.7)


# Going on


def test_it_goes_on_with_the_same_bytes(tmp_path: Path) -> None:
    """Where it was left, by an error too; what was appended is there."""
    with StoreWriter(tmp_path / "undisturbed", model="colbert-x") as writer:
        writer.append(IDS, documents())
    for stop in range(1, 5):
        folder = tmp_path / str(stop)
        with pytest.raises(KeyError), StoreWriter(folder, model="colbert-x") as writer:
            writer.append(IDS[:stop], documents()[:stop])
            raise KeyError("an API failed")
        with StoreWriter(folder, model="colbert-x") as writer:
            done = writer.num_documents
            assert done == stop and IDS[stop - 1] in writer
            writer.append(IDS[done:], documents()[done:])
        assert bytes_of(folder) == bytes_of(tmp_path / "undisturbed")


def test_what_was_appended_is_committed_by_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(appender_file, "monotonic", lambda: now)
    with StoreWriter(tmp_path / "store") as writer:
        for id, committed in (("a", 1), ("b", 1), ("c", 1)):
            writer.append([id], documents()[:1])
            assert len(Store.open(tmp_path / "store")) == committed
        now += 11
        writer.append(["d"], documents()[2:3])
        assert len(Store.open(tmp_path / "store")) == 4
        writer.append(["e"], documents()[2:3])
        writer.commit()
        assert len(Store.open(tmp_path / "store")) == 5


def test_much_at_once_is_brought_to_the_format_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, most in (("whole", 1 << 18), ("parts", 4)):
        monkeypatch.setattr(writer_file, "_TOKENS_AT_ONCE", most)
        with StoreWriter(tmp_path / name) as writer:
            writer.append(IDS, documents())
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "whole")


def test_a_store_that_nothing_went_into_is_not_there(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store") as writer:
        writer.append([], [])
        writer.commit()
    assert not (tmp_path / "store").exists()


# Refused

ONE = torch.ones(2, SIZE)
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "ids are a string": (("ab", [ONE, ONE]), "ids is a str, expected a sequence of strings"),
    "an id is a number": (([7], [ONE]), r"ids\[0\] is a int, expected a str"),
    "a surrogate": ((["\ud800"], [ONE]), "the id of document 0 holds a lone surrogate"),
    "an id twice": ((["x", "y", "x"], [ONE] * 3), r"ids\[0\] and ids\[2\] are both 'x'"),
    "too few ids": ((["x"], [ONE, ONE]), "there are 1 ids for 2 documents"),
    "one matrix": ((["x"], ONE), r"of shape \[2, 8\], expected N of \[L, D\]; with \[T, D\] give"),
    "a vector": ((["x"], [ONE[0]]), r"documents\[0\] is of shape \[8\]"),
    "lists": ((["x"], [[[1.0] * SIZE]]), r"documents\[0\] is of type list, neither a tensor nor"),
    "whole numbers": ((["x"], [ONE.int()]), r"documents\[0\] is of dtype torch.int32, expected fl"),
    "numbers of numpy": ((["x"], [ONE.int().numpy()]), "is of dtype int32, expected floating"),
    "nan": ((["x", "y"], [ONE, ONE * torch.nan]), r"documents\[1\] holds a number that is not fin"),
    "infinity": ((["x"], [(ONE * torch.inf).numpy()]), "holds a number that is not finite"),
    "past float16": ((["x"], [ONE * 1e5]), r"documents\[0\] holds a number that float16 cannot"),
    "past float32": ((["x"], [ONE.double() * 1e300]), "holds numbers that float32 cannot; scale"),
    "another dimension": ((["x"], [torch.ones(2, 9)]), "are of 9 dimensions, and .*store of 8"),
    "filled up": ((["x"], [torch.cat([ONE, 0 * ONE])]), "ends with a row of zeros; if it was fi"),
    "lengths": ((["x"], ONE, [3]), "lengths add up to 3, and documents have 2"),
    "a negative length": ((["x", "y"], ONE, [3, -1]), r"lengths\[1\] is -1, expected a whole numb"),
    "half a length": ((["x"], ONE, [2.0]), r"lengths\[0\] is 2.0, expected a whole number"),
    "lengths of documents": ((["x"], [ONE], [2]), "documents is of type list, neither a tensor"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_stored_is_a_sentence(tmp_path: Path, what: str) -> None:
    arguments, message = REFUSED[what]
    with StoreWriter(tmp_path / "store", format="float16") as writer:
        writer.append(["a"], [ONE])
        with pytest.raises(InputError, match=message):
            writer.append(*arguments)
        assert writer.num_documents == 1
    assert [*Store.open(tmp_path / "store").ids] == ["a"]


def test_an_id_of_the_store_is_refused(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store") as writer:
        writer.append(["a"], [ONE])
        with pytest.raises(StoreError, match=r"has a document 'a' already; leave out"):
            writer.append(["b", "a"], [ONE, ONE])
        assert "b" not in writer
        writer.append(["b"], [ONE])
    assert [*Store.open(tmp_path / "store").ids] == ["a", "b"]


def test_dimensions_of_the_first_documents_agree(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store") as writer:
        with pytest.raises(InputError, match=r"documents\[1\] is of 9 dimensions, and documents"):
            writer.append(["a", "b"], [ONE, torch.ones(1, 9)])
        with pytest.raises(InputError, match="vectors are of 0 dimensions"):
            writer.append(["a"], [torch.ones(0, 0)])
    assert not (tmp_path / "store").exists()


IDENTITY = {"name": "model", "vectors": "ab", "document_length": 20}


def test_a_store_is_gone_on_with_as_it_was_made(tmp_path: Path) -> None:
    def write(name: str, **options: Any) -> None:
        with StoreWriter(tmp_path / name, **options) as writer:
            writer.append([str(writer.num_documents)], [ONE])

    made: dict[str, Any] = {"nobody": None, "name": "colbert-x", "identity": IDENTITY}
    for name, model in made.items():
        write(name, format="float16", model=model)
        write(name, model=model)
        assert len(Store.open(tmp_path / name)) == 2
    write("name")  # whose name is kept
    write("identity", model=IDENTITY | {"name": "the same elsewhere"})
    for name, options, message in (
        ("name", {"format": "int8"}, "is of format float16, and format is int8; leave it out"),
        ("nobody", {"model": "y"}, "does not say what made its vectors, and model is y"),
        ("name", {"model": "y"}, "holds vectors of colbert-x, and model is y"),
        ("name", {"model": IDENTITY}, "holds vectors of colbert-x, and model is model"),
        ("identity", {"model": IDENTITY | {"vectors": "x"}}, "another one or with other settings"),
        ("identity", {"model": IDENTITY | {"document_length": 9}}, "or with other settings"),
        ("identity", {"model": "model"}, "holds vectors of model, and model is model"),
        ("identity", {}, "was encoded by model; pass its LateInteraction.identity as model"),
    ):
        with pytest.raises(StoreError, match=message):
            StoreWriter(tmp_path / name, **options)
        assert len(Store.open(tmp_path / name)) in (2, 3)


def test_options_that_cannot_be_are_refused(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"format": "3bit"}, "format is '3bit', expected one of"),
        ({"format": "4bit"}, "format 4bit is trained on vectors like those that will come; pass"),
        ({"sample": ONE}, "sample is for formats 8bit to 1bit, and format is int8"),
        ({"centroids": 4}, "centroids is for formats 8bit to 1bit"),
        ({"centroids": 0}, "centroids is 0, expected a whole number"),
        ({"model": 7}, "model is a int, expected a name or LateInteraction.identity"),
        ({"model": {"name": 7}}, "expected a name or LateInteraction.identity"),
        ({"model": {"name": "x", "vectors": 7}}, "expected a name or LateInteraction.identity"),
        ({"model": {"name": "x", "more": ONE}}, "model holds what JSON cannot"),
        ({"model": "\ud800"}, "the model holds a lone surrogate"),
        ({"format": "4bit", "sample": ONE[0]}, r"sample is of shape \[8\], expected \[T, D\]"),
        ({"format": "4bit", "sample": ONE * torch.inf}, "sample holds a number that is not fin"),
        ({"format": "2bit", "sample": ONE[:, :6]}, "of 6 dimensions, and format 2bit takes a mul"),
    ]
    for options, message in cases:
        with pytest.raises(InputError, match=message):
            StoreWriter(tmp_path / "store", **options)
        assert not (tmp_path / "store").exists()
    with pytest.raises(InputError, match="the path of a store is a int"):
        StoreWriter(7)  # type: ignore[arg-type]


def test_an_unfinished_store_is_finished_first(tmp_path: Path) -> None:
    with Appender(tmp_path / "store") as appender:
        appender.create("int8", SIZE, None)
        appender.commit(Source(lines=3))
    with pytest.raises(StoreError, match="is unfinished; run packrank encode again first"):
        StoreWriter(tmp_path / "store")
    Appender(tmp_path / "store").close()  # and others may write


def test_what_is_closed_stays_closed(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "store")
    writer.append(["a"], [ONE])
    for _ in range(2):
        writer.close()
        with pytest.raises(StoreError, match="store is closed; open it again"):
            writer.append(["b"], [ONE])
    assert writer.num_documents == 1 and "a" in writer
    with StoreWriter(tmp_path / "store") as again:
        again.append(["b"], [ONE])
    assert [*Store.open(tmp_path / "store").ids] == ["a", "b"]


def test_a_disk_that_is_full_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was committed stays, and the block ends by the first error."""
    with StoreWriter(tmp_path / "store") as writer:
        writer.append(["a"], [ONE])
        writer.commit()

        def fail(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("packrank.stores.disk.write", fail)
            with pytest.raises(StoreError, match="No space left on device; it is as of its last"):
                writer.append(["b"], [ONE])
        assert writer.num_documents == 1
        writer.append(["b"], [ONE])
    assert [*Store.open(tmp_path / "store").ids] == ["a", "b"]


def test_a_batch_that_fails_in_its_middle_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_file, "_TOKENS_AT_ONCE", 4)
    with StoreWriter(tmp_path / "whole") as writer:
        writer.append(["first"], documents()[:1])
        writer.append(IDS, documents())
    encode, calls = Appender._encode, 0

    def broken(self: Appender, given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("can't allocate memory")
        return encode(self, given)

    with StoreWriter(tmp_path / "store") as writer:
        writer.append(["first"], documents()[:1])
        with monkeypatch.context() as patch:
            patch.setattr(Appender, "_encode", broken)
            with pytest.raises(RuntimeError, match="allocate"):
                writer.append(IDS, documents())
        assert writer.num_documents == 1 and "first" in writer and "a" not in writer
        writer.append(IDS, documents())
    assert bytes_of(tmp_path / "store") == bytes_of(tmp_path / "whole")
