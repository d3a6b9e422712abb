"""Ray itself: the rows and scores of one process, also where a node dies; and pipelines."""

import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster as Nodes

from packrank import InputError, LateInteraction, ModelError, Reranker
from packrank.commands.cli import main
from packrank.errors import JobError
from packrank.jobs import score as score_file
from packrank.jobs.cluster import Cluster
from packrank.jobs.job import Job
from packrank.jobs.settings import Silent, Summary
from packrank.ray import Scorer

WORDS = "red blue fox owl dog snake cat hen"
STORE = 80 << 20


@pytest.fixture(scope="module")
def folders(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    made = {}
    for name, options in {"one": {"num_labels": 1}, "late": {"suffix": "Model"}}.items():
        made[name] = tmp_path_factory.mktemp("models") / name
        shutil.copytree(checkpoint("Bert", **options), made[name])
        save_tokenizer(made[name], WORDS)
    return made


@pytest.fixture(scope="module")
def local() -> Iterator[None]:
    # GPUs in name: models run on the processor.
    ray.init(num_cpus=2, num_gpus=2, object_store_memory=STORE, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """600 rows, some of which cannot be scored; in batches of few."""
    monkeypatch.setattr(score_file, "_FIRST_BATCH_PAIRS", 16)
    monkeypatch.setattr(score_file, "_BATCH_PAIRS", 16)
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS.split(), n)) for n in random.integers(1, 18, 1200)]
    rows: list[Any] = [
        {"query": query, "document": document, "n": n}
        for n, (query, document) in enumerate(zip(texts[:600], texts[600:], strict=True))
    ]
    rows[40] = {"query": "red"}
    rows[200] = {"query": "red", "document": "fox " * 100}
    rows[599] = ["red", "fox"]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Stop(Exception):
    pass


class Until(Silent):
    """Does something once, when so many rows are done."""

    def __init__(self, rows: int, act: Callable[[], object]) -> None:
        self._rows, self._act = rows, act
        self.before: int | None = None

    def begin(self, total: int | None, done: int | None) -> None:
        self.before = done

    def advance(self, summary: Summary, rows: int) -> None:
        if summary.rows >= self._rows:
            self._rows = 10**9
            self._act()


class WhenAllWork(Until):
    """Does it once so many actors are at work: Ray begins with the first that is up."""

    def __init__(self, rows: int, act: Callable[[], object], actors: int) -> None:
        super().__init__(rows, act)
        self._actors = actors

    def advance(self, summary: Summary, rows: int) -> None:
        if self._actors and summary.rows >= self._rows:
            until = time.monotonic() + 120
            while _num_alive() < self._actors:
                assert time.monotonic() < until, "the actors do not come up"
                time.sleep(0.05)
            self._rows, self._actors = summary.rows + 64, 0
        super().advance(summary, rows)


def _num_alive() -> int:
    found = ray._private.state.actors().values()
    return sum("MapWorker" in one["ActorClassName"] and one["State"] == "ALIVE" for one in found)


def stop() -> None:
    raise Stop


def single(folder: Path, pairs: Path, output: Path, **options: Any) -> bytes:
    model = Reranker(folder, device="cpu", truncation="off")
    Job(model, pairs, output, **options).run()
    return output.read_bytes()


def opened(folder: Path, **options: Any) -> Cluster:
    return Cluster(folder, {"device": "cpu", "truncation": "off"}, **options)


@pytest.mark.usefixtures("local")
def test_a_job_may_change_from_one_process_to_ray_and_back(
    folders: dict[str, Path], pairs: Path, tmp_path: Path
) -> None:
    wanted = single(folders["one"], pairs, tmp_path / "single.jsonl")
    assert wanted.count(b'"error"') == 3
    output = tmp_path / "out.jsonl"
    here = Reranker(folders["one"], device="cpu", truncation="off")
    with pytest.raises(Stop):
        Job(here, pairs, output).run(Until(150, stop))
    with opened(folders["one"], actors=2) as there:
        watch = Until(350, stop)
        with pytest.raises(Stop):
            Job(there, pairs, output).run(watch)
        assert watch.before is not None and watch.before >= 150
    last = Until(10**9, stop)
    Job(here, pairs, output).run(last)
    assert last.before is not None and 350 <= last.before < 600
    assert output.read_bytes() == wanted


