"""Scores that authors of models, and of other engines, have printed with the texts they are of."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from packrank.verify.reading import Pair


@dataclass(frozen=True)
class Published:
    """Figures of one model from one source.

    Attributes:
        model: its name on the hub.
        pairs: the texts.
        logits: [N] of each pair, or its labels.
        source: who printed them, and where.
        dtype: in which they were computed.
        activated: they are scores after the model's own activation.
        cutoff_layer: after how many layers; None: after all.
        options: of `Reranker`, with which they were computed.
    """

    model: str
    pairs: tuple[Pair, ...]
    logits: tuple[float | tuple[float, ...], ...]
    source: str
    dtype: torch.dtype = torch.float32
    activated: bool = False
    cutoff_layer: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


_TOPROL = "is toprol xl the same as metoprolol?"
_TOPROL_PAIRS = (
    (
        _TOPROL,
        "Metoprolol succinate is also known by the brand name Toprol XL. It is the "
        "extended-release form of metoprolol. Metoprolol succinate is approved to treat high "
        "blood pressure, chronic chest pain, and congestive heart failure.",
    ),
    (
        _TOPROL,
        "Pill with imprint 1 is White, Round and has been identified as Metoprolol Tartrate 25 mg.",
    ),
    (
        _TOPROL,
        "Interactions between your drugs No interactions were found between Allergy Relief and "
        "metoprolol. This does not necessarily mean no interactions exist. Always consult your "
        "healthcare provider.",
    ),
)
_PANDA = (
    "The giant panda (Ailuropoda melanoleuca), sometimes called a panda bear or simply panda, is a "
    "bear species endemic to China."
)
_PANDAS = (("what is panda?", "hi"), ("what is panda?", _PANDA))
_SHORT = (("query", "passage"),)
_LEARNING = (("What is Deep Learning?", "Deep Learning is not..."),)
_SBERT = "sentence-transformers, tests/cross_encoder/test_pretrained.py"
_FLAG = "FlagEmbedding, examples/inference/reranker/README.md"
_BOOK = "FlagEmbedding, Tutorials/5_Reranking/5.2_BGE_Reranker.ipynb"
_TEI = "text-embeddings-inference, backends/candle/tests/snapshots"
_HALF = torch.float16

PUBLISHED = (
    Published(
        "cross-encoder/ms-marco-MiniLM-L6-v2",
        _TOPROL_PAIRS,
        (8.12545108795166, -3.045016050338745, -3.1524128913879395),
        _SBERT,
    ),
    Published(
        "cross-encoder/ms-marco-TinyBERT-L2-v2",
        _TOPROL_PAIRS,
        (8.142767906188965, 1.2057735919952393, -2.7283530235290527),
        _SBERT,
    ),
    Published(
        "cross-encoder/stsb-distilroberta-base",
        _TOPROL_PAIRS,
        (0.4977430999279022, 0.255491703748703, 0.28261035680770874),
        _SBERT,
        activated=True,
    ),
    Published("BAAI/bge-reranker-large", _SHORT, (-1.5263671875,), _FLAG, _HALF),
    Published("BAAI/bge-reranker-large", _PANDAS, (-5.60546875, 5.76171875), _FLAG, _HALF),
    Published(
        "BAAI/bge-reranker-large",
        (
            ("What is the capital of France?", "Paris is the capital of France."),
            (
                "What is the capital of France?",
                "The population of China is over 1.4 billion people.",
            ),
            ("What is the population of China?", "Paris is the capital of France."),
            (
                "What is the population of China?",
                "The population of China is over 1.4 billion people.",
            ),
        ),
        (7.984375, -6.84375, -7.15234375, 5.44921875),
        _BOOK,
        _HALF,
    ),
    Published(
        "BAAI/bge-reranker-large",
        (
            ("what is panda?", "Today is a sunny day"),
            (
                "what is panda?",
                "The tiger (Panthera tigris) is a member of the genus Panthera and the largest "
                "living cat species native to Asia.",
            ),
            ("what is panda?", _PANDA),
        ),
        (-9.474676132202148, -2.823843240737915, 5.76226806640625),
        "FlagEmbedding, Tutorials/5_Reranking/5.1_Intro.ipynb",
    ),
    Published("BAAI/bge-reranker-v2-m3", _SHORT, (-5.65234375,), _FLAG, _HALF),
    Published("BAAI/bge-reranker-v2-m3", _PANDAS, (-8.1875, 5.26171875), _FLAG, _HALF),
    Published("BAAI/bge-reranker-v2-gemma", _SHORT, (1.974609375,), _BOOK, _HALF),
    Published(
        "BAAI/bge-reranker-v2-minicpm-layerwise",
        _SHORT,
        (-7.06640625,),
        _BOOK,
        _HALF,
        cutoff_layer=28,
    ),
    Published(
        "BAAI/bge-reranker-v2.5-gemma2-lightweight",
        _SHORT,
        (14.734375,),
        _BOOK,
        _HALF,
        cutoff_layer=28,
        options={"compress_ratio": 2, "compress_layers": (24, 40)},
    ),
    Published(
        "ibm-research/re2g-reranker-nq",
        (
            (
                "PrimeTime is a timing signoff tool",
                "PrimeTime can perform most accurate timing analysis",
            ),
        ),
        ((2.8580017, -2.9722357),),
        _TEI,
    ),
    Published("Alibaba-NLP/gte-reranker-modernbert-base", _LEARNING, (2.13616,), _TEI),
    Published("tomaarsen/reranker-ModernBERT-large-gooaq-bce", _LEARNING, (-0.30617672,), _TEI),
)


def published_of(folder: Path, name: str) -> Iterator[Published]:
    """The figures of a model, by what it is called: its hub name, or the end of its folder's."""
    called = {_plain(name), _plain(folder.name)}
    called |= {_plain(part.split("--")[-1]) for part in folder.parts if part.startswith("models--")}
    for one in PUBLISHED:
        if _plain(one.model) in called:
            yield one


def _plain(name: str) -> str:
    """The last part of a name, in one spelling (ms-marco-MiniLM-L-6-v2 is -L6-v2)."""
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    return re.sub(r"[-_]", "", last).lower()
