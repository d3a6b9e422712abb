"""Decoders against transformers, and FlagEmbedding's layerwise models against it by hand."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from decoders import PECULIAR, candidates, compressed_logits, make, save_layerwise
from safetensors.torch import load_file, save_file

from packrank.errors import ModelError
from packrank.models import CausalModel, CausalSettings, load_model
from packrank.models.prefixes import share_prefixes
from packrank.request import Pack
from packrank.runtime.runner import Runner

LENGTHS, PREFIX = [1, 5, 20, 33, 2], 9
PACK, ALONE = candidates(LENGTHS, PREFIX), candidates(LENGTHS, PREFIX, share=False)


def load(folder: Path, dtype: torch.dtype = torch.float32, **settings: Any) -> CausalModel:
    causal = CausalSettings(**settings)
    model = load_model(folder, device="cpu", dtype=dtype, causal=causal)
    assert isinstance(model, CausalModel)
    return model


def each(model: Any, read: Any) -> np.ndarray:
    """[N, ...]: what transformers says of each sequence alone, without padding."""
    with torch.no_grad():
        return np.stack(
            [
                read(model(torch.from_numpy(sequence.token_ids)[None].long())).numpy()
                for sequence in ALONE
            ]
        )


@pytest.mark.parametrize("family", PECULIAR)
def test_classifiers_against_transformers(family: str, tmp_path: Path) -> None:
    model = make(family, num_labels=3)
    model.save_pretrained(tmp_path)
    want = each(model, lambda out: out.logits[0])
    for pack in (PACK, ALONE):
        np.testing.assert_allclose(load(tmp_path).logits(pack), want, rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", PECULIAR)
def test_bfloat16_stays_near(family: str, tmp_path: Path) -> None:
    model = make(family, initializer_range=0.05)
    model.save_pretrained(tmp_path)
    want = each(model, lambda out: out.logits[0])
    got = load(tmp_path, torch.bfloat16).logits(PACK).numpy()
    # Hidden states are rounded some ten times a layer to 2^-9 of their size.
    np.testing.assert_allclose(got, want, rtol=0, atol=0.05 * np.abs(want).max() + 0.02)


@pytest.mark.parametrize(("family", "tied"), [("Qwen2", False), ("Qwen3", True), ("Gemma2", True)])
@pytest.mark.parametrize("no", [None, 11])
def test_rows_of_the_vocabulary(family: str, tied: bool, no: int | None, tmp_path: Path) -> None:
    model = make(family, "ForCausalLM", tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    want = each(model, lambda out: out.logits[0, -1, 7])
    if no is not None:
        want = want - each(model, lambda out: out.logits[0, -1, no])
    got = load(tmp_path, head="tokens", true_token_id=7, false_token_id=no).logits(PACK)
    np.testing.assert_allclose(got[:, 0], want, rtol=0, atol=2e-5)


LABELS = (7, 11, 90, 3)


@pytest.mark.parametrize(("family", "tied"), [("Qwen2", False), ("Qwen3", True), ("Gemma2", True)])
def test_labels_side_by_side(family: str, tied: bool, tmp_path: Path) -> None:
    """Each capped by itself, and of all layers where there are several stops."""
    model = make(family, "ForCausalLM", tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    want = each(model, lambda out: out.logits[0, -1, list(LABELS)])
    ours = load(tmp_path, head="labels", label_token_ids=LABELS)
    assert ours.num_labels == 4
    for pack in (PACK, ALONE):
        np.testing.assert_allclose(ours.logits(pack), want, rtol=0, atol=2e-5)
    assert torch.equal(ours.logits(PACK), ours.logits(ALONE))
    one = load(tmp_path, head="labels", label_token_ids=LABELS[2:3])
    assert torch.equal(one.logits(PACK), ours.logits(PACK)[:, 2:3])
    assert Runner(ours, 40).logits(PACK).shape == (len(LENGTHS), 4)


def test_labels_that_are_not_there(tmp_path: Path) -> None:
    make("Qwen2", "ForCausalLM").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"token 97 is not among the 97 rows of lm_head.weight"):
        load(tmp_path, head="labels", label_token_ids=(3, 97))
    with pytest.raises(ModelError, match="Qwen2ForCausalLM scores by a token, and none is named"):
        load(tmp_path, head="labels")


def test_a_token_that_is_not_there(tmp_path: Path) -> None:
    make("Qwen2", "ForCausalLM").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"token 97 is not among the 97 rows of lm_head.weight"):
        load(tmp_path, head="tokens", true_token_id=97)
    with pytest.raises(ModelError, match="Qwen2ForCausalLM has no scoring head"):
        load(tmp_path)


HEADS = ["model.embed_tokens.weight", "lm_head.weight"]


@pytest.mark.parametrize("family", ["Qwen2", "Gemma"])
@pytest.mark.parametrize("tied", [True, False, None])
@pytest.mark.parametrize("missing", [None, *HEADS])
def test_a_tied_head_and_its_embedding_stand_for_each_other(
    family: str, tied: bool | None, missing: str | None, tmp_path: Path
) -> None:
    """As in transformers: of a tied pair either may be missing, and two that differ are two."""
    make(family, "ForCausalLM", tie_word_embeddings=False).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({n: x for n, x in tensors.items() if n != missing}, tmp_path / "model.safetensors")
    raw = json.loads((tmp_path / "config.json").read_text())
    raw.pop("tie_word_embeddings", None)
    raw |= {} if tied is None else {"tie_word_embeddings": tied}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    if missing is not None and not (family == "Gemma" if tied is None else tied):
        with pytest.raises(ModelError, match=rf"has no {missing}, .*tie_word_embeddings: false"):
            load(tmp_path, head="tokens", true_token_id=7)
        return
    transformers.utils.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    want = each(model.eval(), lambda out: out.logits[0, -1, 7])
    got = load(tmp_path, head="tokens", true_token_id=7).logits(PACK)[:, 0]
    np.testing.assert_allclose(got, want, rtol=0, atol=3e-5)


@pytest.fixture(scope="module")
def minicpm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A layerwise MiniCPM, and its logits at layers 2, 3 and 4 by way of Llama.

    The scales are folded into the weights of transformers' Llama after they have been saved.
    """
    model = make("Llama", "ForCausalLM", rope_parameters=None, attention_bias=False, mlp_bias=False)
    heads = [torch.randn(1, 48) for _ in range(3)]
    folder = save_layerwise(
        tmp_path_factory.mktemp("minicpm"),
        model,
        heads,
        architectures=["LayerWiseMiniCPMForCausalLM"],
        model_type="minicpm",
        start_layer=2,
        head_type="simple",
        head_multi=True,
        scale_emb=12,
        scale_depth=1.4,
    )
    with torch.no_grad():
        model.model.embed_tokens.weight *= 12
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight *= 1.4 / math.sqrt(4)
            layer.mlp.down_proj.weight *= 1.4 / math.sqrt(4)
    rows = []
    with torch.no_grad():
        for sequence in ALONE:
            ids = torch.from_numpy(sequence.token_ids)[None].long()
            out = model.model(ids, output_hidden_states=True)
            # The last of hidden_states has been normed already.
            states = [model.model.norm(out.hidden_states[c]) for c in (2, 3)]
            states.append(out.last_hidden_state)
            rows.append([float(x[0, -1] @ h[0]) for x, h in zip(states, heads, strict=True)])
    return folder, np.array(rows)