@pytest.mark.usefixtures("local")
def test_a_dataset_ends_and_the_next_goes_on(
    folders: dict[str, Path], pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = single(folders["one"], pairs, tmp_path / "single.parquet")
    monkeypatch.setattr("packrank.jobs.cluster._NUMBERS", 20)
    with opened(folders["one"], cpus=1, gpus=1.0) as there:
        assert there.size() == 2
        summary = Job(there, pairs, tmp_path / "out.parquet").run()
    assert (tmp_path / "out.parquet").read_bytes() == wanted
    assert summary.pairs == 597 and sum(summary.failed.values()) == 3
    model = Reranker(folders["one"], device="cpu", truncation="off")
    lines = [json.loads(line) for line in pairs.read_text().splitlines()]
    sound = [row for row in lines if isinstance(row, dict) and "document" in row]
    model.try_score([(row["query"], row["document"]) for row in sound])
    assert summary.tokens == model.num_tokens


@pytest.mark.usefixtures("local")
def test_late_interaction(folders: dict[str, Path], pairs: Path, tmp_path: Path) -> None:
    Job(LateInteraction(folders["late"], device="cpu"), pairs, tmp_path / "single.jsonl").run()
    with Cluster(folders["late"], {"device": "cpu"}, actors=1) as there:
        Job(there, pairs, tmp_path / "out.jsonl").run()
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "single.jsonl").read_bytes()


@pytest.mark.usefixtures("local")
def test_documents_of_a_token_store(folders: dict[str, Path], pairs: Path, tmp_path: Path) -> None:
    documents, rows, store = (tmp_path / name for name in ("d.jsonl", "rows.jsonl", "d.tokens"))
    documents.write_text('{"id": "a", "text": "red fox"}\n{"id": "b", "text": "snake"}\n')
    asked = itertools.product(WORDS.split(), "abc")
    rows.write_text("\n".join(f'{{"query": "{q}", "document_id": "{id}"}}' for q, id in asked))
    assert main(["tokenize", str(folders["one"]), str(documents), str(store), "--quiet"]) == 0
    wanted = single(folders["one"], rows, tmp_path / "single.jsonl", tokens=store)
    with opened(folders["one"], actors=1, gpus=0) as there:
        Job(there, rows, tmp_path / "out.jsonl", tokens=store).run()
    assert (tmp_path / "out.jsonl").read_bytes() == wanted
    assert wanted.count(b'"error"') == len(WORDS.split())


