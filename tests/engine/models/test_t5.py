"""Encoder-decoders against transformers, which runs each sequence alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from encoder_decoders import PECULIAR, pack, save, sequences, their_logits
from recorder import Recorder
from safetensors.torch import load_file, save_file
from transformers.models.t5.modeling_t5 import T5Attention

from packrank.checkpoint.t5_config import T5Options
from packrank.errors import ModelError
from packrank.models import CausalSettings, T5Model, T5Settings, load_model
from packrank.models import t5 as module
from packrank.models.relative import bucket_rows
from packrank.runtime.fleet import Recipe, run_on
from packrank.runtime.graphs import PATIENCE, Graphs
from packrank.runtime.runner import Runner
from packrank_kernels import set_num_threads

LENGTHS, LABELS = [1, 200, 7, 40, 133, 2], (3, 7, 50)
PACK = pack(LENGTHS)
DECODERS = [(0,), (0, 5), (0, 9, 11, 4)]
START = DECODERS[0]


def load(
    folder: Path,
    decoder: tuple[int, ...] = START,
    labels: tuple[int, ...] = LABELS,
    dtype: torch.dtype | None = torch.float32,
    **options: Any,
) -> T5Model:
    settings = T5Settings(decoder, labels, **options)
    model = load_model(folder, device="cpu", dtype=dtype, causal=settings)
    assert isinstance(model, T5Model)
    return model


def edit(folder: Path, **values: Any) -> None:
    raw = json.loads((folder / "config.json").read_text()) | values
    raw = {key: value for key, value in raw.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(raw))


def retensor(folder: Path, **changes: Any) -> None:
    """Tensors of these names, with / for a dot, put in or, by None, taken out."""
    tensors = load_file(folder / "model.safetensors")
    tensors |= {name.replace("/", "."): value for name, value in changes.items()}
    kept = {name: value for name, value in tensors.items() if value is not None}
    save_file(kept, folder / "model.safetensors")


@pytest.mark.parametrize("decoder", DECODERS, ids=len)
@pytest.mark.parametrize("kind", PECULIAR)
def test_logits_against_transformers(kind: str, decoder: tuple[int, ...], tmp_path: Path) -> None:
    want = their_logits(save(tmp_path, kind), PACK, decoder, LABELS)
    got = load(tmp_path, decoder).logits(PACK)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", PECULIAR)
def test_bfloat16_stays_near(kind: str, tmp_path: Path) -> None:
    want = their_logits(save(tmp_path, kind, 0.06), PACK, START, LABELS)
    got = load(tmp_path, dtype=torch.bfloat16).logits(PACK).numpy()
    # Hidden states are rounded some ten times a layer to 2^-9 of their size.
    np.testing.assert_allclose(got, want, rtol=0, atol=0.05 * np.abs(want).max())


@pytest.mark.parametrize("kind", PECULIAR)
@pytest.mark.parametrize("dropped", ["relative", "cross"])
def test_what_is_left_out_shows(
    kind: str, dropped: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the tests above would show nothing of the bias and of cross-attention."""
    want = their_logits(save(tmp_path, kind), PACK, (0, 5), LABELS)
    original = module.attention

    def attention(*args: Any, **options: Any) -> torch.Tensor:
        is_cross = args[3] is not args[4] and "relative" not in options
        if dropped == "relative":
            return original(*args, **options | {"relative": None})
        found = original(*args, **options)
        return torch.zeros_like(found) if is_cross else found

    monkeypatch.setattr(module, "attention", attention)
    off = np.abs(load(tmp_path, (0, 5)).logits(PACK).numpy() - want).max(axis=1)
    assert (off > 1e-3 * np.abs(want).max()).sum() >= len(LENGTHS) - (dropped == "relative")


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("buckets", "most"), [(32, 128), (9, 40), (4, 3), (64, 1000), (33, 17)])
def test_buckets(buckets: int, most: int, causal: bool) -> None:
    options = T5Options(1, 1, buckets, most, False, True, True, 0)
    distances = torch.arange(-3000, 3001)
    want = T5Attention._relative_position_bucket(-distances, not causal, buckets, most)
    assert torch.equal(bucket_rows(distances, options, causal=causal), want)
    few = torch.arange(-40, 41)
    assert torch.equal(bucket_rows(few, options, causal=causal), want[2960:3041])


