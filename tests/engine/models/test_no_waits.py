"""A forward copies to the device once, and never waits for it; see `sync_detector`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import encoder_decoders
import numpy as np
import pytest
import torch
from colbert_folders import TEXTS, save_colbert
from decoders import PECULIAR, candidates, make, save_layerwise
from recorder import Recorder
from safetensors.torch import load_file, save_file
from sync_detector import SyncDetector, shapes_only
from torch import Tensor

from packrank.checkpoint.scoring_modules import NormalizeModule, ScoringModules
from packrank.exits.cascade import Cascade
from packrank.late.encoder import LateEncoder
from packrank.models import CausalSettings, T5Settings, load_model
from packrank.models.base import Model
from packrank.models.program import Program
from packrank.models.staged import StagedModel
from packrank.request import Pack, Sequence
from packrank.runtime.graphs import PATIENCE, Graphs
from packrank.runtime.runner import Runner

LENGTHS, PREFIX = [1, 5, 20, 8, 2], 9
PACKS = [candidates(LENGTHS, PREFIX, share=share) for share in (True, False)]
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


@pytest.fixture(autouse=True)
def _shapes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes_only(monkeypatch)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each result that was fetched, how many rows it has; all values are 0."""
    rows: list[int] = []

    def fetch(result: Tensor) -> Callable[[], np.ndarray]:
        rows.append(len(result))
        return lambda: np.zeros(result.shape, dtype=np.float32)

    for module in ("exits.cascade", "runtime.graphs", "runtime.runner"):
        monkeypatch.setattr(f"packrank.{module}.fetch", fetch)
    return rows


def load(folder: Path, **options: Any) -> Model:
    return load_model(folder, device="meta", dtype=torch.float32, **options)


def by_one_upload(model: Model, forward: Callable[[], Tensor]) -> Tensor:
    with SyncDetector() as detector:
        model.upload = detector.upload
        out = forward()
    assert detector.uploads == 1
    return out


class Uploads:
    """Of graphs: what is filled goes nowhere."""

    def __init__(self, device: torch.device) -> None:
        pass

    def send(self, fill: Callable[[np.ndarray], None], target: Tensor) -> None:
        fill(np.empty(len(target), dtype=np.int32))


@pytest.fixture
def in_buckets(monkeypatch: pytest.MonkeyPatch, fetched: list[int]) -> Callable[..., list[int]]:
    """in_buckets(model, programs): how many rows each has, run until it is captured and replayed.

    By no other upload than that into its bucket's buffers. Each array is as long as it says, but
    for one of some of the tokens.
    """
    monkeypatch.setattr("packrank.runtime.graphs.Uploads", Uploads)

    def run(model: Model, programs: list[Program]) -> list[int]:
        with SyncDetector() as detector:
            model.upload = detector.upload
            graphs = Graphs(model, Recorder())
            for program in programs * (PATIENCE + 2):
                graphs.submit(program)
        assert detector.uploads == 0 < graphs.num_graphs
        for program in programs:
            for name, array in program.arrays.items():
                room = array.room(program.extent)
                assert len(array.values) == room or array.per == "token", name
        return fetched[-len(programs) :]

    return run


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x[0].item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: bool(x.any()),
        lambda x: x[x > 0],
        lambda x: x[torch.tensor([0, 2])],
        lambda x: x.nonzero(),
        lambda x: torch.tensor([1, 2], device=x.device),
        lambda x: torch.zeros(4).to(x.device),
        lambda x: x.copy_(torch.zeros(4)),
        lambda x: x.repeat_interleave(x.long()),
    ],
)
def test_the_detector_sees_a_wait(wait: Callable[[Tensor], object]) -> None:
    x = torch.empty(4, device="meta")
    with pytest.raises(AssertionError, match="elsewhere: "), SyncDetector():
        wait(x)


