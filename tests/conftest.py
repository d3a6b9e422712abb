"""What every test stands on: no network, seeds, poisoned memory, and the real-data folder."""

import contextlib
import gc
import importlib.util
import json
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import packrank_kernels
from packrank.request import Sequence

collect_ignore = ["peers"]  # `make peers` runs them, where their packages are

try:
    from hypothesis import settings
except ImportError:  # a machine with a GPU need not have it: its tests know no properties
    settings = None  # type: ignore[assignment, misc]

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
    with contextlib.suppress(ImportError):
        import triton  # noqa: F401

os.environ.update(
    CUBLAS_WORKSPACE_CONFIG=":4096:8",  # or torch refuses cuBLAS under deterministic algorithms
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
    TRANSFORMERS_VERBOSITY="error",
)

# A process a core: one thread for each, and for what it starts.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", RAYON_NUM_THREADS="1")
    torch.set_num_threads(1)

# Of a property. Six mutants of packing, layout and prefixes were found after 4 to 242 examples,
# in 88 % of 84 runs within 100.
EXAMPLES = 100

# Sizes that divide by nothing a kernel would like; 40 usable positions (64 of ModernBERT).
_BERT = {
    "hidden_size": 60,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 83,
    "vocab_size": 97,
    "max_position_embeddings": 40,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
_ROBERTA = _BERT | {
    "hidden_size": 48,
    "num_attention_heads": 3,
    "max_position_embeddings": 42,
    "type_vocab_size": 1,
    "pad_token_id": 1,
}
_SIZES: dict[str, dict[str, Any]] = {
    "Bert": _BERT,
    "Roberta": _ROBERTA,
    "XLMRoberta": _ROBERTA,
    "Camembert": _ROBERTA,
    "Electra": _BERT | {"embedding_size": 28, "num_attention_heads": 5},
    "DistilBert": {
        "dim": 48,
        "n_heads": 4,
        "n_layers": 3,
        "hidden_dim": 77,
        "vocab_size": 97,
        "max_position_embeddings": 40,
    },
    "ModernBert": {
        "hidden_size": 60,
        "num_attention_heads": 6,
        "num_hidden_layers": 3,
        "intermediate_size": 37,
        "vocab_size": 97,
        "max_position_embeddings": 64,
        "local_attention": 8,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
    # As v3, with distances of 4 and more in buckets.
    "DebertaV2": _BERT
    | {
        "type_vocab_size": 0,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
        "position_biased_input": False,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
    },
    "Gte": _BERT | {"num_attention_heads": 5, "type_vocab_size": 1, "pad_token_id": 1},
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--data", type=Path, metavar="FOLDER", help="folder of real data to test on")
    parser.addoption(
        "--thorough",
        type=int,
        metavar="EXAMPLES",
        help="the long form of tests that have one, so many examples of a property: make proofs",
    )
    parser.addoption(
        "--older-triton", type=Path, metavar="FOLDER", help="where pip has put another Triton"
    )


def pytest_configure(config: pytest.Config) -> None:
    if settings is not None:
        examples = config.getoption("--thorough") or EXAMPLES
        settings.register_profile("packrank", max_examples=examples, deadline=None)
        settings.load_profile("packrank")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Without the garbage collector, which then looks past thirteen thousand tests.

    Else it goes through them again and again: a quarter of the collection, a second a call later.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --thorough only tests that have a long form run: those that ask, and properties."""
    if not config.getoption("--thorough"):
        return
    short = [
        item
        for item in items
        if "thorough" not in getattr(item, "fixturenames", ())
        and not getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
    ]
    config.hook.pytest_deselected(items=short)
    gone = set(short)
    items[:] = [item for item in items if item not in gone]


@pytest.fixture(scope="session")
def thorough(request: pytest.FixtureRequest) -> bool:
    """Whether a test takes its long form: hundreds of kills, every variant, long fuzz."""
    return bool(request.config.getoption("--thorough"))


@pytest.fixture(scope="session")
def compiled_folder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Where what tests compile is kept from run to run, see `compiled`; if pytest keeps any."""
    cache = getattr(request.config, "cache", None)
    return tmp_path_factory.mktemp("compiled") if cache is None else cache.mkdir("compiled")


@pytest.fixture(scope="session")
def data_dir(request: pytest.FixtureRequest) -> Path:
    """The folder given with --data; a test that needs it is skipped without."""
    folder: Path | None = request.config.getoption("--data")
    if folder is None:
        pytest.skip("needs real data: pass --data FOLDER")
    if not folder.is_dir():
        pytest.skip(f"needs real data: --data {folder} is not a folder")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """torch.empty yields NaN, so that what a kernel forgets to write cannot pass for a result."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session", autouse=True)
def _interpreter() -> None:
    if importlib.util.find_spec("triton") is not None:
        importlib.import_module("interpreter").prepare()


@pytest.fixture(autouse=True)
def _seed() -> None:
    if torch.cuda.is_available():
        torch.manual_seed(0)
    else:  # the other way a stack is written down each time, for a device that may yet come
        torch.default_generator.manual_seed(0)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """checkpoint("Bert", "ForSequenceClassification", num_labels=3): a folder from transformers.

    Weights are seeded and none is left at what transformers starts it with, so that one read from
    the wrong place shows. Each folder is made once a session; tests do not write to it.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    made: dict[str, Path] = {}

    def make(name: str, suffix: str = "ForSequenceClassification", **options: Any) -> Path:
        key = f"{name}{suffix}-{options}"
        if key not in made:
            config = getattr(transformers, f"{name}Config")(**_SIZES[name] | options)
            torch.manual_seed(1)
            model = getattr(transformers, f"{name}{suffix}")(config)
            with torch.no_grad():
                for path, parameter in model.named_parameters():
                    is_norm = parameter.ndim == 1 and path.endswith("weight")
                    parameter.normal_(mean=float(is_norm), std=0.2)
            made[key] = tmp_path_factory.mktemp(f"{name}{suffix}")
            model.save_pretrained(made[key])
        return made[key]

    return make


@pytest.fixture(scope="session")
def save_tokenizer() -> Callable[..., None]:
    """save_tokenizer(folder, "red fox"): a WordPiece tokenizer of these words, laid out as BERT's.

    Ids 0 to 4 are [PAD], [UNK], [CLS], [SEP] and [MASK]; the words follow.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    def save(folder: Path, words: str) -> None:
        specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        vocab = {token: i for i, token in enumerate([*specials, *words.split()])}
        backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer()
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        backend.add_special_tokens(specials)
        backend.save(str(folder / "tokenizer.json"))
        config = {
            "tokenizer_class": "BertTokenizer",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "mask_token": "[MASK]",
            "unk_token": "[UNK]",
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config))

    return save


@pytest.fixture(scope="session")
def awkward_strings(data_dir: Path) -> Callable[[str], list[str]]:
    """awkward_strings("qwen2"): published inputs that tokenizers get wrong."""

    def read(vocabulary: str) -> list[str]:
        path = data_dir / f"tokenizers/ggml-vectors/ggml-vocab-{vocabulary}.gguf.inp"
        separator = "\n__ggml_vocab_test__\n"
        return path.read_bytes().decode("utf-8").removesuffix(separator).split(separator)

    return read


@pytest.fixture(scope="session")
def some_pairs() -> Callable[[int], list[tuple[str, str]]]:
    """some_pairs(seed): 15 pairs of texts of up to 11 words, each of which is a, b or c."""

    def make(seed: int) -> list[tuple[str, str]]:
        random = np.random.default_rng(seed)
        texts = [" ".join(random.choice(["a", "b", "c"], n)) for n in random.integers(0, 12, 30)]
        return list(zip(texts[:15], texts[15:], strict=True))

    return make


@pytest.fixture
def restored_threads() -> Iterator[None]:
    """Whatever number of threads a test sets, the next has what this one had."""
    before = packrank_kernels.get_num_threads()
    yield
    packrank_kernels.set_num_threads(before)


@pytest.fixture(scope="session")
def make_sequences() -> Callable[..., list[Sequence]]:
    """make_sequences("Bert", [5, 1, 40]): random ids and types that the model knows."""

    def make(name: str, lengths: list[int], seed: int = 0) -> list[Sequence]:
        rng = np.random.default_rng(seed)
        num_types = 2 if name in ("Bert", "Electra") else 1
        return [
            Sequence(
                token_ids=rng.integers(3, 97, length, dtype=np.int32),
                token_types=rng.integers(0, num_types, length, dtype=np.int32),
            )
            for length in lengths
        ]

    return make
