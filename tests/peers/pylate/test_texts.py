"""Blanks around a text, and capitals in it, where the tokenizer keeps both: as PyLate has them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from colbert_folders import TEXTS, save_colbert
from pylate.models import ColBERT

from packrank import LateInteraction

BLANK = [
    "  the sea",
    "the sea \n",
    "\u3000Red\u2009FOX\x1c",
    " \t",
    "THE \u03a3\u039f\u03a3 \u0130",
    "<MASK>",
]


@pytest.mark.parametrize("lowers", [False, True])
@pytest.mark.parametrize("prompt", ["", "  say "])
def test_texts_are_stripped_and_lowered(
    checkpoint: Callable[..., Path], tmp_path: Path, lowers: bool, prompt: str
) -> None:
    encoder = tmp_path / "encoder"
    save_colbert(checkpoint("XLMRoberta", "Model"), encoder, "XLMRoberta")
    (encoder / "artifact.metadata").unlink()
    for name, changes in (
        ("config.json", {"architectures": ["XLMRobertaModel"]}),
        ("tokenizer.json", {"normalizer": None}),
    ):
        raw = json.loads((encoder / name).read_text())
        (encoder / name).write_text(json.dumps(raw | changes))
    late = ColBERT(
        str(encoder),
        device="cpu",
        embedding_size=16,
        query_prefix="the",
        document_prefix="sea",
        query_length=14,
        document_length=30,
        prompts={"x": prompt},
        default_prompt_name="x",
    )
    late[0].do_lower_case = lowers
    late.save_pretrained(str(tmp_path / "late"))
    model = LateInteraction(tmp_path / "late", device="cpu")
    for ours, theirs in (
        (model.encode_queries(TEXTS + BLANK), late.encode(TEXTS + BLANK, is_query=True)),
        (model.encode_documents(TEXTS + BLANK), late.encode(TEXTS + BLANK, is_query=False)),
    ):
        for a, b in zip(ours, theirs, strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a.numpy(), b, rtol=0, atol=1e-5)
