"""Norms, embeddings, heads: what has a row of numbers for each token."""

import torch

from packrank_kernels import (
    add_layer_norm,
    add_rms_norm,
    embed_layer_norm,
    pack_head,
    reference,
    score_head,
)
from questions.asking import Device, check

EPS = 1e-12


def norm(at: Device) -> None:
    for size in (384, 768, 1024):
        norms_of(at, size)


def norms_of(at: Device, size: int) -> None:
    x, residual = at.draw(333, size), at.draw(333, size)
    weight, bias = torch.randn(2, size, device=at.device)
    layer = at.named("add_layer_norm", "triton")
    check(
        lambda: torch.stack(add_layer_norm(x, residual, weight, bias, EPS, backend=layer)),
        torch.stack(reference.add_layer_norm(x, residual, weight, bias, EPS)),
    )
    rms = at.named("add_rms_norm", "triton")
    check(
        lambda: torch.stack(add_rms_norm(x, residual, weight, EPS, backend=rms)),
        torch.stack(reference.add_rms_norm(x, residual, weight, EPS, 1.0)),
    )


def embedding(at: Device) -> None:
    size = 384
    tables = [at.draw(rows, size) for rows in (1000, 512, 2)]
    ids = [torch.randint(len(t), (777,), dtype=torch.int32, device=at.device) for t in tables]
    weight, bias = torch.randn(2, size, device=at.device)
    backend = at.named("embed_layer_norm", "triton")
    check(
        lambda: embed_layer_norm(*ids, *tables, weight, bias, EPS, backend=backend),
        reference.embed_layer_norm(*ids, *tables, weight, bias, EPS),
    )


def head(at: Device) -> None:
    size, backend = 384, at.named("score_head", "triton")
    dense, out = torch.randn(size, size, device=at.device) / size**0.5, torch.randn(1, size)
    out, hidden = out.to(at.device), at.draw(500, size)
    rows = torch.arange(0, 500, 7, dtype=torch.int32, device=at.device)
    packed = pack_head(dense, None, "tanh", None, out, None, backend=backend)
    pooled = hidden[rows.long()].double()
    inner = reference.linear(pooled, dense.double(), None, "tanh", False)
    expected = reference.linear(inner, out.double(), None, None, False)
    check(lambda: score_head(hidden, packed, rows), expected)