@pytest.mark.parametrize(
    "name",
    [*("Bert", "Roberta", "Electra", "DistilBert", "ModernBert", "mean", "DebertaV2", "Gte")],
)
def test_encoders(
    checkpoint: Callable[..., Path], make_sequences: Callable[..., list[Sequence]], name: str
) -> None:
    options = {"classifier_pooling": "mean"} if name == "mean" else {}
    folder = checkpoint("ModernBert" if name == "mean" else name, num_labels=3, **options)
    pack = Pack.of(make_sequences(name, LENGTHS))
    scorer, encoder = load(folder), load(folder, head=False)
    assert by_one_upload(scorer, lambda: scorer.logits(pack)).shape == (len(LENGTHS), 3)
    share = 1 if name == "DebertaV2" else 2  # of whose tokens all are attended to
    keys, rows = np.array(LENGTHS, dtype=np.int32) // share, np.arange(0, 36, 2, dtype=np.int32)
    states = by_one_upload(encoder, lambda: encoder.hidden_states(pack, keys, rows))
    assert states.shape == (len(rows), encoder.hidden_size)


@pytest.fixture
def encoder_with_exits(checkpoint: Callable[..., Path], tmp_path: Path) -> StagedModel:
    folder = shutil.copytree(checkpoint("Bert", num_labels=1), tmp_path / "exits")
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if "pooler" in name or "classifier" in name]:
        tensors |= {f"exits.{layer}.{name}": tensors[name].clone() for layer in (1, 2)}
    save_file(tensors, folder / "model.safetensors")
    raw = json.loads((folder / "config.json").read_text()) | {"exit_layers": [1, 2]}
    (folder / "config.json").write_text(json.dumps(raw))
    model = load(folder)
    assert isinstance(model, StagedModel)
    return model


@pytest.fixture
def layerwise(tmp_path: Path) -> StagedModel:
    """A head at each of four layers, and documents that become shorter before the last two."""
    folder = save_layerwise(
        tmp_path / "layerwise",
        make("Gemma2", "ForCausalLM"),
        [torch.randn(1, 48) for _ in range(4)],
        architectures=["CostWiseGemmaForCausalLM"],
        model_type="cost_wise_gemma",
        start_layer=1,
        layer_sep=1,
        layer_wise=True,
    )
    settings = CausalSettings(head="layerwise", compress_ratio=2, compress_layers=(0, 2, 3), tail=1)
    model = load(folder, causal=settings)
    assert isinstance(model, StagedModel)
    return model


@pytest.mark.parametrize("family", PECULIAR)
@pytest.mark.parametrize("causal", [True, False])
def test_decoders(
    family: str, causal: bool, tmp_path: Path, in_buckets: Callable[..., list[int]]
) -> None:
    """With prefixes, without, and where the last token that is not padding is looked for."""
    make(family, num_labels=3, is_causal=causal).save_pretrained(tmp_path)
    model = load(tmp_path)
    for pack in PACKS:
        assert by_one_upload(model, lambda pack=pack: model.logits(pack)).shape == (5, 3)
    assert in_buckets(model, [model.scoring(pack) for pack in PACKS]) == [5, 5]


@pytest.mark.parametrize("kind", ["relu", "gated"])
def test_encoder_decoders(kind: str, tmp_path: Path, in_buckets: Callable[..., list[int]]) -> None:
    encoder_decoders.save(tmp_path, kind)
    model = load(tmp_path, causal=T5Settings((0, 5), (3, 7, 11)))
    pack = PACKS[1]
    assert by_one_upload(model, lambda: model.logits(pack)).shape == (5, 3)
    assert in_buckets(model, [model.scoring(pack)]) == [5]


def test_rows_of_the_vocabulary(tmp_path: Path) -> None:
    make("Qwen3", "ForCausalLM").save_pretrained(tmp_path)
    settings = CausalSettings(head="tokens", true_token_id=7, false_token_id=11)
    model = load(tmp_path, causal=settings)
    assert by_one_upload(model, lambda: model.logits(PACKS[0])).shape == (5, 1)
    model = load(tmp_path, causal=CausalSettings(head="labels", label_token_ids=(7, 11, 3)))
    assert by_one_upload(model, lambda: model.logits(PACKS[0])).shape == (5, 3)


