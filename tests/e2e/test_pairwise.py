"""Pairs and sets of documents judged by language models, from texts to rankings."""

import itertools
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import encoder_decoders
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from chats import save as save_tokenizer
from listwise_folders import chat_model
from sorting_oracles import upstream_bubble, upstream_heapsort

from packrank import InputError, Listwise, ModelError, Pairwise, Setwise, set_num_threads
from packrank.ordering.by_labels import FormPrompts
from packrank.request import Ranking

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


def pair_prompt(query: str, first: str, second: str) -> str:
    return (
        f'Given a query "{query}", which of the following two passages is more relevant to the '
        f'query?\n\nPassage A: "{first}"\n\nPassage B: "{second}"\n\nOutput Passage A or Passage B:'
    )


def set_prompt(query: str, texts: list[str]) -> str:
    passages = "\n\n".join(f'Passage {"ABCDEFGH"[n]}: "{text}"' for n, text in enumerate(texts))
    return (
        f'Given a query "{query}", which of the following passages is the most relevant one to the '
        f"query?\n\n{passages}\n\nOutput only the passage label of the most relevant passage:"
    )


class ChatOracle:
    """A chat model of transformers, one prompt at a time."""

    def __init__(self, folder: Path, model: Any) -> None:
        self.folder, self.model = folder, model
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def labels(self, prompt: str, labels: str) -> np.ndarray:
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        ids = self.tokenizer(text + " Passage:").input_ids
        with torch.no_grad():
            logits = self.model(torch.tensor([ids])).logits[0, -1].numpy()
        vocabulary = self.tokenizer.get_vocab()
        # What generation would have to write, stripped and in capitals.
        found = [
            max(logits[id] for piece, id in vocabulary.items() if piece.strip("Ġ▁").upper() == one)
            for one in labels
        ]
        return np.array(found)


class SeqOracle:
    """A T5 of transformers, one prompt at a time."""

    def __init__(self, folder: Path, model: Any) -> None:
        self.folder, self.model = folder, model
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def logits(self, prompt: str, read: list[int]) -> np.ndarray:
        ids = self.tokenizer(prompt).input_ids
        assert ids[-1] == self.tokenizer.eos_token_id
        with torch.no_grad():
            out = self.model(input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([read]))
        return np.asarray(out.logits[0, -1].numpy())

    def labels(self, prompt: str, labels: str) -> np.ndarray:
        def ids(text: str) -> list[int]:
            return list(self.tokenizer(text, add_special_tokens=False).input_ids)

        logits = self.logits(prompt, ids("<pad> Passage"))
        return np.array([logits[ids(f"<pad> Passage {label}")[-1]] for label in labels])


Oracle = ChatOracle | SeqOracle


def t5_tokenizer() -> tokenizers.Tokenizer:
    """As T5's: SentencePiece pieces, </s> after each text."""
    letters = sorted(
        set('abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789é漢字?:"\n,.')
    )
    words = ["Passage", "true", "false", "Query", "query", "panda", "Document", "relevant", "the"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(letter, -6.0) for letter in letters] + [(f"▁{word}", -5.0) for word in words]
    pieces += [(f"▁{letter}", -5.5) for letter in letters if letter.isupper()]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=2))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = tokenizers.decoders.Metaspace(prepend_scheme="always")
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    backend.add_special_tokens(["<pad>", "</s>", "<unk>"])
    return backend


