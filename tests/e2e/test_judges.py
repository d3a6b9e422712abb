"""Judges in a model's place: what they know comes out of the whole path as rankings.

A perfect one ranks perfectly, one that guesses ranks as chance does, and one that errs now and then
as the same sorting does by hand. Only the model's answers are made up: prompts are written, cut,
tokenized and packed, and what they show is read back from their ids.
"""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import pytest
import tokenizers
from chats import CHATML, save
from sorting_oracles import upstream_bubble, upstream_heapsort

from packrank import Listwise, Pairwise, Setwise
from packrank.demo.metrics import ndcg, read_qrels
from packrank.ordering.joint_ranker import JointRanker
from packrank.ordering.setup import Setup
from packrank.request import Pack
from packrank.runtime.generation import Generation

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 151936,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32768,
}
WORDS = 40  # of a passage; enough to tell it from others


class Topic(NamedTuple):
    """A query, its candidates, and how good each is."""

    query: str
    texts: list[str]
    grades: list[int]


def topics_of(data_dir: Path, count: int) -> list[Topic]:
    """Of NovelEval: 20 passages a query, of grades 0 to 2."""
    folder = data_dir / "noveleval"
    lines = (folder / "corpus.tsv").read_text(encoding="utf-8").splitlines()
    corpus = dict(line.split("\t", 1) for line in lines)
    grades = dict[str, dict[str, int]]()
    for line in (folder / "qrels.txt").read_text().splitlines():
        query, _, document, grade = line.split()
        grades.setdefault(query, {})[document] = int(grade)
    found = []
    for line in (folder / "queries.tsv").read_text(encoding="utf-8").splitlines()[:count]:
        name, query = line.split("\t")
        # Told apart by what stands first, whatever is cut.
        texts = [f"{one} {' '.join(corpus[one].split()[:WORDS])}" for one in grades[name]]
        found.append(Topic(query, texts, list(grades[name].values())))
    return found


