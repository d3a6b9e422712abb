"""Every block of Python in README and docs runs, and runs again; no link is broken."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoders import layerwise_minicpm
from prompts import metaspace
from reranker_folders import mxbai, qwen3
from source_tree import ROOT

from packrank import Margins, Reranker
from packrank.checkpoint.fingerprint import fingerprint
from packrank.exits.margins import FILE, save

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
QUERY = "how do snakes find prey"
IDS = ["p3", "p7", "p12"]
TEXTS = ["Owls hunt by ear.", "Pit vipers sense heat.", "Snakes smell with the tongue."]
_FENCE = re.compile(r"^```(\S*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def blocks(page: Path) -> list[str]:
    """The Python of a page, without what is marked: it wants a machine that need not be here."""
    found = _FENCE.findall(page.read_text(encoding="utf-8"))
    python = [(mark.strip(), code) for language, mark, code in found if language == "python"]
    assert {mark for mark, _ in python} <= {"", "no-run"}
    return [code for mark, code in python if not mark]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"https?://", link):
            continue
        target, _, anchor = link.partition("#")
        there = page.parent / target if target else page
        assert there.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in titles}
            assert anchor in slugs, link


@pytest.fixture
def hub(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Path]:
    """Small models by the names, of the hub and of folders, that the pages use."""

    def encoder(name: str, **options: Any) -> Path:
        folder = tmp_path / name
        shutil.copytree(checkpoint("Bert", **options), folder)
        save_tokenizer(folder, "how do snakes find prey owls hunt by ear")
        return folder

    layerwise = tmp_path / "bge-reranker-v2-minicpm-layerwise"
    layerwise_minicpm(layerwise, metaspace(), layers=40)
    model = Reranker(layerwise)
    margins = Margins(
        model="it",
        fingerprint=fingerprint(layerwise),
        settings=model.exit_settings,
        top_k=10,
        final_layer=40,
        layers=(8, 16),
        margins=(1.0, 0.5),
        recall=0.99,
        held_out_recall=1.0,
        held_out_low=0.98,
        held_out_high=1.0,
        dropped=(0.1, 0.2),
        saved=0.2,
        num_fitted=100,
        num_held_out=100,
        num_left_out=0,
        num_candidates=100,
        extrapolated=False,
    )
    save(layerwise / FILE, margins)
    labels = {"id2label": {0: "contradiction", 1: "entailment", 2: "neutral"}}
    found = {
        "cross-encoder/ms-marco-MiniLM-L6-v2": encoder("minilm", num_labels=1),
        "BAAI/bge-reranker-v2-m3": encoder("m3", num_labels=1),
        "BAAI/bge-reranker-v2-minicpm-layerwise": layerwise,
        "mixedbread-ai/mxbai-rerank-base-v2": mxbai(tmp_path).folder,
        "Qwen/Qwen3-Reranker-0.6B": qwen3(tmp_path).folder,
    }
    encoder("a-model-of-three-labels", **labels)
    shutil.copytree(found["Qwen/Qwen3-Reranker-0.6B"], tmp_path / "my-own-tune")
    found["folder"] = encoder("late", suffix="Model")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(found[name]))
    monkeypatch.chdir(tmp_path)
    return found


def test_blocks_run_twice(hub: dict[str, Path]) -> None:
    """Each page twice, a block after the other, in names of its own."""
    assert sum(len(blocks(page)) for page in PAGES) >= 10
    for page in PAGES:
        for _ in range(2):
            names: dict[str, Any] = {
                "__name__": "page",
                "query": QUERY,
                "documents": list(TEXTS),
                "texts": list(TEXTS),
                "ids": list(IDS),
                "folder": hub["folder"],
                "batches": [(["a", "b"], np.ones((2, 3, 8), dtype=np.float32))],
            }
            for code in blocks(page):
                exec(compile(code, f"{page.name}: {code.splitlines()[0]}", "exec"), names)