def seq_model(folder: Path, **options: Any) -> Any:
    backend = t5_tokenizer()
    torch.manual_seed(2)
    size = backend.get_vocab_size()
    # Of these some pairs win in both orders.
    model = encoder_decoders.save(folder, "gated", 0.2, vocab_size=size, **options)
    save_tokenizer(folder, backend, None, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    return model


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatOracle:
    folder = tmp_path_factory.mktemp("chat")
    return ChatOracle(folder, chat_model(folder))


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> SeqOracle:
    folder = tmp_path_factory.mktemp("flan-t5")
    return SeqOracle(folder, seq_model(folder))


@pytest.fixture(params=["chat", "t5"])
def oracle(request: pytest.FixtureRequest) -> Oracle:
    found: Oracle = request.getfixturevalue(request.param)
    return found


def order_of(ranking: Ranking) -> list[int]:
    assert [score for _, score, _ in ranking] == [-float(n + 1) for n in range(len(ranking))]
    return [index for index, _, _ in ranking]


def wins(oracle: Oracle, first: int, second: int) -> bool:
    """Whether one document beats another in both orders."""
    texts = DOCUMENTS[first], DOCUMENTS[second]
    straight = oracle.labels(pair_prompt(QUERY, *texts), "AB")
    turned = oracle.labels(pair_prompt(QUERY, *texts[::-1]), "AB")
    return bool(straight[0] > straight[1] and turned[0] <= turned[1])


@pytest.fixture(scope="module")
def tables() -> dict[int, np.ndarray]:
    return {}


def table_of(oracle: Oracle, tables: dict[int, np.ndarray]) -> np.ndarray:
    """[n, n]: who beats whom."""
    if id(oracle) not in tables:
        count = len(DOCUMENTS)
        table = np.zeros((count, count), dtype=bool)
        for first, second in itertools.permutations(range(count), 2):
            table[first, second] = wins(oracle, first, second)
        assert 0.1 < table.sum() / (count * (count - 1)) < 0.5  # neither all ties nor none
        tables[id(oracle)] = table
    return tables[id(oracle)]


def test_all_pairs_count_wins(oracle: Oracle, tables: dict[int, np.ndarray]) -> None:
    table = table_of(oracle, tables)
    points = [table[one].sum() - table[:, one].sum() for one in range(len(DOCUMENTS))]
    ranking = Pairwise(oracle.folder, method="allpair").rank(QUERY, DOCUMENTS)
    assert order_of(ranking) == sorted(range(len(DOCUMENTS)), key=lambda one: -points[one])
    assert ranking.calls is not None
    assert ranking.calls.prompts == 8 * 7


def sequential(table: np.ndarray) -> Callable[[list[int]], int]:
    def best_of(documents: list[int]) -> int:
        best = 0
        for place in range(1, len(documents)):
            if table[documents[place], documents[best]]:
                best = place
        return best

    return best_of


@pytest.mark.parametrize("top_k", [1, 3, None])
def test_pairs_sort_as_upstream_sorts(
    oracle: Oracle, tables: dict[int, np.ndarray], top_k: int | None
) -> None:
    best_of, count = sequential(table_of(oracle, tables)), len(DOCUMENTS)
    most = top_k or count
    found = Pairwise(oracle.folder).rank(QUERY, DOCUMENTS, top_k)
    assert order_of(found) == upstream_heapsort(count, most, 2, best_of)[0]
    found = Pairwise(oracle.folder, method="sliding").rank(QUERY, DOCUMENTS, top_k)
    assert order_of(found) == upstream_bubble(count, most, 2, best_of)


@pytest.mark.parametrize("top_k", [1, 3, None])
@pytest.mark.parametrize("num_child", [2, 3])
def test_sets_sort_as_upstream_sorts(oracle: Oracle, num_child: int, top_k: int | None) -> None:
    asked: list[list[int]] = []

    def best_of(documents: list[int]) -> int:
        if len(documents) < 2:
            return 0
        asked.append(documents)
        labels = "ABCDEFGH"[: len(documents)]
        prompt = set_prompt(QUERY, [DOCUMENTS[one] for one in documents])
        return int(oracle.labels(prompt, labels).argmax())

    count = len(DOCUMENTS)
    most = top_k or count
    found = Setwise(oracle.folder, num_child=num_child).rank(QUERY, DOCUMENTS, top_k)
    assert order_of(found) == upstream_heapsort(count, most, num_child, best_of)[0]
    assert found.calls is not None
    assert found.calls.prompts == len({tuple(one) for one in asked})
    setwise = Setwise(oracle.folder, num_child=num_child, method="sliding")
    found = setwise.rank(QUERY, DOCUMENTS, top_k)
    assert order_of(found) == upstream_bubble(count, most, num_child + 1, best_of)


def test_duo_t5_is_known_by_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "duot5-base-msmarco"
    oracle = SeqOracle(folder, seq_model(folder))
    true, false = (
        oracle.tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("true", "false")
    )

    def likely(first: int, second: int) -> float:
        prompt = (
            f"Query: {QUERY} Document0: {DOCUMENTS[first]} Document1: {DOCUMENTS[second]} "
            "Relevant: "
        )
        logits = oracle.logits(prompt, [0])
        return float(1 / (1 + np.exp(logits[false] - logits[true])))

    count = len(DOCUMENTS)
    points = np.zeros(count)
    for first, second in itertools.combinations(range(count), 2):
        points[first] += likely(first, second)
        points[second] += 1 - likely(first, second)
    ranking = Pairwise(folder, method="allpair").rank(QUERY, DOCUMENTS)
    assert order_of(ranking) == np.argsort(-points, kind="stable").tolist()
    assert ranking.calls is not None
    assert ranking.calls.prompts == count * (count - 1) // 2

    table = np.array([[likely(a, b) > likely(b, a) for b in range(count)] for a in range(count)])
    found = Pairwise(folder).rank(QUERY, DOCUMENTS, 4)
    assert order_of(found) == upstream_heapsort(count, 4, 2, sequential(table))[0]


@pytest.mark.usefixtures("restored_threads")
def test_company_changes_nothing(oracle: Oracle) -> None:
    others = [("it was", ["the", "panda", "a"]), ("a", []), (QUERY, DOCUMENTS), ("q", ["a"])]
    for ranker in (Pairwise(oracle.folder), Setwise(oracle.folder, votes=3)):
        alone = ranker.rank(QUERY, DOCUMENTS, 3)
        found = ranker.rank_many(others, 3)
        assert found[2] == alone
        assert found[2].calls == alone.calls
        assert found[1] == []
        assert [index for index, _, _ in found[3]] == [0]
        set_num_threads(2)
        assert ranker.rank(QUERY, DOCUMENTS, 3) == alone
        set_num_threads(1)
    small = Pairwise(oracle.folder, budget_tokens=100).rank(QUERY, DOCUMENTS, 3)
    assert small == Pairwise(oracle.folder).rank(QUERY, DOCUMENTS, 3)


def test_long_texts_are_cut(chat: ChatOracle) -> None:
    pairwise = Pairwise(chat.folder, query_length=2, document_length=3, method="allpair")
    texts = ["panda panda panda panda", "what is the query of it"]
    tokenizer = chat.tokenizer

    def cut(text: str, length: int) -> str:
        return str(tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids[:length]))

    cut_already = Pairwise(chat.folder, method="allpair").rank(
        cut(QUERY, 2), [cut(text, 3) for text in texts]
    )
    found = pairwise.rank(QUERY, texts)
    assert order_of(found) == order_of(cut_already)
    assert found.calls == cut_already.calls


