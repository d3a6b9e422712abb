"""packrank.FlagReranker beside what FlagEmbedding computes, restated over transformers."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from packrank import FlagReranker, InputError, PairError

WORDS = ["red", "blue", "fox", "owl"]
SPECIAL = 5  # ids before those of the words
PAIRS = [("red fox", "owl"), ("fox " * 40, "red"), ("red", "owl " * 50), ("fox " * 40, "owl " * 9)]


@pytest.fixture(scope="module")
def folder(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    made = tmp_path_factory.mktemp("flag") / "model"
    shutil.copytree(checkpoint("Bert", num_labels=1), made)
    save_tokenizer(made, " ".join(WORDS))
    return made


@pytest.fixture(scope="module")
def oracle(folder: Path) -> Callable[..., list[float]]:
    """oracle(pairs, max_length, query_max_length): logits, as FlagEmbedding lays pairs out.

    The query is cut to its limit, the passage to that of the pair, then the passage alone to what
    is left for it.
    """
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()

    def score(pairs: Any, max_length: int, query_max_length: int) -> list[float]:
        found = []
        for texts in pairs:
            query, passage = ([SPECIAL + WORDS.index(word) for word in x.split()] for x in texts)
            query = query[:query_max_length]
            passage = passage[: max_length - 3 - len(query)]
            ids = [2, *query, 3, *passage, 3]
            types = [0] * (len(query) + 2) + [1] * (len(passage) + 1)
            with torch.no_grad():
                given = torch.tensor([ids]), None, torch.tensor([types])
                found.append(model(*given).logits.item())
        return found

    return score


def close(found: Any, expected: Any) -> None:
    assert isinstance(found, list)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_pairs_are_cut_as_flagembedding_cuts_them(
    folder: Path, oracle: Callable[..., list[float]]
) -> None:
    model = FlagReranker(str(folder), devices="cpu", max_length=20)
    close(model.compute_score(PAIRS), oracle(PAIRS, 20, 15))
    close(model.compute_score(PAIRS, max_length=13), oracle(PAIRS, 13, 9))
    close(model.compute_score(PAIRS, query_max_length=4), oracle(PAIRS, 20, 4))
    close(model.compute_score(PAIRS, 8, 4, 10), oracle(PAIRS, 10, 4))
    other = FlagReranker(folder, devices=["cpu"], query_max_length=3, max_length=12)
    close(other.compute_score(PAIRS), oracle(PAIRS, 12, 3))


def test_the_default_length_is_within_the_model(
    folder: Path, oracle: Callable[..., list[float]]
) -> None:
    model = FlagReranker(folder)
    assert model.max_length == model.reranker.num_positions == 40
    close(model.compute_score(PAIRS), oracle(PAIRS, 40, 30))


def test_one_pair_gives_a_list_of_one(folder: Path, oracle: Callable[..., list[float]]) -> None:
    model = FlagReranker(folder)
    for pair in (PAIRS[0], list(PAIRS[0]), [PAIRS[0]]):
        found = model.compute_score(pair)
        close(found, oracle(PAIRS[:1], 40, 30))
        assert len(found) == 1 and type(found[0]) is float
    assert model.compute_score([]) == []


def test_normalize_is_a_sigmoid(folder: Path, oracle: Callable[..., list[float]]) -> None:
    expected = 1 / (1 + np.exp(-np.array(oracle(PAIRS, 40, 30))))
    close(FlagReranker(folder, normalize=True).compute_score(PAIRS), expected)
    close(FlagReranker(folder).compute_score(PAIRS, normalize=True), expected)
    close(
        FlagReranker(folder, normalize=True).compute_score(PAIRS, normalize=False),
        oracle(PAIRS, 40, 30),
    )


def test_instructions_go_before_the_texts(folder: Path, oracle: Callable[..., list[float]]) -> None:
    model = FlagReranker(
        folder,
        query_instruction_for_rerank="red",
        query_instruction_format="{} {}",
        passage_instruction_for_rerank="blue",
        passage_instruction_format="{}\\n{}",
    )
    close(model.compute_score([("fox", "owl")]), oracle([("red fox", "blue owl")], 40, 30))
    only = FlagReranker(folder, False, "red ")
    close(only.compute_score(["fox", "owl"]), oracle([("red fox", "owl")], 40, 30))


@pytest.mark.parametrize("name", ["bge-gemma", "bge-minicpm-layerwise"])
def test_decoders_score_by_their_templates(name: str, reranker_case: Callable[[str], Any]) -> None:
    case = reranker_case(name)
    expected = [float(case.want(query, document)) for query, document in case.pairs]
    for options in (
        {},
        {"query_instruction_for_rerank": "A: ", "passage_instruction_for_rerank": "B: "},
    ):
        model = FlagReranker(case.folder, max_length=40, **options)
        np.testing.assert_allclose(model.compute_score(case.pairs), expected, atol=2e-4)
    with pytest.raises(InputError, match="would go into a template"):
        FlagReranker(case.folder, query_instruction_for_rerank="Q: ")


def test_layers_of_a_layerwise_model(reranker_case: Callable[[str], Any]) -> None:
    case = reranker_case("bge-minicpm-layerwise")
    model = FlagReranker(case.folder, max_length=40, cutoff_layers=[2, 5])
    both = model.compute_score(case.pairs)
    assert [len(scores) for scores in both] == [len(case.pairs)] * 2
    close(model.compute_score(case.pairs, cutoff_layers=[2]), both[0])
    close(FlagReranker(case.folder, max_length=40).compute_score(case.pairs), both[1])


def test_a_prompt_takes_the_place_of_the_templates(reranker_case: Callable[[str], Any]) -> None:
    case = reranker_case("qwen3")
    model = FlagReranker(case.folder, max_length=case.options["max_length"])
    expected = case.open(instruction="find a panda", activation="identity").score(case.pairs)
    close(model.compute_score(case.pairs, prompt="find a panda"), expected)
    model.prompt = "find a panda"
    close(model.compute_score(case.pairs), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trust_remote_code": True}, "Packrank runs no code of a model's"),
        ({"max_length": 41}, "max_length is 41, but the model has 40 positions"),
        ({"max_length": 0}, "max_length is 0, expected a whole number"),
        ({"query_max_length": -1}, "query_max_length is -1, expected a whole number"),
        ({"batch_size": 0}, "batch_size is 0, expected a whole number"),
        ({"devices": ["mps"]}, "device 'mps' is not supported"),
        ({"prompt": "find it"}, "takes no instruction"),
        ({"cutoff_layers": [1]}, "its only head after all 3 layers"),
    ],
    ids=str,
)
def test_what_cannot_be_served_is_refused(
    folder: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        FlagReranker(folder, **options).compute_score(PAIRS)
    assert message in str(caught.value)


def test_a_model_of_several_labels_is_refused(
    folder: Path, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    several = tmp_path / "several"
    shutil.copytree(checkpoint("Bert", num_labels=3), several)
    for file in folder.glob("tokenizer*"):
        shutil.copy(file, several)
    with pytest.raises(InputError, match="the model has 3 labels, and FlagReranker is for one"):
        FlagReranker(several).compute_score(PAIRS)


def test_a_pair_that_cannot_be_scored_is_named(folder: Path) -> None:
    with pytest.raises(PairError, match="pair 1: the document is a NoneType"):
        FlagReranker(folder).compute_score([("red", "owl"), ("red", None)])


def test_half_precision_is_for_devices_that_have_it(folder: Path) -> None:
    exact = FlagReranker(folder).compute_score(PAIRS)
    assert FlagReranker(folder, use_fp16=True, devices="cpu").compute_score(PAIRS) == exact
    rounded = FlagReranker(folder, use_bf16=True).compute_score(PAIRS)
    assert rounded != exact
    np.testing.assert_allclose(rounded, exact, atol=0.1)


def test_compression_may_be_asked_for_with_a_call(reranker_case: Callable[[str], Any]) -> None:
    case = reranker_case("bge-gemma2-lightweight")
    expected = [float(case.want(query, document)) for query, document in case.pairs]
    options = {"compress_ratio": 2, "compress_layers": [1, 3]}
    model = FlagReranker(case.folder, max_length=40)
    plain = model.compute_score(case.pairs)
    found = model.compute_score(case.pairs, **options)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert found != plain and model.compute_score(case.pairs) == found
    opened = FlagReranker(case.folder, max_length=40, **options)
    assert opened.compute_score(case.pairs) == found
