"""Calls of other packed attentions: that each release gets them as its signature wants them.

The fakes have the signatures of the releases they are named for and compute with the reference, so
that a wrong argument shows in the result.
"""

import pytest
import torch

from packrank_kernels import reference
from packrank_kernels.backend import varlen
from packrank_kernels.testing import assert_close, cu_seqlens

CUDA = torch.device("cuda")
HALF = torch.float16


def compute(q, k, v, cu_q, cu_k, scale, causal, window, longest_q=None, longest_k=None):
    """FlashAttention of equal lengths: window is (left, right), None where there is no bound."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    left, right = window
    if longest_q is not None:
        assert cu_q.diff().max() <= longest_q
        assert cu_k.diff().max() <= longest_k
    assert right == left or right == 0
    is_causal = causal or right == 0 != left
    out = reference.attention(q, k, v, cu_q, cu_k, scale, left, None, is_causal)
    return torch.empty_like(q).copy_(out)  # laid out as q is, as all of them do


def bounds(window):
    assert all(isinstance(bound, int) for bound in window)
    return tuple(None if bound == -1 else bound for bound in window)


def torch_2_11(
    q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)
):
    assert q.shape[1] == k.shape[1]
    assert isinstance(window_size, tuple)
    window = bounds(window_size)
    return compute(q, k, v, cu_seq_q, cu_seq_k, scale, False, window, max_q, max_k)


def torch_2_13(
    query,
    key,
    value,
    cu_seq_q,
    cu_seq_k,
    max_q,
    max_k,
    *,
    return_aux=None,
    scale=None,
    window_size=(-1, -1),
    enable_gqa=False,
    seqused_k=None,
    block_table=None,
    num_splits=None,
):
    assert enable_gqa == (query.shape[1] != key.shape[1])
    window = bounds(window_size)
    return compute(query, key, value, cu_seq_q, cu_seq_k, scale, False, window, max_q, max_k)


def flash_2(
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    alibi_slopes=None,
    deterministic=False,
    return_attn_probs=False,
    block_table=None,
):
    assert dropout_p == 0.0
    if max_seqlen_q == 1 and q.shape[1] != k.shape[1]:
        assert len(q) == len(cu_seqlens_q) - 1, "shape is invalid for input"
    return compute(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        softmax_scale,
        causal,
        bounds(window_size),
        max_seqlen_q,
        max_seqlen_k,
    )


def flash_3(
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    seqused_q=None,
    seqused_k=None,
    softmax_scale=None,
    causal=False,
    qv=None,
    q_descale=None,
    k_descale=None,
    v_descale=None,
    window_size=(-1, -1),
    attention_chunk=0,
    softcap=0.0,
    num_splits=1,
    pack_gqa=None,
    deterministic=False,
    sm_margin=0,
    return_attn_probs=False,
):
    out = flash_2(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        softmax_scale=softmax_scale,
        causal=causal,
        window_size=window_size,
    )
    return out, None


def flash_4(
    q,
    k,
    v,
    cu_seqlens_q=None,
    cu_seqlens_k=None,
    seqused_q=None,
    seqused_k=None,
    softmax_scale=None,
    causal=False,
    window_size=(None, None),
    learnable_sink=None,
    softcap=0.0,
):
    assert -1 not in window_size
    out = compute(q, k, v, cu_seqlens_q, cu_seqlens_k, softmax_scale, causal, window_size)
    return out, None


def flash_4_with_bounds(
    q,
    k,
    v,
    cu_seqlens_q=None,
    cu_seqlens_k=None,
    max_seqlen_q=None,
    max_seqlen_k=None,
    seqused_q=None,
    seqused_k=None,
    softmax_scale=None,
    causal=False,
    window_size=(None, None),
):
    assert None not in (max_seqlen_q, max_seqlen_k)
    return flash_4(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        softmax_scale=softmax_scale,
        causal=causal,
        window_size=window_size,
    )


TORCH = [torch_2_11, torch_2_13]
FLASH = [flash_2, flash_3, flash_4, flash_4_with_bounds]


@pytest.fixture(autouse=True)
def hopper(monkeypatch):
    monkeypatch.setattr(varlen, "_major", lambda device: 9)


@pytest.fixture(params=[*TORCH, *FLASH], ids=lambda fake: fake.__name__)
def call(request, monkeypatch):
    """call(q, k, v, cu_q, cu_k, **options) through the release's signature, or a skip."""
    fake = request.param
    is_torch = fake in TORCH
    monkeypatch.setattr(varlen, "_torch_function", lambda: fake if is_torch else None)
    monkeypatch.setattr(varlen, "_flash_function", lambda major: None if is_torch else fake)
    run = varlen.torch_attention if is_torch else varlen.flash_attention
    why_not = varlen.why_not_torch if is_torch else varlen.why_not_flash

    def call(q, k, v, cu_q, cu_k, **options):
        reason = why_not(
            CUDA,
            HALF,
            head_size=q.shape[2],
            heads_per_key=q.shape[1] // k.shape[1],
            positional=options.get("window") is not None,
        )
        if reason:
            assert fake is torch_2_11
            pytest.skip(reason)
        defaults = {
            "scale": 0.3,
            "window": None,
            "rotary": None,
            "causal": False,
            "max_seqlen_q": None,
            "max_seqlen_k": None,
            "deterministic": False,
        }
        return run(q, k, v, cu_q, cu_k, **defaults | options)

    return call