@pytest.mark.usefixtures("local")
def test_what_is_wrong_is_said_as_by_one_process(
    folders: dict[str, Path], pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match="no/such-model"):
        Cluster("no/such-model", {"local_files_only": True})
    with pytest.raises(InputError, match="an actor takes 99 processors and 0 GPUs, and no node"):
        opened(folders["one"], cpus=99)
    with pytest.raises(InputError, match="for Ray's client"):
        opened(folders["one"], address="ray://host:10001")
    asked = ["score", str(folders["one"]), str(pairs), "--output", str(tmp_path / "out.jsonl")]
    assert main([*asked, "--ray", "--device", "cuda:1", "--quiet"]) == 2
    assert "give --ray-gpus" in capsys.readouterr().err
    assert main([*asked, "--ray-actors", "2"]) == 2
    assert "are for --ray" in capsys.readouterr().err
    assert main([*asked, "--ray", "--cutoff-layer", "2", "--quiet"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.glob("out*"))


@pytest.mark.usefixtures("local")
def test_a_node_with_another_model_is_refused(
    folders: dict[str, Path],
    pairs: Path,
    tmp_path: Path,
    save_tokenizer: Callable[..., None],
) -> None:
    changing = tmp_path / "model"
    shutil.copytree(folders["one"], changing)
    with opened(changing) as there:
        save_tokenizer(changing, "blue red fox owl dog snake cat hen")
        with pytest.raises(ModelError, match=r"nodes of the cluster differ in .*: its model is"):
            Job(there, pairs, tmp_path / "out.jsonl").run()


@pytest.mark.usefixtures("local")
def test_a_process_that_always_dies_ends_the_job_in_a_sentence(
    folders: dict[str, Path], pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(folders["one"], actors=1) as there:
        begin, begun = there.begin, []

        def dying(feed: Any, *arguments: Any) -> Any:
            begun.append(1)
            rows = begin(feed, *arguments)
            ray.kill(feed)  # which the actors then ask in vain
            return rows

        monkeypatch.setattr(there, "begin", dying)
        monkeypatch.setattr("packrank.jobs.cluster._PAUSES", (0.0, 0.1))
        with pytest.raises(JobError, match="the cluster has failed 3 times in a row: "):
            Job(there, pairs, tmp_path / "out.jsonl").run()
    assert len(begun) == 3
    assert single(folders["one"], pairs, tmp_path / "out.jsonl").count(b"\n") == 600


@pytest.mark.usefixtures("local")
def test_a_pipeline_of_ones_own(folders: dict[str, Path]) -> None:
    words = WORDS.split()
    rows = [{"query": a, "document": f"{b} {a}"} for a, b in itertools.product(words, words)]
    rows[5]["document"] = ""
    scored = ray.data.from_items(rows, override_num_blocks=4).map_batches(
        Scorer,
        fn_constructor_kwargs={"model": str(folders["one"]), "device": "cpu"},
        concurrency=1,
        batch_format="pyarrow",
        batch_size=10,
    )
    found = {(row["query"], row["document"]): row for row in scored.take_all()}
    assert len(found) == len(rows)
    assert found[words[0], ""]["score"] is None and found[words[0], ""]["error"]
    sound = [pair for pair in found if pair[1]]
    scores = [found[pair]["score"] for pair in sound]
    np.testing.assert_array_equal(scores, Reranker(folders["one"], device="cpu").score(sound))


def test_a_node_that_is_killed_in_the_middle(
    folders: dict[str, Path], pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three that are all at work: nothing is spare, and the other two end the job."""
    wanted = single(folders["one"], pairs, tmp_path / "single.jsonl")
    ray.shutdown()
    head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
    nodes = Nodes(initialize_head=True, head_node_args=head)
    try:
        three = [nodes.add_node(num_cpus=1, object_store_memory=STORE) for _ in range(3)]
        ray.init(address=nodes.address, log_to_driver=False)
        begun: list[int] = []
        begin = Cluster.begin

        def counted(self: Cluster, feed: Any, numbers: range, layer: int | None) -> Any:
            begun.append(numbers.start)
            return begin(self, feed, numbers, layer)

        monkeypatch.setattr(Cluster, "begin", counted)
        with opened(folders["one"]) as there:
            assert there.size() == 3
            assert there.score_stream(iter([]), cutoff_layer=None)._most == 12
            kill = WhenAllWork(150, lambda: nodes.remove_node(three[1], allow_graceful=False), 3)
            Job(there, pairs, tmp_path / "out.jsonl").run(kill)
        assert len(begun) >= 2 and begun[1] * 16 >= 128
        assert (tmp_path / "out.jsonl").read_bytes() == wanted
    finally:
        ray.shutdown()
        nodes.shutdown()


def test_the_command_starts_ray_where_there_is_none(
    folders: dict[str, Path], pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ray.shutdown()
    wanted = single(folders["one"], pairs, tmp_path / "single.jsonl")
    asked = ["score", str(folders["one"]), str(pairs), "--output", str(tmp_path / "out.jsonl")]
    asked += ["--device", "cpu", "--truncation", "off"]
    for address in ("127.0.0.1:1", "nowhere"):
        assert main([*asked, "--ray", address]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"packrank: there is no Ray cluster at {address} (")
        assert said.count("\n") == 1
    assert main([*asked, "--ray", "--ray-actors", "1"]) == 1
    assert not ray.is_initialized()
    assert (tmp_path / "out.jsonl").read_bytes() == wanted
    said = capsys.readouterr().err
    assert "pairs scored: 597, rows: 600, failed: 3" in said
    assert all(line.startswith(("packrank: ", "pairs scored: ")) for line in said.splitlines())