@pytest.mark.parametrize("skipped", [0, 2])
@pytest.mark.parametrize("body", ["Bert", "Qwen2"])
def test_modular_poolings(
    body: str,
    skipped: int,
    checkpoint: Callable[..., Path],
    tmp_path: Path,
    in_buckets: Callable[..., list[int]],
) -> None:
    if body == "Bert":
        folder, size = checkpoint("Bert", "Model"), 60
    else:
        make("Qwen2", "Model").save_pretrained(tmp_path)
        folder, size = tmp_path, 48
    unit = NormalizeModule("sentence_embedding", "scores")
    labels = size * len(POOLINGS)
    modules = ScoringModules((), POOLINGS, (unit,), labels, skipped=skipped)
    model = load(folder, causal=CausalSettings(head="modules"), modules=modules)
    pack = candidates([5, 1, 9], 2, share=False)
    assert by_one_upload(model, lambda: model.logits(pack)).shape == (3, labels)
    assert in_buckets(model, [model.scoring(pack)]) == [3]


@pytest.mark.parametrize("name", ["encoder_with_exits", "layerwise"])
def test_exits(
    name: str,
    request: pytest.FixtureRequest,
    fetched: list[int],
    in_buckets: Callable[..., list[int]],
) -> None:
    model: StagedModel = request.getfixturevalue(name)
    stops = model.exit_layers
    programs = [model.exit_scoring(pack, stops) for pack in PACKS]
    if all(program.may_have_room for program in programs):
        assert in_buckets(model, programs) == [5, 5]
    fetched.clear()
    for pack in PACKS:
        logits = by_one_upload(model, lambda pack=pack: model.logits_at(pack, stops))
        assert logits.shape == (5, len(stops))
    with SyncDetector() as detector:
        runner = Runner(model, 40)
        model.upload = detector.upload
        runner.submit(PACKS[0], stops)
    assert detector.uploads == len(fetched) > 1


@pytest.mark.parametrize("name", ["encoder_with_exits", "layerwise"])
def test_candidates_that_leave(
    name: str, request: pytest.FixtureRequest, fetched: list[int]
) -> None:
    model: StagedModel = request.getfixturevalue(name)
    stops = model.exit_layers
    with SyncDetector() as detector:
        model.upload = detector.upload
        cascade = Cascade(model, stops, lambda stage, logits: np.arange(len(logits)) < 3, 40)
        for query, pack in enumerate(PACKS if model.config.shares_prefixes else PACKS[1:] * 2):
            cascade.add(query, pack)
            cascade.close(query)
        settled = list(cascade.run(to_the_end=True))
    assert sorted(one.query for one in settled) == [0, 1]
    assert detector.uploads == len(fetched) > len(stops)


@pytest.fixture
def late(
    checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, SyncDetector], LateEncoder]:
    """late(name, detector): documents, some of whose tokens are not scored; queries, some of whose
    are no keys."""

    def open_one(name: str, detector: SyncDetector) -> LateEncoder:
        folder = tmp_path / "model"
        save_colbert(checkpoint(name, "Model"), folder, name)
        chosen = torch.device("meta"), torch.float32
        monkeypatch.setattr("packrank.late.encoder.choose_device", lambda *_: chosen)
        monkeypatch.setattr("packrank.runtime.runner.PackUploads", lambda device: detector.upload)
        return LateEncoder(folder)

    return open_one


@pytest.mark.parametrize("name", ["Bert", "ModernBert"])
def test_late_interaction(name: str, late: Callable[..., LateEncoder]) -> None:
    detector = SyncDetector()
    encoder = late(name, detector)
    with detector:
        documents = encoder.encode_documents(TEXTS)
        assert detector.uploads == 1
        queries = encoder.encode_queries(TEXTS)
    assert detector.uploads == 2
    assert {x.shape[1] for x in (*documents, *queries)} == {8}
    assert {len(x) for x in queries} == {14}


@pytest.mark.parametrize("name", ["Bert", "ModernBert"])
def test_late_interaction_in_buckets(
    name: str, late: Callable[..., LateEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = SyncDetector()
    encoder = late(name, detector)
    monkeypatch.setattr("packrank.runtime.graphs.Uploads", Uploads)
    runner = encoder._queries._runner
    runner.graphs = Graphs(runner.model, Recorder())
    with detector:
        for _ in range(PATIENCE + 2):
            documents, queries = encoder.encode_documents(TEXTS), encoder.encode_queries(TEXTS)
    assert detector.uploads == 0 and runner.graphs.num_graphs == 2
    assert {x.shape[1] for x in (*documents, *queries)} == {8}