def test_the_difference_of_two_labels(tmp_path: Path) -> None:
    want = their_logits(save(tmp_path), PACK, START, (3, 7))
    model = load(tmp_path, labels=(3, 7), difference=True)
    assert model.num_labels == 1
    np.testing.assert_allclose(model.logits(PACK), want[:, :1] - want[:, 1:], rtol=0, atol=2e-5)


def test_a_label_does_not_hang_on_the_others(tmp_path: Path) -> None:
    save(tmp_path)
    together = load(tmp_path).logits(PACK)
    assert load(tmp_path).num_labels == together.shape[1] == 3
    for place, label in enumerate(LABELS):
        assert torch.equal(load(tmp_path, labels=(label,)).logits(PACK), together[:, place, None])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["relu", "gated"])
def test_company_changes_no_bit(
    kind: str, dtype: torch.dtype, tmp_path: Path, restored_threads: None
) -> None:
    lengths = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 300, 5, 5, 1, 128, 129]
    save(tmp_path, kind)
    model, given = load(tmp_path, (0, 5), dtype=dtype), sequences(lengths)
    # Alone it comes first, to a table of distances that is not as long.
    alone = np.concatenate([Runner(model, 1).logits([one]) for one in given])
    assert len(np.unique(alone)) > len(lengths)
    rng = np.random.default_rng(0)
    for threads, budget in ((1, 1), (1, 50), (2, 97), (3, 10_000)):
        set_num_threads(threads)
        order = rng.permutation(len(given))
        together = Runner(model, budget).logits([given[place] for place in order])
        np.testing.assert_array_equal(together, alone[order], strict=True)


def test_buckets_of_graphs_change_no_bit(tmp_path: Path) -> None:
    """What reads a token of nobody's reads NaN."""
    save(tmp_path, "gated")
    model = load(tmp_path, (0, 5))
    model._tokens[0] = torch.nan
    packs = [pack([1, 5, 20, 8, 2], 1), pack([30], 2), pack([3] * 8, 3), pack([10, 12, 20], 4)]
    expected = [model.logits(one).numpy() for one in packs]
    assert all(np.isfinite(logits).all() for logits in expected)
    recorder = Recorder()
    runner = Graphs(model, recorder)
    for _ in range(PATIENCE + 2):
        waiting = [runner.submit(model.scoring(one)) for one in packs]
        for wait, logits in zip(waiting, expected, strict=True):
            np.testing.assert_array_equal(wait(), logits)
    assert 0 < recorder.num_graphs <= len(packs)


def test_on_several_devices(tmp_path: Path) -> None:
    save(tmp_path)
    settings = T5Settings((0, 5), LABELS)
    recipe = Recipe(tmp_path, torch.float32, True, 100, settings)
    devices = [torch.device("cpu")] * 2
    one, both = run_on(devices[:1], recipe), run_on(devices, recipe)
    want = load(tmp_path, (0, 5)).logits(PACK).numpy()
    assert one.submit(PACK).num_labels == both.submit(PACK).num_labels == 3
    np.testing.assert_array_equal(one.submit(PACK).result(), want)
    np.testing.assert_array_equal(both.submit(PACK).result(), want)


TABLES = ["shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head"]


@pytest.mark.parametrize("own", TABLES[1:])
def test_a_table_of_its_own_counts(own: str, tmp_path: Path) -> None:
    """As in transformers 5: of tables that are there and differ each is read."""
    save(tmp_path)
    changed = {f"{own}.weight".replace(".", "/"): 0.2 * torch.randn(97, 60)}
    retensor(tmp_path, **changed)
    transformers.utils.logging.set_verbosity_error()
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    want = their_logits(theirs, PACK, START, LABELS)
    np.testing.assert_allclose(load(tmp_path).logits(PACK), want, rtol=0, atol=2e-5)


