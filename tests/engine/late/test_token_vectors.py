"""Token vectors against sentence-transformers' MultiVectorEncoder, and plain transformers."""

import json
import shutil
import string
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from recorder import Recorder
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Normalize
from sentence_transformers.base.modules.dense import Dense
from sentence_transformers.base.modules.transformer import Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from torch import Tensor, nn

from packrank.errors import ModelError
from packrank.late import token_vectors
from packrank.late.token_vectors import normalize
from packrank.late_interaction import LateInteraction
from packrank.models import MODELS
from packrank.runtime.graphs import PATIENCE, Graphs
from packrank.text.tokenizer import Tokenizer
from packrank_kernels.testing import assert_close

HIDDEN = 24
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]"]
LETTERS = [*string.ascii_lowercase, *(f"##{c}" for c in string.ascii_lowercase)]
VOCAB = [*SPECIAL, *string.punctuation, *LETTERS, "query", "document", "the", "sea"]

QUERIES = ["the sea", "", "a longer query, of more words than the others have", "sea? the sea!"]
DOCUMENTS = [
    "the sea, the sea.",
    "",
    "?!...",
    "x",
    "a document that goes on and on; longer than the limit (or so) of most settings " * 2,
    "the sea, the sea.",
]


def save_tokenizer(folder: Path, *added: str, max_length: int = 60) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCAB))
    tokenizer = transformers.BertTokenizerFast(
        vocab=str(folder / "vocab.txt"), do_lower_case=True, model_max_length=max_length
    )
    tokenizer.add_tokens(list(added))
    tokenizer.save_pretrained(folder)


def save_encoder(folder: Path, family: str = "bert", num_added: int = 0) -> None:
    config = {
        "vocab_size": len(VOCAB) + num_added,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "initializer_range": 0.3,
    }
    if family == "bert":
        model = transformers.BertModel(transformers.BertConfig(**config))
    else:
        model = transformers.RobertaModel(transformers.RobertaConfig(**config))
    model.save_pretrained(folder)


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def edit(path: Path, **changes: object) -> None:
    write(path, json.loads(path.read_text()) | changes)


def stanford(folder: Path, **metadata: object) -> None:
    save_tokenizer(folder)
    save_encoder(folder)
    weights = load_file(folder / "model.safetensors")
    weights = {f"bert.{name}": value for name, value in weights.items()}
    weights["linear.weight"] = torch.randn(8, HIDDEN)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    edit(folder / "config.json", architectures=["HF_ColBERT"])
    lengths = {"query_maxlen": 14, "doc_maxlen": 30}
    write(folder / "artifact.metadata", {"dim": 8} | lengths | metadata)


