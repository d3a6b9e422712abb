"""Rankings that a model writes, or begins to: transformers' generate, rank_llm's loop by hand."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from listwise_folders import chat_model
from rank_llm import SYSTEM, told

from packrank import InputError, Listwise, PairError
from packrank.models.generative import GenerativeModel
from packrank.ordering.by_writing import ByWriting
from packrank.ordering.permutation import read_permutation
from packrank.request import Ranking
from packrank.runtime import generation
from packrank.runtime.generation import PAGE_TOKENS, Generator

QUERY = "what is a panda?"
DOCUMENTS = [
    "a panda is an animal",
    "it was the query of a document",
    "the passage 漢字 é",
    "",
    "what is the document",
    "a panda",
    "0 1 0 1",
    "yes no yes",
]


@pytest.fixture(autouse=True, scope="module")
def _small_caches() -> Iterator[None]:
    """Tests fill memory that is not written yet, which of a whole cache takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "default_cache_bytes", lambda device: 64 << 20)
        yield


class Oracle:
    """A chat model of transformers that ranks one window at a time."""

    def __init__(self, folder: Path, model: Any) -> None:
        self.folder, self.model = folder, model
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.stop = self.tokenizer.convert_tokens_to_ids("<|im_end|>")

    def answer(self, query: str, texts: Sequence[str]) -> tuple[str, int]:
        """What is written of a window, and of how many tokens."""
        words = [" ".join(text.split()) for text in texts]
        messages = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": told(words, query)},
        ]
        prompt = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        ids = torch.tensor([self.tokenizer(prompt).input_ids])
        plain = " > ".join(f"[{n + 1}]" for n in range(len(texts)))
        count = len(self.tokenizer(plain, add_special_tokens=False).input_ids)
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=count,
            min_new_tokens=count,
            eos_token_id=self.stop,
            pad_token_id=0,
        )
        written = out[0, ids.shape[1] :]
        return str(self.tokenizer.decode(written, skip_special_tokens=True)), len(written)

    def order(self, query: str, texts: Sequence[str], size: int, stride: int) -> list[int]:
        """As rank_llm slides."""
        order = list(range(len(texts)))
        end, start = len(order), max(len(order) - size, 0)
        while end > start:
            window = order[start:end]
            answer, _ = self.answer(query, [texts[one] for one in window])
            places = read_permutation(answer, len(window)).places
            order[start:end] = [window[place] for place in places]
            if start == 0:
                break
            end, start = end - stride, max(start - stride, 0)
        return order


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    folder = tmp_path_factory.mktemp("chat") / "rank_zephyr_7b_v1_full"
    return Oracle(folder, talkative(folder))