def test_doors_are_pickled_as_their_calls(chat: ChatOracle) -> None:
    for ranker in (Pairwise(chat.folder), Setwise(chat.folder, num_child=2)):
        again = pickle.loads(pickle.dumps(ranker))
        assert again.rank(QUERY, DOCUMENTS, 2) == ranker.rank(QUERY, DOCUMENTS, 2)


@pytest.mark.parametrize(
    ("door", "options", "message"),
    [
        (Pairwise, {"method": "bubble"}, "method is 'bubble', expected one of 'allpair'"),
        (Pairwise, {"query_length": 0}, "query_length is 0"),
        (Setwise, {"method": "allpair"}, "method is 'allpair', expected one of 'heapsort'"),
        (Setwise, {"num_child": 23}, "24 documents are compared at a time, and there are 23"),
        (Setwise, {"num_child": 0}, "num_child is 0"),
        (Setwise, {"votes": "3"}, "votes is '3'"),
        (Listwise, {}, 'does not say how it ranks; pass method="listwise"'),
        (Listwise, {"method": "first", "window": 1}, "window is 1"),
        (Listwise, {"method": "first", "window": 27}, "window is 27, and there are 26 letters"),
        (Listwise, {"method": "first", "stride": 21}, "stride is 21 and window 20"),
        (Listwise, {"method": "first", "constrained": True}, "constrained is for what is written"),
        (Listwise, {"method": "first", "constrained": 1}, "constrained is 1, expected True or"),
        (Listwise, {"method": "first", "context": 5000}, "context is 5000, but the model has 2000"),
        (Listwise, {"method": "first", "block_size": 3}, "block_size is for jina-reranker-v3, and"),
        (Listwise, {"method": "setwise"}, "method is 'setwise', expected one of 'listwise'"),
    ],
)
def test_options_are_checked(
    chat: ChatOracle, door: type[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        door(chat.folder, **options)


def test_what_is_no_language_model_is_refused(
    t5: SeqOracle, checkpoint: Callable[..., Path], save_tokenizer: Callable[..., None]
) -> None:
    with pytest.raises(ModelError, match="an encoder-decoder"):
        Listwise(t5.folder, method="first")
    folder = checkpoint("Bert")
    save_tokenizer(folder, "a b")
    with pytest.raises(ModelError, match="a cross-encoder; Reranker scores with it"):
        Pairwise(folder)


def test_a_prompt_that_does_not_fit_fails_its_query_alone(
    chat: ChatOracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where only the prompt of a question shows it, of texts that cutting makes longer."""
    right = FormPrompts.ids

    def fails(self: Any, asked: Any, documents: Any) -> Any:
        if asked[0] == "long":
            raise InputError("a prompt of 2 documents has 2001 tokens")
        return right(self, asked, documents)

    pairwise = Pairwise(chat.folder)
    want = pairwise.rank(QUERY, DOCUMENTS[:3])
    monkeypatch.setattr(FormPrompts, "asked", lambda self, query, texts: (query, list(texts)))
    monkeypatch.setattr(FormPrompts, "ids", fails)
    found = pairwise.try_rank_many([("long", ["a", "b"]), (QUERY, DOCUMENTS[:3])])
    assert found[0] == ([], dict.fromkeys((0, 1), "a prompt of 2 documents has 2001 tokens"))
    assert found[1] == (want, {})


def test_a_cut_keeps_what_the_vocabulary_lacks(t5: SeqOracle) -> None:
    """Of T5 unknown signs; a cut text reads as the start of the whole."""
    text = "{panda} the ~ query {relevant} panda"
    for length in range(2, 8):
        prompts = Setwise(t5.folder, document_length=length)._way._prompts  # type: ignore[attr-defined]
        _, [cut] = prompts.asked("q", [text])
        ids = t5.tokenizer(cut, add_special_tokens=False).input_ids
        assert ids == t5.tokenizer(text, add_special_tokens=False).input_ids[:length]
        assert "<unk>" not in cut


@pytest.mark.parametrize(
    ("missing", "message"),
    [("▁B", "no token 'B' after '<pad> Passage'"), ("▁true", "no token 'true' after ''")],
)
def test_labels_that_are_no_tokens_are_refused(
    t5: SeqOracle, tmp_path: Path, missing: str, message: str
) -> None:
    shutil.copytree(t5.folder, tmp_path / "t5")
    path = tmp_path / "t5/tokenizer.json"
    path.write_text(path.read_text().replace(f'"{missing}"', '"▁zzz"'))
    with pytest.raises(ModelError, match=message):
        Pairwise(tmp_path / "t5", prompt="prp" if missing == "▁B" else "duot5")


def test_a_prompt_of_duo_t5_can_be_asked_for(t5: SeqOracle) -> None:
    duo = Pairwise(t5.folder, method="allpair", prompt="duot5").rank(QUERY, DOCUMENTS)
    assert duo.calls is not None
    assert duo.calls.prompts == 8 * 7 // 2
    with pytest.raises(InputError, match="prompt is 'duo', expected one of 'prp', 'duot5'"):
        Pairwise(t5.folder, prompt="duo")  # type: ignore[arg-type]


def test_a_prompt_that_does_not_fit_is_refused(chat: ChatOracle) -> None:
    long = "panda " * 3000
    pairwise = Pairwise(chat.folder, document_length=1000)
    with pytest.raises(
        InputError, match=r"a prompt of 2 documents has \d+ tokens, and the model r"
    ):
        pairwise.rank(QUERY, [long, long])
