"""Blocks of a query's documents, id by id."""

from pathlib import Path

import pytest
import tokenizers
from listwise_folders import MARKERS, Jina, jina
from prompts import check_shared

from packrank.errors import InputError, ModelError
from packrank.ordering.blocks import BlockLayout, BlockRule, packed
from packrank.ordering.unreadable import Unreadable
from packrank.text.tokenizer import Tokenizer

USUAL = BlockRule(query_length=512, document_length=2048, size=125, capacity=131072)
DOCUMENTS = [
    "a panda is an animal",
    "",
    "what? 漢字 é",
    " blanks  and\nlines\n",
    "it was the query",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Jina:
    return jina(tmp_path_factory.mktemp("jina"))


def layout_of(model: Jina, rule: BlockRule = USUAL, positions: int = 4000) -> BlockLayout:
    return BlockLayout(Tokenizer.from_folder(model.folder), positions, rule)


def whole(model: Jina, query: str, documents: list[str], instruction: str = "") -> list[int]:
    """Up to the query's marker."""
    prompt = model.prompt(query, documents, instruction)
    ids = list(model.backend.encode(prompt, add_special_tokens=False).ids)
    return ids[: ids.index(model.backend.token_to_id(MARKERS[1])) + 1]


def test_a_prompt_has_the_ids_of_one_string(model: Jina) -> None:
    found = layout_of(model).lay_out("what is a panda?", DOCUMENTS)
    assert [ids.tolist() for ids in found.ids] == [whole(model, "what is a panda?", DOCUMENTS)]
    assert found.counts == [5]
    check_shared(packed([found]))


def test_an_instruction_stands_before_the_passages(model: Jina) -> None:
    tokenizer = Tokenizer.from_folder(model.folder)
    found = BlockLayout(tokenizer, 4000, USUAL, "Find pandas").lay_out("q", ["a", "b"])
    assert found.ids[0].tolist() == whole(model, "q", ["a", "b"], "Find pandas")


def test_on_a_real_vocabulary(data_dir: Path) -> None:
    backend = tokenizers.Tokenizer.from_file(str(data_dir / "tokenizers/qwen2/tokenizer.json"))
    backend.add_special_tokens(list(MARKERS))
    model = Jina(Path(), backend, None, None, None)  # type: ignore[arg-type]  # ids alone
    layout = BlockLayout(Tokenizer(backend), 4000, USUAL)
    assert layout.lay_out("q?", DOCUMENTS).ids[0].tolist() == whole(model, "q?", DOCUMENTS)


def test_markers_in_texts_are_taken_out(model: Jina) -> None:
    first, second = MARKERS
    hidden = f"<|rerank{first}_token|>"  # taking one out makes the other
    found = layout_of(model).lay_out(f"q{second}", [f"a{first}b", hidden, f"{second}{second}c"])
    assert found.ids[0].tolist() == whole(model, "q", ["ab", "", "c"])


@pytest.mark.parametrize(
    ("capacity", "size", "counts"),
    [
        (131072, 125, [7]),
        (131072, 3, [3, 3, 1]),
        (131072, 7, [7]),
        # Of documents of 3 tokens with a query of 1: a block ends once 10 or fewer are left.
        (10 + 2 + 3 * 2, 125, [2, 2, 2, 1]),
        (10 + 2 + 3 * 2 + 1, 125, [3, 3, 1]),
        (0, 125, [1] * 7),
    ],
)
def test_blocks_end_where_upstream_ends_them(
    model: Jina, capacity: int, size: int, counts: list[int]
) -> None:
    rule = BlockRule(query_length=8, document_length=10, size=size, capacity=capacity)
    documents = ["x y"] * 7  # x, blank and y: as many tokens as its words and blanks
    assert len(model.backend.encode("x y").ids) == 3
    assert len(model.backend.encode("q").ids) == 1
    found = layout_of(model, rule).lay_out("q", documents)
    assert found.counts == counts
    assert [ids.tolist() for ids in found.ids] == [whole(model, "q", ["x y"] * n) for n in counts]
    check_shared(packed([found, found]))


def test_long_texts_are_cut_and_decoded(model: Jina) -> None:
    rule = BlockRule(query_length=3, document_length=2, size=125, capacity=1000)
    found = layout_of(model, rule).lay_out("x y z", ["x y z", "漢", "x"])
    cut = model.backend.decode(model.backend.encode("漢").ids[:2])
    assert cut == "\ufffd"
    assert found.ids[0].tolist() == whole(model, "x y", ["x ", cut, "x"])


def test_a_block_that_is_too_long_becomes_two(model: Jina) -> None:
    one = len(whole(model, "q", ["x y"]))
    found = layout_of(model, positions=one + 60).lay_out("q", ["x y"] * 10)
    assert sum(found.counts) == 10
    assert len(found.counts) > 1
    assert max(map(len, found.ids)) <= one + 60
    with pytest.raises(Unreadable, match=r"document 0: with its query it has \d+ tokens, and"):
        layout_of(model, positions=one - 1).lay_out("q", ["x y"])


def test_an_instruction_with_a_marker_is_refused(model: Jina) -> None:
    tokenizer = Tokenizer.from_folder(model.folder)
    for marker in MARKERS:
        with pytest.raises(InputError, match="the instruction holds"):
            BlockLayout(tokenizer, 4000, USUAL, f"find {marker}")


def test_a_tokenizer_without_markers_is_refused() -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    with pytest.raises(ModelError, match=r"no token '<.embed_token.>', which the template needs"):
        BlockLayout(Tokenizer(backend, {"unk_token": "[UNK]"}), 100, USUAL)