def test_any_of_tied_tables_stands_for_all(tmp_path: Path) -> None:
    save(tmp_path)
    want = load(tmp_path).logits(PACK)
    table = load_file(tmp_path / "model.safetensors")["shared.weight"]
    for name in TABLES[1:3]:
        retensor(tmp_path, **{"shared/weight": None, f"{name}.weight".replace(".", "/"): table})
        assert torch.equal(load(tmp_path).logits(PACK), want)
        retensor(tmp_path, **{"shared/weight": table, f"{name}.weight".replace(".", "/"): None})
    edit(tmp_path, tie_word_embeddings=False)
    with pytest.raises(ModelError, match=r"has no lm_head.weight, .*tie_word_embeddings: false"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("values", "scaled"),
    [
        ({"scale_decoder_outputs": ..., "tie_word_embeddings": ...}, True),
        ({"scale_decoder_outputs": ..., "tie_word_embeddings": False}, False),
        ({"scale_decoder_outputs": False, "tie_word_embeddings": True}, False),
        ({"scale_decoder_outputs": True, "tie_word_embeddings": False}, True),
    ],
)
def test_what_says_that_the_output_is_scaled(
    values: dict[str, Any], scaled: bool, tmp_path: Path
) -> None:
    save(tmp_path, "gated")
    edit(tmp_path, **values)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert bool(theirs.config.scale_decoder_outputs) == scaled
    want = their_logits(theirs, PACK, START, LABELS)
    np.testing.assert_allclose(load(tmp_path).logits(PACK), want, rtol=0, atol=2e-5)


def test_it_runs_in_what_its_range_fits(tmp_path: Path) -> None:
    save(tmp_path)
    assert load(tmp_path, dtype=None).dtype == torch.bfloat16
    with pytest.raises(ModelError, match="leave float16's range; run it in bfloat16 or float32"):
        load(tmp_path, dtype=torch.float16)


@pytest.mark.parametrize(
    ("decoder", "labels", "options", "message"),
    [
        ((0,), (), {}, "scores by tokens, and none is named"),
        ((), (3,), {}, "scores by tokens, and none is named"),
        ((0,), (97,), {}, r"token 97 is not among the 97 rows of shared\.weight"),
        ((0, 99), (3,), {}, r"token 99 is not among the 97 rows of shared\.weight"),
        ((0,), (-1,), {}, "names a token of a negative number"),
        ((0,), (1, 2, 3), {"difference": True}, "the difference of two labels and does not name"),
    ],
)
def test_settings_that_name_no_tokens(
    decoder: tuple[int, ...],
    labels: tuple[int, ...],
    options: dict[str, Any],
    message: str,
    tmp_path: Path,
) -> None:
    save(tmp_path)
    with pytest.raises(ModelError, match=message):
        load(tmp_path, decoder, labels, **options)


@pytest.mark.parametrize("causal", [None, CausalSettings(head="tokens", true_token_id=3)])
def test_it_is_not_used_as_a_decoder(causal: CausalSettings | None, tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.raises(ModelError, match="scores by tokens, and none is named; pass the tokens"):
        load_model(tmp_path, device="cpu", dtype=torch.float32, causal=causal)
    with pytest.raises(ModelError, match="is an encoder-decoder; it gives scores, not vectors"):
        load(tmp_path).hidden_states(PACK)


def test_a_checkpoint_without_all_its_layers(tmp_path: Path) -> None:
    save(tmp_path)
    edit(tmp_path, num_decoder_layers=3)
    with pytest.raises(ModelError, match="says 3 layers, and the weights hold 2"):
        load(tmp_path)
    edit(tmp_path, num_decoder_layers=2, num_layers=4)
    with pytest.raises(ModelError, match="says 4 layers, and the weights hold 3"):
        load(tmp_path)


def test_a_distance_that_no_sequence_has_takes_no_memory(tmp_path: Path) -> None:
    save(tmp_path)
    edit(tmp_path, relative_attention_max_distance=10**9)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    want = their_logits(theirs, PACK, START, LABELS)
    np.testing.assert_allclose(load(tmp_path).logits(PACK), want, rtol=0, atol=2e-5)