def talkative(folder: Path, family: str = "Qwen2") -> Any:
    """A model whose answers are numbers often enough, so that it does order documents."""
    model = chat_model(folder, family, tie_word_embeddings=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("[] > 12345678", add_special_tokens=False).input_ids
    with torch.no_grad():
        model.lm_head.weight[ids] *= 4
    model.save_pretrained(folder)
    return model


def indices(ranking: Ranking) -> list[int]:
    assert [score for _, score, _ in ranking] == [-float(n + 1) for n in range(len(ranking))]
    return [index for index, _, _ in ranking]


@pytest.mark.parametrize(("size", "stride"), [(20, 10), (8, 8), (4, 2), (3, 3)])
def test_windows_are_ordered_as_rank_llm_orders_them(
    oracle: Oracle, size: int, stride: int
) -> None:
    want = oracle.order(QUERY, DOCUMENTS, size, stride)
    listwise = Listwise(oracle.folder, window=size, stride=stride, context=1900)
    found = listwise.rank(QUERY, DOCUMENTS)
    assert indices(found) == want
    if size != 3:
        assert want != list(range(len(DOCUMENTS)))  # the model does order something
    assert indices(listwise.rank(QUERY, DOCUMENTS, 3)) == want[:3]


def test_what_is_asked_is_counted(oracle: Oracle) -> None:
    found = Listwise(oracle.folder, window=8, stride=4, context=1900).rank(QUERY, DOCUMENTS)
    answer, count = oracle.answer(QUERY, DOCUMENTS)
    assert found.calls is not None
    assert (found.calls.prompts, found.calls.generated_tokens) == (1, count)
    assert found.calls.repaired == (not read_permutation(answer, 8).is_whole)
    assert found.calls.prompt_tokens > 400


def test_what_is_written_can_be_held_to_orders(oracle: Oracle) -> None:
    listwise = Listwise(oracle.folder, window=8, context=1900, constrained=True)
    found = listwise.rank(QUERY, DOCUMENTS)
    assert sorted(indices(found)) == list(range(8))
    assert found.calls is not None
    assert found.calls.repaired == 0
    free = Listwise(oracle.folder, window=8, context=1900).rank(QUERY, DOCUMENTS)
    assert free.calls is not None
    assert free.calls.repaired == 1  # nonsense of a model that was never trained


def test_queries_share_steps_and_nothing_else(oracle: Oracle) -> None:
    listwise = Listwise(oracle.folder, window=4, stride=2, context=1900)
    alone = listwise.rank(QUERY, DOCUMENTS)
    others = [("it was", ["the", "panda", "a"]), ("a", []), (QUERY, DOCUMENTS), ("q", ["a"])]
    found = listwise.rank_many(others * 2)
    assert found[2] == found[6] == alone
    assert found[2].calls == alone.calls
    assert indices(found[3]) == [0]
    assert found[3].calls is not None
    assert found[3].calls.prompts == 0
    small = Listwise(oracle.folder, window=4, stride=2, context=1900, budget_tokens=64)
    assert small.rank_many(others)[2] == alone


def test_a_query_without_numbers_fails_alone(
    oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    listwise = Listwise(oracle.folder, context=1900)
    right = GenerativeModel.next_logits

    def broken(self: Any, step: Any, cache: Any) -> torch.Tensor:
        logits = right(self, step, cache)
        starts = step.cu_seqlens
        for row, place in enumerate(step.asked.tolist()):
            if "panda" in oracle.tokenizer.decode(
                step.token_ids[starts[place] : starts[place + 1]]
            ):
                logits[row] = torch.nan
        return logits

    sound = listwise.rank("q", ["b", "a"])
    monkeypatch.setattr(GenerativeModel, "next_logits", broken)
    found = listwise.try_rank_many([("panda", ["a", "b"]), ("q", ["b", "a"])])
    reason = "the model's logits for it are not finite numbers"
    assert found[0] == ([], {0: reason, 1: reason})
    assert found[1] == (sound, {})
    with pytest.raises(PairError, match="not finite numbers"):
        listwise.rank("panda", ["a", "b"])
    monkeypatch.undo()
    assert listwise.rank("q", ["b", "a"]) == sound


def test_a_query_that_is_too_long_fails_alone(oracle: Oracle) -> None:
    listwise = Listwise(oracle.folder, context=900)
    found = listwise.try_rank_many([("word " * 900, ["a", "b"]), ("q", ["b", "a"])])
    assert found[0][1].keys() == {0, 1}
    assert "and the model reads 900" in found[0][1][0]
    assert len(found[1][0]) == 2
    with pytest.raises(InputError, match=r"the query with 2 empty documents and an answer has \d"):
        listwise.rank("word " * 900, ["a", "b"])


def test_a_window_that_memory_cannot_hold_fails_alone(oracle: Oracle) -> None:
    listwise = Listwise(oracle.folder, context=1900)
    way = listwise._way
    assert isinstance(way, ByWriting)
    want = listwise.rank("q", ["a", "b"])
    size = way.generator._model.page_bytes(PAGE_TOKENS)  # type: ignore[attr-defined]
    pages = -(-(len(way.prompts.ids(way.prompts.asked("q", ["a", "b"]), [0, 1])) + 20) // 16)
    way.generator = Generator(way.generator._model, cache_bytes=pages * size)
    found = listwise.try_rank_many([(QUERY, DOCUMENTS), ("q", ["a", "b"])])
    assert found[0][1].keys() == set(range(8))
    assert "a window of 8 documents cannot be ordered: " in found[0][1][0]
    assert "the cache has pages for" in found[0][1][0]
    assert found[1] == (want, {})


def test_what_ends_an_answer_is_read_from_all_files(oracle: Oracle, tmp_path: Path) -> None:
    """rank_llm lets nothing end it; what is held to orders needs an end."""
    folder = tmp_path / "rank_zephyr"
    shutil.copytree(oracle.folder, folder)
    (folder / "generation_config.json").write_text("{}")
    for name, key in (("config.json", "eos_token_id"), ("tokenizer_config.json", "eos_token")):
        raw = json.loads((folder / name).read_text())
        raw[key] = None
        (folder / name).write_text(json.dumps(raw))
    with pytest.raises(InputError, match="names no token that ends an answer"):
        Listwise(folder, constrained=True, context=1900)
    stops = [oracle.stop, 10**9, -5]  # of which the model has one
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    found = Listwise(folder, constrained=True, context=1900).rank(QUERY, DOCUMENTS)
    assert indices(found) == indices(
        Listwise(oracle.folder, constrained=True, context=1900).rank(QUERY, DOCUMENTS)
    )


@pytest.mark.parametrize("family", ["Mistral", "Gemma2"])
def test_other_families_write_too(family: str, tmp_path: Path) -> None:
    make = talkative if family == "Mistral" else chat_model  # Gemma's head is its embedding
    model = make(tmp_path, family)
    other = Oracle(tmp_path, model)
    listwise = Listwise(tmp_path, method="listwise", window=4, stride=2, context=1900)
    assert indices(listwise.rank(QUERY, DOCUMENTS)) == other.order(QUERY, DOCUMENTS, 4, 2)


def test_bfloat16_runs(oracle: Oracle) -> None:
    found = Listwise(oracle.folder, dtype="bfloat16", context=1900).rank(QUERY, DOCUMENTS)
    assert sorted(indices(found)) == list(range(8))
    assert np.isfinite([score for _, score, _ in found]).all()


def test_first_orders_windows_by_letters(tmp_path: Path) -> None:
    folder = tmp_path / "first_mistral"
    model = chat_model(folder, "Mistral", sliding_window=None)
    oracle = Oracle(folder, model)
    first = Listwise(folder, window=4, stride=2, context=1900)
    order = list(range(len(DOCUMENTS)))
    end, start, prompts = len(order), len(order) - 4, 0
    while True:
        texts = [" ".join(DOCUMENTS[one].split()) for one in order[start:end]]
        text = oracle.tokenizer.apply_chat_template(
            [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": told(texts, QUERY, letters=True)},
            ],
            tokenize=False,
            add_generation_prompt=True,
        )
        ids = oracle.tokenizer(text + "[").input_ids
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1].numpy()
        letters = [logits[oracle.tokenizer.convert_tokens_to_ids(one)] for one in "ABCD"]
        places = np.argsort(-np.array(letters[: end - start]), kind="stable")
        order[start:end] = [order[start + place] for place in places]
        prompts += 1
        if start == 0:
            break
        end, start = end - 2, max(start - 2, 0)
    ranking = first.rank(QUERY, DOCUMENTS)
    assert indices(ranking) == order
    assert ranking.calls is not None
    assert ranking.calls.prompts == prompts
    assert ranking.calls.generated_tokens == 0


@pytest.mark.parametrize("constrained", [False, True])
def test_first_writes_letters_where_it_is_to_write(tmp_path: Path, constrained: bool) -> None:
    folder = tmp_path / "first_mistral"
    chat_model(folder, "Qwen2")
    listwise = Listwise(folder, method="listwise", constrained=constrained)
    read = []
    with pytest.MonkeyPatch.context() as patch:
        plain = Generator.add
        patch.setattr(Generator, "add", lambda *args: (read.append(args[2]), plain(*args)))
        ranking = listwise.rank(QUERY, DOCUMENTS[:3])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    [request] = read
    assert "[A] a panda is an animal\n" in tokenizer.decode(request.token_ids)
    assert sorted(indices(ranking)) == [0, 1, 2]
    assert ranking.calls is not None
    assert not constrained or ranking.calls.repaired == 0


def test_first_in_company(tmp_path: Path) -> None:
    folder = tmp_path / "first_mistral"
    chat_model(folder, "Mistral", sliding_window=None)
    first = Listwise(folder, window=4, stride=2, context=1900)
    alone = first.rank(QUERY, DOCUMENTS)
    found = first.rank_many([("panda", DOCUMENTS[:5]), (QUERY, DOCUMENTS), ("it", ["a", "b"])])
    assert found[1] == alone
    small = Listwise(folder, window=4, stride=2, context=1900, budget_tokens=100)
    assert small.rank(QUERY, DOCUMENTS) == alone