def pylate(folder: Path, *dense: Dense, family: str = "bert", **config: object) -> None:
    save_tokenizer(folder, "[Q] ", "[D] ")
    save_encoder(folder, family, num_added=2)
    write(folder / "sentence_bert_config.json", {"max_seq_length": 11, "do_lower_case": False})
    modules = [{"name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for i, layer in enumerate(dense or (Dense(HIDDEN, 8, False, nn.Identity()),), start=1):
        path = folder / f"{i}_Dense"
        path.mkdir()
        layer.save(str(path))
        # PyLate's layers did not always say what they work on.
        unnamed = json.loads((path / "config.json").read_text())
        unnamed = {key: value for key, value in unnamed.items() if not key.startswith("module_")}
        write(path / "config.json", unnamed)
        modules.append({"name": str(i), "path": path.name, "type": "pylate.models.Dense.Dense"})
    write(folder / "modules.json", modules)
    kind = {"model_type": "ColBERT", "query_prefix": "[Q] ", "document_prefix": "[D] "}
    lengths = {"query_length": 16, "document_length": 40}
    write(folder / "config_sentence_transformers.json", kind | lengths | config)


def multi_vector(
    folder: Path,
    *,
    prompts: dict[str, str] | None = None,
    similarity: str = "maxsim",
    mask: MultiVectorMask | None = None,
    normalize: bool = True,
    **transformer: object,
) -> None:
    backbone = folder.with_name("backbone")
    save_tokenizer(backbone)
    save_encoder(backbone)
    modules = [
        Transformer(str(backbone), **transformer),
        Dense(HIDDEN, 8, False, nn.Identity(), module_input_name="token_embeddings"),
        mask or MultiVectorMask(),
        *([Normalize(module_input_name="token_embeddings")] if normalize else []),
    ]
    model = MultiVectorEncoder(
        modules=modules, prompts=prompts, similarity_fn_name=similarity, device="cpu"
    )
    model.save_pretrained(str(folder))


def expansion(strategy: str, **more: object) -> dict[str, object]:
    return {"strategy": strategy, "length": 12, **more}


CASES: dict[str, Callable[[Path], None]] = {
    "stanford": lambda f: stanford(f),
    "stanford-attend": lambda f: stanford(f, attend_to_mask_tokens=True),
    "stanford-punctuation": lambda f: stanford(f, mask_punctuation=False),
    "pylate": lambda f: pylate(f),
    "pylate-attend": lambda f: pylate(f, attend_to_expansion_tokens=True),
    "pylate-roberta": lambda f: pylate(f, family="roberta"),
    "pylate-no-expansion": lambda f: pylate(f, do_query_expansion=False),
    "pylate-no-prefix": lambda f: pylate(f, query_prefix="", document_prefix=""),
    "pylate-word-prefix": lambda f: pylate(f, query_prefix="query ", document_prefix="[unused1] "),
    "pylate-text-prefix": lambda f: pylate(f, query_prefix="ask: ", document_prefix="tell: "),
    "pylate-prompts": lambda f: pylate(f, prompts={"query": "the ", "document": "a "}),
    "pylate-default-prompt": lambda f: pylate(
        f, prompts={"query": "the ", "either": "sea "}, default_prompt_name="either"
    ),
    "pylate-skiplist": lambda f: pylate(f, skiplist_words=["the", "nowhere", "x"]),
    "pylate-stack": lambda f: pylate(
        f,
        Dense(HIDDEN, 20, True, nn.GELU(), use_residual=True),
        Dense(20, 20, True, nn.Tanh(), use_residual=True),
        Dense(20, 8, False, nn.Identity()),
    ),
    "multi-vector": lambda f: multi_vector(f),
    "multi-vector-lengths": lambda f: multi_vector(f, query_length=9, document_length=17),
    "multi-vector-prompts": lambda f: multi_vector(
        f, prompts={"query": "query the ", "document": "document: "}
    ),
    "multi-vector-fixed": lambda f: multi_vector(f, query_expansion=expansion("fixed")),
    "multi-vector-min": lambda f: multi_vector(f, query_expansion=expansion("min", attend=True)),
    "multi-vector-min-cut": lambda f: multi_vector(
        f, query_expansion=expansion("min", token="sea"), query_length=15
    ),
    "multi-vector-skiplist": lambda f: multi_vector(
        f, mask=MultiVectorMask(["the", ","], skiplist_tasks=["query", "document"])
    ),
    "multi-vector-lengths-kept": lambda f: multi_vector(f, normalize=False),
    "multi-vector-mean": lambda f: multi_vector(f, similarity="meanmaxsim"),
}

# What PyLate puts before queries and documents of these, where sentence-transformers does not.
PYLATE_PROMPTS = {
    "pylate-prompts": ("[Q] ", "[D] "),
    "pylate-default-prompt": ("[Q] sea ", "[D] sea "),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a case, built when first asked for."""
    built: dict[str, Path] = {}

    def get(case: str) -> Path:
        if case not in built:
            torch.manual_seed(1)
            built[case] = tmp_path_factory.mktemp("models") / case
            CASES[case](built[case])
        return built[case]

    return get


Folders = Callable[[str], Path]


def assert_same_vectors(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert [len(vectors) for vectors in ours] == [len(vectors) for vectors in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, 1e-5)


@pytest.mark.parametrize("case", CASES)
def test_vectors_and_scores_are_those_of_sentence_transformers(folders: Folders, case: str) -> None:
    oracle = MultiVectorEncoder(str(folders(case)), device="cpu")
    model = LateInteraction(folders(case), device="cpu")
    queries, documents = model.encode_queries(QUERIES), model.encode_documents(DOCUMENTS)
    query_prompt, document_prompt = PYLATE_PROMPTS.get(case, (None, None))
    their_queries = oracle.encode_query(QUERIES, prompt=query_prompt)
    their_documents = oracle.encode_document(DOCUMENTS, prompt=document_prompt)
    assert_same_vectors(queries, their_queries)
    assert_same_vectors(documents, their_documents)
    scores = np.stack([model.similarity(query, documents) for query in queries])
    expected = oracle.similarity(their_queries, their_documents)
    assert_close(torch.from_numpy(scores), expected, 1e-5)


def test_any_encoder_gives_its_hidden_states_at_length_one(tmp_path: Path) -> None:
    save_tokenizer(tmp_path, max_length=25)
    save_encoder(tmp_path)
    pooling = {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
    transformer = {"path": "", "type": "sentence_transformers.models.Transformer"}
    write(tmp_path / "modules.json", [transformer, pooling])
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    oracle = transformers.BertModel.from_pretrained(tmp_path)
    model = LateInteraction(tmp_path, device="cpu")
    for texts, encode in ((QUERIES, model.encode_queries), (DOCUMENTS, model.encode_documents)):
        expected = []
        for text in texts:
            inputs = tokenizer(text, truncation=True, return_tensors="pt")
            with torch.no_grad():
                states = oracle(**inputs).last_hidden_state[0]
            expected.append(states / states.norm(dim=1, keepdim=True))
        assert max(len(states) for states in expected) == 25, "one of them was cut"
        assert_same_vectors(encode(texts), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", ["stanford", "pylate-stack"])
def test_company_changes_no_bit(folders: Folders, case: str, dtype: str) -> None:
    texts = [" ".join(DOCUMENTS[i % 5].split()[: i % 13]) for i in range(40)]
    together = LateInteraction(folders(case), device="cpu", dtype=dtype)
    alone = LateInteraction(folders(case), device="cpu", dtype=dtype, budget_tokens=1)
    for encode in ("encode_queries", "encode_documents"):
        packed = getattr(together, encode)(texts)
        for i, text in enumerate(texts):
            assert torch.equal(packed[i], getattr(alone, encode)([text])[0]), (encode, i)


@pytest.mark.parametrize("case", ["stanford", "pylate-stack"])
def test_buckets_change_no_bit(folders: Folders, case: str) -> None:
    """Where tokens past a pack's own are NaN, and what a graph gave is overwritten by the next."""
    plain, model = (LateInteraction(folders(case), device="cpu") for _ in range(2))
    runner = model._queries._runner
    runner.graphs = Graphs(runner.model, Recorder())
    runner.model.embeddings._tokens[0] = torch.nan  # type: ignore[attr-defined]
    packs = [DOCUMENTS[:1], DOCUMENTS[:1] + DOCUMENTS[3:4], DOCUMENTS]
    for encode in ("encode_queries", "encode_documents"):
        expected = [getattr(plain, encode)(texts) for texts in packs]
        for found in [[getattr(model, encode)(t) for t in packs] for _ in range(PATIENCE + 2)]:
            for ours, theirs in zip(found, expected, strict=True):
                assert all(map(torch.equal, ours, theirs))
    assert runner.graphs.num_graphs > 2


def test_a_document_of_skipped_tokens_keeps_its_special_ones(folders: Folders) -> None:
    model = LateInteraction(folders("stanford"), device="cpu")
    punctuation, empty = model.encode_documents(["?!...", ""])
    assert len(punctuation) == len(empty) == 3  # [CLS] [D] [SEP]
    assert np.isfinite(model.similarity(model.encode_queries([""])[0], [punctuation, empty])).all()


@pytest.fixture
def states_alive(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each forward pass so far, how many earlier ones' states were still alive."""
    bert = MODELS["BertForSequenceClassification"]
    run, states, alive = bert.hidden_states, [], []

    def watched(*args: object) -> Tensor:
        alive.append(sum(reference() is not None for reference in states))
        out = run(*args)  # type: ignore[arg-type]
        states.append(weakref.ref(out))
        return out

    monkeypatch.setattr(bert, "hidden_states", watched)
    return alive


def test_one_packs_states_are_alive_at_a_time(
    folders: Folders, states_alive: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    lookups: list[int] = []
    isin = np.isin
    monkeypatch.setattr(
        token_vectors.np, "isin", lambda ids, *a: lookups.append(len(ids)) or isin(ids, *a)
    )
    model = LateInteraction(folders("pylate"), device="cpu", budget_tokens=60)
    vectors = model.encode_documents([f"the sea {a}{b}" for a in "abcdef" for b in "abcdef"])
    assert len(states_alive) > 4
    assert set(states_alive) == {0}
    assert len(lookups) == len(states_alive), "the skiplist is looked up once a pack"
    # None of them keeps its neighbours in memory.
    assert all(v.untyped_storage().nbytes() == v.nbytes for v in vectors)


def test_windows_are_cut_by_texts_and_characters(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LateInteraction(folders("pylate"), device="cpu")
    encode, seen = Tokenizer.try_encode, []
    monkeypatch.setattr(Tokenizer, "try_encode", lambda self, t: seen.append(t) or encode(self, t))
    monkeypatch.setattr(token_vectors, "WINDOW_TEXTS", 3)
    monkeypatch.setattr(token_vectors, "WINDOW_CHARACTERS", 10)
    texts = ["", "a", "b", "c" * 11, "d" * 5, "e" * 5, "f", "g" * 30]
    assert len(model.encode_documents(texts)) == len(texts)
    assert seen == [texts[:3], texts[3:4], texts[4:6], texts[6:7], texts[7:]]


def test_pylate_without_prefixes_takes_its_own(folders: Folders, tmp_path: Path) -> None:
    expected = LateInteraction(folders("pylate"), device="cpu")
    silent = shutil.copytree(folders("pylate"), tmp_path / "silent")
    edit(silent / "config_sentence_transformers.json", query_prefix=None, document_prefix=None)
    model = LateInteraction(silent, device="cpu")
    assert model.settings.query == expected.settings.query
    for a, b in zip(model.encode_documents(["x"]), expected.encode_documents(["x"]), strict=True):
        assert torch.equal(a, b)


def test_a_projection_of_another_size_is_named_by_its_file(tmp_path: Path) -> None:
    stanford(tmp_path, dim=9)
    message = rf"linear.weight has shape \[8, 24\], {tmp_path}/artifact.metadata implies \[9, 24\]"
    with pytest.raises(ModelError, match=message):
        LateInteraction(tmp_path, device="cpu")


def test_counts_the_tokens_it_reads(folders: Folders) -> None:
    model = LateInteraction(folders("stanford"), device="cpu")
    model.rank("x", ["x", "?!"])  # 14 of the expanded query, [CLS] [D] x [SEP], [CLS] [D] ? ! [SEP]
    assert model.num_tokens == 14 + 4 + 5


def rms(vectors: list[Tensor]) -> float:
    return float(torch.cat(vectors).double().square().mean().sqrt())


def test_bfloat16_stays_near_float32(folders: Folders) -> None:
    """Within what rounding must cost.

    Each of 2 layers rounds 4 weights (qkv, out, up, down) and 7 results (those 4, the attention's
    and two norms'), the projection 1 weight and 2 results (its own and the one of length 1), all by
    2^-9 at most and independently, so errors add in squares: the whole is sqrt(25 / 9) times what
    the 9 weights cost. That share is measured on sentence-transformers in float32 with its weights
    rounded. Half as much again is allowed.
    """
    oracle = MultiVectorEncoder(str(folders("pylate")), device="cpu")
    exact = oracle.encode_document(DOCUMENTS)
    for parameter in oracle.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.bfloat16().float()
    rounded = oracle.encode_document(DOCUMENTS)
    ours = LateInteraction(folders("pylate"), device="cpu", dtype="bfloat16")
    vectors = ours.encode_documents(DOCUMENTS)
    assert {v.dtype for v in vectors} == {torch.bfloat16}
    error = rms([a.float() - b for a, b in zip(vectors, exact, strict=True)])
    cost = rms([a - b for a, b in zip(rounded, exact, strict=True)])
    assert 0 < error < 1.5 * (25 / 9) ** 0.5 * cost


@pytest.mark.parametrize("size", [1, 3, 16, 129, 768])
def test_normalize_row_by_row(size: int) -> None:
    x = torch.randn(4000, size)
    x[7] = 0
    rows = normalize(x)
    assert_close(rows.norm(dim=1), torch.ones(4000).index_fill(0, torch.tensor(7), 0), 1e-6)
    for start, stop in ((0, 1), (5, 12), (3999, 4000), (17, 2000)):
        assert torch.equal(normalize(x[start:stop].clone()), rows[start:stop])