def make(lengths, heads, key_heads):
    q = torch.randn(sum(lengths), heads, 8)
    k, v = (torch.randn(sum(lengths), key_heads, 8) for _ in range(2))
    return q, k, v, cu_seqlens(lengths)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 1.7},
        {"causal": True},
        {"window": 2},
        {"window": 0},
        {"window": 2**40},
        {"window": 2, "causal": True},
        {"max_seqlen_q": 9, "max_seqlen_k": 20},
    ],
    ids=str,
)
@pytest.mark.parametrize("key_heads", [4, 2])
def test_arguments_reach_every_release(call, options, key_heads):
    q, k, v, cu = make([5, 0, 9, 1], 4, key_heads)
    expected = reference.attention(
        q,
        k,
        v,
        cu,
        cu,
        options.get("scale", 0.3),
        options.get("window"),
        None,
        options.get("causal", False),
    )
    assert_close(call(q, k, v, cu, cu, **options), expected)


def test_one_query_in_padded_sequences_of_grouped_heads(call):
    q, _, _, cu_q = make([1, 1, 0, 0], 4, 2)
    _, k, v, cu_k = make([5, 3, 0, 0], 4, 2)
    actual = call(q, k, v, cu_q, cu_k, max_seqlen_q=1, max_seqlen_k=5)
    assert_close(actual, reference.attention(q, k, v, cu_q, cu_k, 0.3, None, None))


def test_no_keys_at_all_give_zeros(call):
    q, _, _, cu_q = make([3, 2], 4, 4)
    _, k, v, cu_k = make([0, 0], 4, 4)
    assert torch.equal(call(q, k, v, cu_q, cu_k), torch.zeros_like(q))


def test_output_is_contiguous(call):
    q, k, v, cu = make([5, 4], 4, 4)
    q = q.transpose(0, 1).contiguous().transpose(0, 1)
    assert call(q, k, v, cu, cu).is_contiguous()


def test_installed_torch_has_a_known_signature():
    known = varlen._defaults(varlen._torch_function())
    assert known.keys() >= {"cu_seq_q", "cu_seq_k", "max_q", "max_k", "window_size", "scale"}
    assert known["window_size"] == (-1, -1)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"head_size": 20}, "the head size is 20, not a multiple of 8 up to 256"),
        ({"head_size": 264}, "the head size is 264"),
        ({"rotary": True}, "it does not rotate queries and keys"),
        ({"unequal": True, "positional": True}, "it aligns the ends of queries and keys"),
        ({"deterministic": True}, "it does not promise the same bits in other company"),
    ],
)
@pytest.mark.parametrize("why_not", [varlen.why_not_torch, varlen.why_not_flash])
def test_refusals(monkeypatch, why_not, facts, reason):
    monkeypatch.setattr(varlen, "_torch_function", lambda: torch_2_13)
    monkeypatch.setattr(varlen, "_flash_function", lambda major: flash_2)
    assert why_not(CUDA, HALF, head_size=64, unequal=True) is None
    assert why_not(CUDA, HALF, unequal=True, positional=True, causal=True) is None
    assert why_not(CUDA, HALF, **facts).startswith(reason)
    assert why_not(CUDA, torch.float32).startswith("the tensors are torch.float32")
    assert why_not(torch.device("cpu"), HALF) == "the tensors are on cpu, not on a CUDA device"


def test_what_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(varlen, "_torch_function", lambda: None)
    monkeypatch.setattr(varlen, "_flash_function", lambda major: None)
    assert varlen.why_not_torch(CUDA, HALF) == "this torch has no packed attention"
    assert varlen.why_not_flash(CUDA, HALF) == "no flash-attn for this device is installed"


def test_old_devices_are_refused(monkeypatch):
    monkeypatch.setattr(varlen, "_major", lambda device: 7)
    assert varlen.why_not_torch(CUDA, HALF) == "the device's compute capability is below 8.0"


@pytest.mark.parametrize(
    ("major", "expected"), [(8, "flash_attn"), (9, "flash_attn.cute"), (10, "flash_attn.cute")]
)
def test_newest_flash_attn_for_the_device(monkeypatch, major, expected):
    chosen = []
    monkeypatch.setattr(varlen, "find_spec", lambda name: name)
    monkeypatch.setattr(varlen.importlib, "import_module", chosen.append)
    monkeypatch.setattr(varlen, "_FUNCTION", "__class__")
    varlen._flash_function.__wrapped__(major)
    assert chosen == [expected]
