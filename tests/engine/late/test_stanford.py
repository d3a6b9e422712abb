"""Stanford ColBERT over every body, against its procedure done anew on transformers."""

import string
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from colbert_folders import LENGTHS, PREFIXES, TEXTS, UNMARKED, save_colbert
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

from packrank import LateInteraction
from packrank_kernels.testing import assert_close


class Procedure:
    """Tokens, masks and vectors in the order in which colbert-ai makes them."""

    def __init__(self, encoder: Path, folder: Path, *, attend: bool, punctuation: bool) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.body = transformers.AutoModel.from_pretrained(encoder).eval()
        self.linear = load_file(folder / "model.safetensors")["linear.weight"]
        self.attend = attend
        self.skipped = [self.tokenizer.pad_token_id]
        if punctuation:
            self.skipped += [
                self.tokenizer.encode(symbol, add_special_tokens=False)[0]
                for symbol in string.punctuation
            ]

    def query(self, text: str) -> Tensor:
        length = LENGTHS["query_maxlen"]
        ids, mask = self.tokens(text, "[unused0]", length, padding="max_length")
        ids[ids == self.tokenizer.pad_token_id] = self.tokenizer.mask_token_id
        if self.attend:
            mask = torch.ones_like(mask)
        return self.vectors(ids, mask)

    def document(self, text: str) -> Tensor:
        ids, mask = self.tokens(text, "[unused1]", LENGTHS["doc_maxlen"])
        scored = torch.tensor([token not in self.skipped for token in ids.tolist()])
        return self.vectors(ids, mask)[scored]

    def tokens(self, text: str, marker: str, length: int, **padding: str) -> tuple[Tensor, Tensor]:
        found = self.tokenizer(text, truncation=True, max_length=length - 1, **padding)
        ids, mask = list(found["input_ids"]), list(found["attention_mask"])
        ids.insert(1, self.tokenizer.convert_tokens_to_ids(marker))
        mask.insert(1, 1)
        return torch.tensor(ids), torch.tensor(mask)

    @torch.no_grad()
    def vectors(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.body(ids[None], attention_mask=mask[None]).last_hidden_state[0]
        return normalize(states @ self.linear.T, dim=1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in PREFIXES),
        ("XLMRoberta", {"attend_to_mask_tokens": True, "mask_punctuation": False}),
        ("ModernBert", {"attend_to_mask_tokens": True}),
        ("Bert", {"mask_punctuation": False}),
    ],
)
def test_any_body_gives_the_vectors_of_its_procedure(
    checkpoint: Callable[..., Path], tmp_path: Path, name: str, options: dict[str, bool]
) -> None:
    encoder, folder = checkpoint(name, "Model"), tmp_path / "colbert"
    save_colbert(encoder, folder, name, **options)
    model = LateInteraction(folder, device="cpu")
    oracle = Procedure(
        encoder,
        folder,
        attend=options.get("attend_to_mask_tokens", False),
        punctuation=options.get("mask_punctuation", True),
    )
    for ours, theirs in (
        (model.encode_queries(TEXTS), map(oracle.query, TEXTS)),
        (model.encode_documents(TEXTS), map(oracle.document, TEXTS)),
    ):
        for text, a, b in zip(TEXTS, ours, theirs, strict=True):
            assert a.shape == b.shape, text
            assert_close(a, b, 1e-5)


@pytest.mark.parametrize("name", ["Bert", "XLMRoberta"])
def test_padding_in_a_text_is_filled_or_left_out(
    checkpoint: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    """And an explanation shows it so."""
    pad, mask = ("<pad>", "<mask>") if name in UNMARKED else ("[PAD]", "[MASK]")
    save_colbert(checkpoint(name, "Model"), tmp_path / "colbert", name)
    model = LateInteraction(tmp_path / "colbert", device="cpu")
    padded, masked = model.encode_queries([f"the {pad} sea", f"the {mask} sea"])
    assert torch.equal(padded, masked)
    found = model.explain(f"the {pad}", f"the {pad} sea")
    assert [t.scored for t in found.document_tokens if t.text == pad] == [False]
    assert all(token.scored for token in found.query_tokens)
    assert np.isfinite(found.score)


def test_a_marker_that_is_unknown_is_the_unknown_token(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    save_colbert(checkpoint("XLMRoberta", "Model"), tmp_path / "colbert", "XLMRoberta")
    model = LateInteraction(tmp_path / "colbert", device="cpu")
    assert (model.settings.query.marker, model.settings.document.marker) == (3, 3)


def test_settings_may_stand_inside_config(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    save_colbert(checkpoint("Bert", "Model"), tmp_path / "colbert", "Bert", query_maxlen=9)
    expected = LateInteraction(tmp_path / "colbert", device="cpu").settings
    metadata = tmp_path / "colbert/artifact.metadata"
    metadata.write_text(f'{{"config": {metadata.read_text()}}}')
    assert LateInteraction(tmp_path / "colbert", device="cpu").settings == expected
    assert expected.query.max_length == 9
