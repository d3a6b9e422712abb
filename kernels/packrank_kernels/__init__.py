"""Kernels for packed sequences: functions on tensors, with no model, request or file in sight."""

from packrank_kernels.attention import attention
from packrank_kernels.dispatch import OpCall, observed
from packrank_kernels.embedding import embed_layer_norm
from packrank_kernels.head import pack_head, score_head
from packrank_kernels.info import backends
from packrank_kernels.layer_norm import add_layer_norm
from packrank_kernels.linear import linear, pack_linear
from packrank_kernels.maxsim import Matches, matches, maxsim
from packrank_kernels.packed import (
    BITS,
    FORMATS,
    PackedHead,
    PackedLinear,
    Pages,
    RelativePositions,
)
from packrank_kernels.paged_attention import paged_attention
from packrank_kernels.residual import Codec
from packrank_kernels.rms_norm import add_rms_norm
from packrank_kernels.rows import take_sequences
from packrank_kernels.stream import stream
from packrank_kernels.threads import get_num_threads, set_num_threads
from packrank_kernels.token_embeddings import TokenEmbeddings
from packrank_kernels.top_k import TopK, merge

__all__ = [
    "BITS",
    "FORMATS",
    "Codec",
    "Matches",
    "OpCall",
    "PackedHead",
    "PackedLinear",
    "Pages",
    "RelativePositions",
    "TokenEmbeddings",
    "TopK",
    "add_layer_norm",
    "add_rms_norm",
    "attention",
    "backends",
    "embed_layer_norm",
    "get_num_threads",
    "linear",
    "matches",
    "maxsim",
    "merge",
    "observed",
    "pack_head",
    "pack_linear",
    "paged_attention",
    "score_head",
    "set_num_threads",
    "stream",
    "take_sequences",
]