def scifact(data_dir: Path, count: int) -> list[Topic]:
    """Of scifact: the first 100 of BM25, as far as one of them is relevant."""
    folder = data_dir / "beir" / "scifact"
    qrels = read_qrels(folder / "qrels.tsv")
    lines = (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    corpus = {row["_id"]: row["text"] for row in rows}
    lines = (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    queries = {row["_id"]: row["text"] for row in rows}
    run = dict[str, list[str]]()
    for line in (folder / "bm25.top100.tsv").read_text().splitlines():
        query, document, *_ = line.split("\t")
        run.setdefault(query, []).append(document)
    found = []
    for query, documents in run.items():
        grades = [qrels.get(query, {}).get(one, 0) for one in documents]
        if any(grades[30:]) and query in queries:
            texts = [f"{one} {' '.join(corpus[one].split()[:WORDS])}" for one in documents]
            found.append(Topic(queries[query], texts, grades))
    return found[:count]


class Judge:
    """Grades of texts, and how far it errs."""

    def __init__(self, topics: list[Topic], error: float) -> None:
        self.grades = {
            (topic.query, text.split()[0]): grade
            for topic in topics
            for text, grade in zip(topic.texts, topic.grades, strict=True)
        }
        self.error = error

    def value(self, query: str, text: str, *beside: Hashable) -> float:
        """How good a text looks, beside others; the same whenever it is asked."""
        name = text.split()[0]
        digest = hashlib.sha256(repr((query, name, *beside)).encode()).digest()
        chance = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        return self.grades[query, name] + self.error * float(chance.standard_normal())

    def labels(self, prompt: str) -> dict[str, float]:
        """How good the passage of each label of a pair's or a set's prompt looks."""
        query = prompt.split('Given a query "', 1)[1].split('", which of the following', 1)[0]
        found = re.findall(r'^Passage ([A-W]): "(.*?)"$', prompt, re.MULTILINE | re.DOTALL)
        names = tuple(text.split()[0] for _, text in found)
        return {label: self.value(query, text, names) for label, text in found}

    def window(self, prompt: str) -> list[float]:
        """How good each passage of a window looks."""
        query = prompt.rsplit("Search Query: ", 1)[1].split(".\nRank the ", 1)[0]
        texts = re.findall(r"^\[(?:\d+|[A-Z])\] (.*)$", prompt, re.MULTILINE)
        names = tuple(text.split()[0] for text in texts)
        return [self.value(query, text, names) for text in texts]


class Answers:
    """Logits of labels, in a runner's place."""

    def __init__(self, judge: Judge, setup: Setup, settings: Any) -> None:
        self.judge, self.setup, self.labels = judge, setup, settings.label_token_ids

    def submit(self, pack: Pack) -> "Said":
        rows = []
        for sequence in pack:
            prompt = self.setup.tokenizer.decode(sequence.token_ids)
            if prompt.endswith("["):
                seen = self.judge.window(prompt)
                said = {chr(65 + place): value for place, value in enumerate(seen)}
            else:
                said = self.judge.labels(prompt)
            # Of each letter one token looks as good as it is, the others do not.
            names = [self.setup.tokenizer.token(one) for one in self.labels]
            plain = [name.lstrip("Ġ").upper() for name in names]
            rows.append(
                [
                    said.get(letter, -9.0) - (0.0 if letter in name else 5.0)
                    for letter, name in zip(plain, names, strict=True)
                ]
            )
        return Said(np.array(rows, dtype=np.float32))


class Said(NamedTuple):
    """Logits that are there."""

    rows: np.ndarray

    def result(self) -> np.ndarray:
        return self.rows


class Writer:
    """Written orders, in a generator's place."""

    def __init__(self, judge: Judge, setup: Setup) -> None:
        self.judge, self.setup = judge, setup
        self.waiting: list[tuple[Hashable, Generation]] = []

    def add(self, key: Hashable, request: Generation) -> None:
        self.waiting.append((key, request))

    def clear(self) -> None:
        assert not self.waiting

    def finished(self) -> Iterator[tuple[Hashable, list[int]]]:
        while self.waiting:
            key, request = self.waiting.pop()
            seen = self.judge.window(self.setup.tokenizer.decode(request.token_ids))
            order = np.argsort(-np.array(seen), kind="stable")
            [ids] = self.setup.tokenizer.encode([" > ".join(f"[{place + 1}]" for place in order)])
            assert request.min_tokens == request.max_tokens == len(ids)
            yield key, ids.tolist()


@pytest.fixture(scope="module")
def folder(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = data_dir / "tokenizers/qwen2/tokenizer.json"
    backend = tokenizers.Tokenizer.from_file(str(path))
    found = save(tmp_path_factory.mktemp("judged"), backend, CHATML, eos_token="<|im_end|>")
    (found / "config.json").write_text(json.dumps(CONFIG))
    return found


Opens = Callable[..., JointRanker]


@pytest.fixture
def judged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Opens:
    """Opens a front door over a judge."""

    def open_door(door: type[JointRanker], judge: Judge, **options: Any) -> JointRanker:
        def labelled(setup: Setup, settings: Any) -> Answers:
            return Answers(judge, setup, settings)

        monkeypatch.setattr(Setup, "labelled", labelled)
        monkeypatch.setattr(Setup, "generator", lambda setup: Writer(judge, setup))
        return door(folder, **options)  # type: ignore[call-arg]

    return open_door


DOORS: list[tuple[type[JointRanker], dict[str, Any]]] = [
    (Pairwise, {"method": "allpair"}),
    (Pairwise, {}),
    (Pairwise, {"method": "sliding"}),
    (Setwise, {}),
    (Setwise, {"method": "sliding", "votes": 3}),
    (Listwise, {"method": "listwise", "passage_words": 60}),
    (Listwise, {"method": "first", "passage_words": 60}),
]


def quality(door: JointRanker, topics: list[Topic], top_k: int = 10) -> list[float]:
    """nDCG@10 of each topic."""
    rankings = door.rank_many([(one.query, one.texts) for one in topics], top_k)
    return [
        ndcg([str(index) for index, *_ in ranking], {str(n): g for n, g in enumerate(one.grades)})
        for ranking, one in zip(rankings, topics, strict=True)
    ]


@pytest.mark.parametrize(("door", "options"), DOORS, ids=lambda part: str(part))
def test_a_perfect_judge_ranks_perfectly(
    judged: Opens, data_dir: Path, door: type[JointRanker], options: dict[str, Any], thorough: bool
) -> None:
    topics = topics_of(data_dir, 21 if thorough else 1)
    assert quality(judged(door, Judge(topics, 0.0), **options), topics) == [1.0] * len(topics)


@pytest.mark.parametrize(
    ("door", "options"),
    [DOORS[1], DOORS[3], DOORS[5], DOORS[6]],
    ids=lambda part: str(part),
)
def test_of_100_candidates_the_best_come_to_the_front(
    judged: Opens, data_dir: Path, door: type[JointRanker], options: dict[str, Any], thorough: bool
) -> None:
    topics = scifact(data_dir, 20 if thorough else 1)
    found = quality(judged(door, Judge(topics, 0.0), **options), topics)
    assert found == [1.0] * len(topics)


def test_a_judge_that_guesses_ranks_as_chance_does(
    judged: Opens, data_dir: Path, thorough: bool
) -> None:
    """The expected nDCG of a random order: the mean gain at each place over the ideal's."""
    topics = topics_of(data_dir, 21 if thorough else 4)
    guessed = [topic._replace(grades=[0] * len(topic.grades)) for topic in topics]
    discounts = [1 / math.log2(place + 1) for place in range(1, 11)]
    expected = mean(
        mean(one.grades)
        * sum(discounts)
        / sum(g * d for g, d in zip(sorted(one.grades, reverse=True), discounts, strict=False))
        for one in topics
    )
    for door, options in (DOORS[1], DOORS[3], DOORS[5]):
        ranker = judged(door, Judge(guessed, 1.0), **options)
        found = quality(ranker, topics)
        # One query's nDCG by chance has a standard deviation of some .17.
        assert abs(mean(found) - expected) < 4 * 0.17 / math.sqrt(len(topics))


@pytest.mark.parametrize("error", [0.5, 2.0])
def test_a_noisy_judge_ranks_as_sorting_by_hand(
    judged: Opens, data_dir: Path, error: float
) -> None:
    topics = topics_of(data_dir, 1)
    judge = Judge(topics, error)
    for topic in topics:
        texts, count = topic.texts, len(topic.texts)
        names = [text.split()[0] for text in texts]

        def looks(documents: list[int], topic: Topic = topic, names: list[str] = names) -> Any:
            beside = tuple(names[one] for one in documents)
            return [judge.value(topic.query, topic.texts[one], beside) for one in documents]

        table = np.zeros((count, count), dtype=bool)
        for first, second in itertools.permutations(range(count), 2):
            straight, turned = looks([first, second]), looks([second, first])
            table[first, second] = straight[0] > straight[1] and turned[1] > turned[0]

        def duel(documents: list[int], table: np.ndarray = table) -> int:
            best = 0
            for place in range(1, len(documents)):
                best = place if table[documents[place], documents[best]] else best
            return best

        def choose(documents: list[int], looks: Any = looks) -> int:
            return int(np.argmax(looks(documents))) if len(documents) > 1 else 0

        points = [int(table[one].sum()) - int(table[:, one].sum()) for one in range(count)]
        by_hand = {
            (Pairwise, "allpair"): sorted(range(count), key=lambda one: -points[one])[:5],
            (Pairwise, "heapsort"): upstream_heapsort(count, 5, 2, duel)[0],
            (Pairwise, "sliding"): upstream_bubble(count, 5, 2, duel),
            (Setwise, "heapsort"): upstream_heapsort(count, 5, 3, choose)[0],
            (Setwise, "sliding"): upstream_bubble(count, 5, 4, choose),
        }
        for (door, method), order in by_hand.items():
            ranking = judged(door, judge, method=method).rank(topic.query, texts, 5)
            assert [index for index, *_ in ranking] == order, (door, method)
        order = list(range(count))
        for start in (10, 0):
            part = order[start : start + 10]
            shown = np.argsort(-np.array(looks(part)), kind="stable")
            order[start : start + 10] = [part[place] for place in shown]
        listwise = judged(Listwise, judge, method="listwise", window=10, stride=10)
        assert [index for index, *_ in listwise.rank(topic.query, texts)] == order