def test_a_head_a_layer(minicpm: tuple[Path, np.ndarray]) -> None:
    folder, want = minicpm
    model = load(folder, head="layerwise")
    assert model.exit_layers == (2, 3, 4)
    np.testing.assert_allclose(model.logits_at(PACK, (2, 3, 4)), want, rtol=0, atol=1e-4)
    np.testing.assert_allclose(model.logits_at(PACK, (3,)), want[:, 1:2], rtol=0, atol=1e-4)
    np.testing.assert_allclose(model.logits(PACK), want[:, 2:], rtol=0, atol=1e-4)


def test_upstreams_index_of_heads(minicpm: tuple[Path, np.ndarray]) -> None:
    folder, _ = minicpm
    by_layer, upstream = (
        load(folder, head="layerwise"),
        load(folder, head="layerwise", head_index="upstream"),
    )
    everything = (2, 3, 4)
    assert torch.equal(by_layer.logits_at(PACK, everything), upstream.logits_at(PACK, everything))
    state = upstream.advance(upstream.begin(PACK), 4)
    first = upstream.exit_logits(state, 0)[1:]
    assert torch.equal(upstream.logits(PACK), first)
    assert not torch.equal(by_layer.logits(PACK), first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_shared_prefix_changes_no_bit(minicpm: tuple[Path, np.ndarray], dtype: Any) -> None:
    model = load(minicpm[0], dtype, head="layerwise")
    assert torch.equal(model.logits_at(PACK, (2, 4)), model.logits_at(ALONE, (2, 4)))


@pytest.mark.parametrize("ratio", [1, 2, 4, 8])
@pytest.mark.parametrize("layers", [(1,), (0, 2, 3)])
def test_compression_against_plain_pytorch(
    ratio: int, layers: tuple[int, ...], tmp_path: Path
) -> None:
    tail, stops = 1, (1, 3, 4)
    model = make("Gemma2", "ForCausalLM")
    heads = [torch.randn(1, 48) for _ in range(4)]
    folder = save_layerwise(
        tmp_path / "model",
        model,
        heads,
        architectures=["CostWiseGemmaForCausalLM"],
        model_type="cost_wise_gemma",
        start_layer=1,
        layer_sep=1,
        layer_wise=True,
    )
    with torch.no_grad():
        want = [
            compressed_logits(
                model, heads, one.token_ids.tolist(), (PREFIX, tail), ratio, layers, stops
            )
            for one in ALONE
        ]
    got = load(
        folder,
        head="layerwise",
        head_index="upstream",
        compress_ratio=ratio,
        compress_layers=layers,
        tail=tail,
    ).logits_at(PACK, stops)
    np.testing.assert_allclose(got, np.array(want), rtol=0, atol=1e-4)


def test_one_head_for_all_layers(tmp_path: Path) -> None:
    model = make("Llama", "ForCausalLM", rope_parameters=None, attention_bias=False, mlp_bias=False)
    head = torch.randn(1, 48)
    raw = {
        "architectures": ["LayerWiseMiniCPMForCausalLM"],
        "model_type": "minicpm",
        "start_layer": 2,
        "head_multi": False,
    }
    folder = save_layerwise(tmp_path / "model", model, [head], **raw)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.linear_head.weight"] = tensors.pop("lm_head.0.linear_head.weight")
    save_file(tensors, folder / "model.safetensors")
    one = load(folder, head="layerwise").logits_at(PACK, (2, 4))
    several = save_layerwise(tmp_path / "several", model, [head] * 3, **raw | {"head_multi": True})
    assert torch.equal(one, load(several, head="layerwise").logits_at(PACK, (2, 4)))


def test_gemma_rounds_the_factor_of_its_embeddings(tmp_path: Path) -> None:
    """sqrt(48) is 6.928 in float32 and 6.9375 in bfloat16, which transformers multiplies by."""
    make("Gemma").save_pretrained(tmp_path)
    model = load(tmp_path, torch.bfloat16)
    table = model._tokens[torch.from_numpy(PACK.token_ids[:9]).long()]
    assert torch.equal(model.begin(PACK).x[:9], table * torch.tensor(6.9375, dtype=torch.bfloat16))
    assert not torch.equal(model.begin(PACK).x[:9], table * 48**0.5)


def test_prefixes_stand_first_and_once() -> None:
    queries = np.array([3, 1, 3, 1, 2], dtype=np.int32)
    shared = np.array([2, 1, 2, 1, 0], dtype=np.int32)
    rows = [[7, 8, 1], [5, 2, 3], [7, 8, 4, 4], [5, 6], [9]]
    ids = np.concatenate(rows).astype(np.int32)
    starts = np.cumsum([0, *map(len, rows)]).astype(np.int32)
    pack = share_prefixes(Pack(ids, np.zeros_like(ids), starts, queries, shared))
    assert pack.token_ids.tolist() == [5, 7, 8, 1, 2, 3, 4, 4, 6, 9]
    assert pack.cu_seqlens.tolist() == [0, 1, 3, 4, 6, 8, 9, 10]
    assert pack.prefix_of.tolist() == [-1, -1, 1, 0, 1, 0, -1]
    assert pack.max_seqlen == 4


def test_no_vectors_from_a_decoder(minicpm: tuple[Path, np.ndarray]) -> None:
    with pytest.raises(ModelError, match="is a decoder"):
        load(minicpm[0], head="layerwise").hidden_states(PACK)
