"""Decoders whose attention runs both ways (is_causal: false), against transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoders import PECULIAR, candidates, make

from packrank.checkpoint.config import load_config
from packrank.models import CausalModel, CausalSettings, load_model
from packrank.request import Pack, Sequence

LENGTHS, PREFIX = [1, 5, 20, 33, 2], 9
PACK, ALONE = candidates(LENGTHS, PREFIX), candidates(LENGTHS, PREFIX, share=False)
WINDOWED: dict[str, dict[str, Any]] = {
    "Qwen3": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2},
}


def load(folder: Path, dtype: torch.dtype = torch.float32, **settings: Any) -> CausalModel:
    causal = CausalSettings(**settings)
    model = load_model(folder, device="cpu", dtype=dtype, causal=causal)
    assert isinstance(model, CausalModel)
    return model


def each(model: Any, read: Any, pack: Pack = ALONE) -> np.ndarray:
    """[N, ...]: what transformers says of each sequence alone, without padding."""
    with torch.no_grad():
        return np.stack(
            [read(model(torch.from_numpy(s.token_ids)[None].long())).numpy() for s in pack]
        )


@pytest.mark.parametrize("family", PECULIAR)
def test_classifiers(family: str, tmp_path: Path) -> None:
    """What pairs of a query have in common is not computed once: it sees what follows it."""
    options = WINDOWED.get(family, {})
    model = make(family, num_labels=3, is_causal=False, **options)
    model.save_pretrained(tmp_path)
    want = each(model, lambda out: out.logits[0])
    ours = load(tmp_path)
    for pack in (PACK, ALONE):
        np.testing.assert_allclose(ours.logits(pack), want, rtol=0, atol=2e-5)
    model.config.is_causal = True
    causal = each(model, lambda out: out.logits[0])
    assert np.abs(causal - want)[2:].min(0).max() > 1e-2


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Gemma2"])
def test_rows_of_the_vocabulary(family: str, tmp_path: Path) -> None:
    model = make(family, "ForCausalLM", is_causal=False)
    model.save_pretrained(tmp_path)
    want = each(model, lambda out: out.logits[0, -1, 7])
    got = load(tmp_path, head="tokens", true_token_id=7).logits(PACK)
    np.testing.assert_allclose(got[:, 0], want, rtol=0, atol=2e-5)


def test_padding_that_ends_a_text_is_read_but_does_not_score(tmp_path: Path) -> None:
    """A literal padding token is a token like any other to all but the head."""
    model = make("Qwen2", is_causal=False)
    model.save_pretrained(tmp_path)
    texts = [[5, 7, 0, 0], [5, 7], [0, 0], [0, 9, 0]]
    pack = Pack.of(Sequence(np.array(ids, np.int32), np.zeros(len(ids), np.int32)) for ids in texts)
    want = each(model, lambda out: out.logits[0], pack)
    np.testing.assert_allclose(load(tmp_path).logits(pack), want, rtol=0, atol=2e-5)
    assert abs(want[0] - want[1]) > 1e-3


@pytest.mark.parametrize("pooling", ["avg", "last"])
def test_padding_that_a_text_spells_is_read_by_the_mask(pooling: str, tmp_path: Path) -> None:
    """llama_bidirec's own code pools whatever is not masked, and looks at no token."""
    model = make("Llama", is_causal=False, pad_token_id=0)
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    name = "LlamaBidirectionalForSequenceClassification"
    said = {"model_type": "llama_bidirec", "architectures": [name], "pooling": pooling}
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    texts = [[5, 7, 0, 0], [5, 7], [0, 0], [0, 9, 0]]
    pack = Pack.of(Sequence(np.array(ids, np.int32), np.zeros(len(ids), np.int32)) for ids in texts)

    def read(out: Any) -> Any:
        states = out.last_hidden_state[0]
        return model.score(states[-1] if pooling == "last" else states.mean(0))

    want = each(model.model, read, pack)
    np.testing.assert_allclose(load(tmp_path).logits(pack), want, rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_company_changes_no_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    make("Mistral", is_causal=False).save_pretrained(tmp_path)
    model = load(tmp_path, dtype)
    together = model.logits(ALONE)
    alone = torch.cat([model.logits(ALONE.take(np.array([i]))) for i in range(len(LENGTHS))])
    assert torch.equal(together, alone)


def test_a_window_reaches_to_either_side(tmp_path: Path) -> None:
    """transformers lets a causal token see n - 1 before it, and one of these n on each side."""
    for causal, window in ((True, 6), (False, 7)):
        make("Mistral", is_causal=causal).save_pretrained(tmp_path)
        decoder = load_config(tmp_path).decoder
        assert decoder is not None
        assert (decoder.causal, decoder.windows) == (causal, (window,) * 4)
