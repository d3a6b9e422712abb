"""Hashes of the scores of every model family, to be the same before and after files move.

    pytest tests/score_bits.py

Writes score_bits.json if it is not there, else compares with it. Made on Zen 4 (AVX-512); of
Packrank only public names are used, so that it runs on any commit.
"""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rerankers import BUILD, PAIRS
from safetensors.torch import load_file, save_file

import packrank
from packrank import LateInteraction, Margins, Reranker, Store

ENCODERS = ["Bert", "Roberta", "XLMRoberta", "Camembert", "Electra", "DistilBert", "ModernBert"]
DTYPES = ["float32", "bfloat16"]
FORMATS = ["float32", "float16", "bfloat16", "int8", "4bit", "2bit"]
WORDS = [f"w{n}" for n in range(60)]
FILE = Path(__file__).with_name("score_bits.json")

found: dict[str, str] = {}


@pytest.fixture(scope="module", autouse=True)
def _file() -> Iterator[None]:
    yield
    if not FILE.exists():
        FILE.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")
        return
    known = json.loads(FILE.read_text())
    assert found.keys() == known.keys(), found.keys() ^ known.keys()
    differ = [name for name in found if known[name] != found[name]]
    assert not differ, differ


def record(name: str, *arrays: Any) -> None:
    digest = hashlib.sha256()
    for array in arrays:
        x = np.ascontiguousarray(array)
        digest.update(f"{x.dtype} {x.shape}".encode())
        digest.update(x.tobytes())
    found[name] = digest.hexdigest()[:32]


def texts(seed: int, count: int, most: int = 30) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, n)) for n in random.integers(0, most, count)]


def pairs(seed: int) -> list[tuple[str, str]]:
    every = texts(seed, 40)
    return list(zip(every[:20], every[20:], strict=True))


def ranking(ranked: Any) -> tuple[Any, Any]:
    rows = [(r.index, r.score) for r in ranked]
    return np.array([r[0] for r in rows]), np.array([r[1] for r in rows], dtype=np.float64)


@pytest.fixture
def encoder(checkpoint: Callable[..., Path], save_tokenizer: Any, tmp_path: Path) -> Any:
    def make(name: str, suffix: str = "ForSequenceClassification", **options: Any) -> Path:
        folder = tmp_path / f"{name}{suffix}{len(list(tmp_path.iterdir()))}"
        if suffix == "ForSequenceClassification":
            options.setdefault("num_labels", 1)
        shutil.copytree(checkpoint(name, suffix, **options), folder)
        save_tokenizer(folder, " ".join(WORDS))
        settings = folder / "tokenizer_config.json"
        config = json.loads(settings.read_text())
        if "oberta" in name or name == "Camembert" or name == "ModernBert":
            config["model_input_names"] = ["input_ids", "attention_mask"]
        settings.write_text(json.dumps(config))
        return folder

    return make


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ENCODERS)
def test_cross_encoder(encoder: Any, name: str, dtype: str) -> None:
    model = Reranker(encoder(name), dtype=dtype)
    record(f"{name} {dtype} score", model.score(pairs(1)))
    query, documents = "w1 w2 w3", texts(2, 30)
    record(f"{name} {dtype} rank", *ranking(model.rank(query, documents)))
    many = model.rank_many([(query, documents), ("w9", texts(3, 5))], top_k=3)
    record(f"{name} {dtype} rank_many", *(x for one in many for x in ranking(one)))
    several = Reranker(encoder(name, num_labels=3), dtype=dtype, budget_tokens=90)
    record(f"{name} {dtype} labels", several.score(pairs(4)))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_modernbert_pooling(encoder: Any, pooling: str) -> None:
    model = Reranker(encoder("ModernBert", classifier_pooling=pooling))
    record(f"ModernBert {pooling}", model.score(pairs(5)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BUILD)
def test_decoder(tmp_path: Path, name: str, dtype: str) -> None:
    torch.manual_seed(1)
    case = BUILD[name](tmp_path)
    model = case.open(dtype=dtype)
    record(f"{name} {dtype} score", model.score(case.pairs, activation="identity"))
    query = PAIRS[0][0]
    documents = [document for _, document in PAIRS[:5]]
    out = model.rank(query, documents)
    record(f"{name} {dtype} rank", *ranking(out), out.num_layers)
    unshared = {} if name == "bge-gemma2-lightweight" else {"share_prefixes": False}
    record(f"{name} {dtype} alone", case.open(dtype=dtype, **unshared).score(case.pairs[:5]))
    layers = model.exit_layers
    if len(layers) > 1:
        record(f"{name} {dtype} layers", model.score(case.pairs, cutoff_layers=layers))
        staged = case.open(dtype=dtype, head_index="layer")
        for margin in (np.inf, 0.05):
            margins = Margins(
                model="",
                fingerprint=fingerprint_of(staged),
                settings=staged.exit_settings,
                top_k=2,
                final_layer=layers[-1],
                layers=layers[:-1],
                margins=(margin,) * (len(layers) - 1),
                recall=0.9,
                held_out_recall=1.0,
                held_out_low=0.9,
                held_out_high=1.0,
                dropped=(0.0,) * (len(layers) - 1),
                saved=0.0,
                num_fitted=10,
                num_held_out=10,
                num_left_out=0,
                num_candidates=10,
                extrapolated=False,
            )
            out = staged.rank(query, documents, top_k=2, exit=margins)
            record(f"{name} {dtype} exit {margin}", *ranking(out), out.num_layers)


def fingerprint_of(model: Reranker) -> str:
    return model._fingerprint


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ENCODERS)
def test_late_interaction(encoder: Any, name: str, dtype: str) -> None:
    model = LateInteraction(encoder(name, "Model"), dtype=dtype)
    record(f"late {name} {dtype} score", model.score(pairs(6)))
    record(f"late {name} {dtype} rank", *ranking(model.rank("w1 w2 w3", texts(7, 30))))
    vectors = model.encode_documents(texts(8, 10))
    record(f"late {name} {dtype} vectors", *(v.float().numpy() for v in vectors))


