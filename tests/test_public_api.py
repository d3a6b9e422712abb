import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import packrank
import packrank.ray
import packrank_kernels
from packrank.jobs.cluster import Cluster

ROOT = Path(__file__).parents[1]
PACKAGES = (packrank, packrank_kernels)


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_sorted_and_is_the_surface(package: ModuleType) -> None:
    public = {
        name
        for name in dir(package)
        if not name.startswith("_") and not isinstance(getattr(package, name), ModuleType)
    }
    assert package.__all__ == sorted(set(package.__all__), key=lambda n: (not n.isupper(), n))
    assert public == {name for name in package.__all__ if name != "__version__"}


def test_the_surface_of_the_engine() -> None:
    assert set(packrank.__all__) == {
        "Calls",
        "CrossEncoder",
        "DeadlineExceeded",
        "Engine",
        "EngineClosed",
        "Explanation",
        "FlagReranker",
        "InputError",
        "Job",
        "JobError",
        "LateInteraction",
        "Listwise",
        "Margins",
        "ModelError",
        "Overloaded",
        "PackrankError",
        "PairError",
        "Pairwise",
        "Ranked",
        "RankedId",
        "Ranking",
        "Reranker",
        "Setwise",
        "Store",
        "StoreError",
        "StoreWriter",
        "Summary",
        "TEMPLATES",
        "TokenStore",
        "Work",
        "__version__",
        "get_num_threads",
        "maxsim",
        "set_num_threads",
    }


def test_a_name_is_what_its_module_has() -> None:
    found: dict[str, object] = {}
    exec("from packrank import *", found)
    assert {name for name in found if name != "__builtins__"} == set(packrank.__all__)
    assert found["Reranker"] is packrank.Reranker is packrank.reranker.Reranker
    with pytest.raises(AttributeError, match="module 'packrank' has no attribute 'Rerankers'"):
        packrank.Rerankers  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_a_docstring(package: ModuleType) -> None:
    for name in package.__all__:
        if name != "__version__":
            assert inspect.getdoc(getattr(package, name)), name


@pytest.mark.parametrize("package", PACKAGES)
def test_types_are_shipped(package: ModuleType) -> None:
    assert package.__file__ is not None
    assert Path(package.__file__).with_name("py.typed").is_file()


def test_the_version_is_the_projects() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = re.search(r'^version = "(.+)"$', project, re.MULTILINE)
    assert declared is not None
    assert packrank.__version__ == declared[1]


def test_threads_are_set_in_one_place() -> None:
    assert packrank.set_num_threads is packrank_kernels.set_num_threads
    assert packrank.get_num_threads is packrank_kernels.get_num_threads


def test_errors_can_be_caught_by_kind() -> None:
    assert issubclass(packrank.ModelError, packrank.PackrankError)
    assert issubclass(packrank.PairError, packrank.InputError)
    assert issubclass(packrank.InputError, (packrank.PackrankError, ValueError))
    assert issubclass(packrank.StoreError, packrank.PackrankError)
    assert not issubclass(packrank.ModelError, packrank.InputError)


def test_a_ranked_document_unpacks() -> None:
    assert packrank.Ranked._fields == ("index", "score", "document")
    assert packrank.RankedId._fields == ("index", "score", "id")


# Parameters and defaults, without annotations.
SIGNATURES = {
    packrank.Reranker: (
        "model, *, device='auto', dtype='auto', max_length=None, query_length=None, "
        "document_length=None, truncation=None, long_documents='truncate', activation=None, "
        "template=None, instruction=None, compress_ratio=1, compress_layers=(8,), "
        "head_index='upstream', share_prefixes=True, budget_tokens=None, deterministic=False, "
        "revision=None, token=None, cache_folder=None, local_files_only=False"
    ),
    packrank.Reranker.warm_up: "self, max_seqlens=(48, 64, 96, 128, 192, 256, 384, 512)",
    packrank.Reranker.rank: (
        "self, query, documents, top_k=None, *, label=None, cutoff_layer=None, exit=None, "
        "score_threshold=None, instruction=None, max_length=None, query_length=None, "
        "document_length=None, long_documents=None"
    ),
    packrank.Reranker.rank_many: (
        "self, requests, top_k=None, *, label=None, cutoff_layer=None, exit=None, "
        "score_threshold=None, instruction=None, max_length=None, query_length=None, "
        "document_length=None, long_documents=None"
    ),
    packrank.Reranker.score: (
        "self, pairs, *, activation=None, cutoff_layers=None, instruction=None, prompt=None, "
        "max_length=None, query_length=None, document_length=None, long_documents=None"
    ),
    packrank.Reranker.try_score: (
        "self, pairs, *, activation=None, cutoff_layers=None, instruction=None, prompt=None, "
        "max_length=None, query_length=None, document_length=None, long_documents=None"
    ),
    packrank.Engine: "model, *, max_queue_tokens=None, cache_bytes=67108864, watch=None",
    packrank.Engine.rank: "self, query, documents, top_k=None, **options",
    packrank.Engine.score: "self, pairs, **options",
    packrank.Engine.submit: (
        "self, query, documents, top_k=None, *, priority=0, timeout=None, caller=None, "
        "candidates=None, **options"
    ),
    packrank.Engine.submit_pairs: (
        "self, pairs, *, priority=0, timeout=None, caller=None, **options"
    ),
    packrank.Engine.submit_explain: (
        "self, query, document, *, priority=0, timeout=None, caller=None"
    ),
    packrank.LateInteraction: (
        "model, *, store=None, device='auto', dtype='auto', query_length=None, "
        "document_length=None, budget_tokens=None, deterministic=False, revision=None, token=None, "
        "cache_folder=None, local_files_only=False"
    ),
    packrank.LateInteraction.attach: "self, store",
    packrank.LateInteraction.rank: (
        "self, query, documents=None, top_k=None, *, candidates=None, exact=False"
    ),
    packrank.LateInteraction.try_rank: (
        "self, query, documents=None, top_k=None, *, candidates=None, exact=False"
    ),
    packrank.LateInteraction.rank_many: "self, requests, top_k=None",
    packrank.LateInteraction.try_rank_many: "self, requests, top_k=None",
    packrank.LateInteraction.explain: "self, query, document, *, candidate=None",
    packrank.LateInteraction.score: "self, pairs",
    packrank.LateInteraction.try_score: "self, pairs",
    packrank.LateInteraction.token_ids: "self, query, document",
    packrank.LateInteraction.encode_queries: "self, texts",
    packrank.LateInteraction.encode_documents: "self, texts, store=None, ids=None",
    packrank.LateInteraction.try_encode_documents: "self, texts, cut=None",
    packrank.Store.open: "path, *, verify=True",
    packrank.Store.indices: "self, ids",
    packrank.StoreWriter: "path, *, format=None, model=None, sample=None, centroids=None",
    packrank.StoreWriter.append: "self, ids, documents, lengths=None",
    packrank.StoreWriter.commit: "self",
    packrank.StoreWriter.close: "self",
    packrank.TokenStore.open: "path, *, verify=True",
    packrank.TokenStore.check: "self, wanted",
    packrank.ray.Scorer: (
        "model, *, query='query', document='document', score='score', error='error', "
        "cutoff_layer=None, **options"
    ),
    packrank.ray.Scorer.__call__: "self, batch",
    Cluster: "model, options=None, *, address=None, actors=None, cpus=1, gpus=None",
    packrank.maxsim: (
        "queries, documents, candidates=None, top_k=None, *, mask=None, exact=False, device=None"
    ),
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_signatures_are_frozen(function: object) -> None:
    assert callable(function)
    signature = inspect.signature(function)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    assert str(inspect.Signature(bare)) == f"({SIGNATURES[function]})"  # type: ignore[index]