def late_folder(encoder: Any, kind: str) -> Path:
    folder: Path = encoder("Bert", "Model")
    config = json.loads((folder / "config.json").read_text())
    hidden = config["hidden_size"]
    torch.manual_seed(2)
    weight = torch.randn(8, hidden) / hidden**0.5
    if kind == "stanford":
        tensors = {f"bert.{n}": x for n, x in load_file(folder / "model.safetensors").items()}
        save_file(tensors | {"linear.weight": weight}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config | {"architectures": ["HF_ColBERT"]}))
        metadata = {"query_maxlen": 9, "doc_maxlen": 30, "dim": 8}
        metadata |= {"query_token_id": "w0", "doc_token_id": "w1"}
        (folder / "artifact.metadata").write_text(json.dumps(metadata))
        return folder
    dense = folder / "1_Dense"
    dense.mkdir()
    sizes = {"in_features": hidden, "out_features": 8, "bias": False}
    save_file({"linear.weight": weight}, dense / "model.safetensors")
    (dense / "config.json").write_text(json.dumps(sizes))
    theirs = "pylate.models.Dense.Dense" if kind == "pylate" else "any.where.Dense"
    entries = [{"path": "", "type": "any.Transformer"}, {"path": "1_Dense", "type": theirs}]
    model_type = "ColBERT" if kind == "pylate" else "MultiVectorEncoder"
    if kind == "multi":
        entries.append({"path": "2_MultiVectorMask", "type": "any.MultiVectorMask"})
        (folder / "2_MultiVectorMask").mkdir()
        (folder / "2_MultiVectorMask/config.json").write_text("{}")
        entries.append({"path": "3_Normalize", "type": "any.Normalize"})
    (folder / "modules.json").write_text(json.dumps(entries))
    settings = {"model_type": model_type, "query_length": 9, "document_length": 30}
    settings |= {"query_prefix": "w0", "document_prefix": "w1"} if kind == "pylate" else {}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("kind", ["stanford", "pylate", "multi"])
def test_late_folders(encoder: Any, kind: str) -> None:
    model = LateInteraction(late_folder(encoder, kind))
    record(f"late {kind} {model.settings.kind} score", model.score(pairs(9)))
    record(f"late {kind} rank", *ranking(model.rank("w1 w2", texts(10, 20))))
    explained = model.explain("w1 w2 w3", "w2 w9 w1")
    record(f"late {kind} explain", np.array([explained.score]))


@pytest.mark.parametrize("format", FORMATS)
def test_store(encoder: Any, tmp_path: Path, format: str, capsys: Any) -> None:
    folder = late_folder(encoder, "pylate")
    source = tmp_path / "documents.txt"
    source.write_text("\n".join(text or "w5" for text in texts(11, 300)) + "\n")
    command = [sys.executable, "-m", "packrank", "encode", folder, source, tmp_path / "store"]
    command += ["--format", format, "--quiet"]
    command += ["--centroids", "16"] if format in ("4bit", "2bit") else []
    subprocess.run(list(map(str, command)), check=True)
    content = [p.read_bytes() for p in sorted((tmp_path / "store").glob("*.bin"))]
    record(f"store {format} files", *(np.frombuffer(x, np.uint8) for x in content))
    store = Store.open(tmp_path / "store")
    model = LateInteraction(folder, store=store)
    record(f"store {format} rank", *ranking(model.rank("w1 w2 w3", top_k=20)))
    queries = model.encode_queries(["w1", "w2 w3 w4"])
    scores = packrank.maxsim(queries, store)
    assert isinstance(scores, torch.Tensor)
    record(f"store {format} maxsim", scores.numpy())
    top = packrank.maxsim(queries, store, top_k=7)
    record(f"store {format} top", *(x.numpy() for x in top))
