"""Tensors that transformers saves under its authors' names, some of them several in one.

An adapter names the modules of the model as it runs, and its base is saved as the authors had it.
Source: conversion_mapping.py of transformers 5.
"""

from dataclasses import dataclass

# Of gte-multilingual: what transformers calls a module -> what its file does.
_RENAMED = (
    (".layers.", ".encoder.layer."),
    (".self_attn.o_proj.", ".attention.o_proj."),
    (".post_attention_layernorm.", ".attn_ln."),
    (".post_mlp_layernorm.", ".mlp_ln."),
)
# The same of one whose rows are part of another's: that, which part, and of how many.
_JOINED = {
    ".self_attn.q_proj.": (".attention.qkv_proj.", 0, 3),
    ".self_attn.k_proj.": (".attention.qkv_proj.", 1, 3),
    ".self_attn.v_proj.": (".attention.qkv_proj.", 2, 3),
    ".mlp.up_proj.": (".mlp.up_gate_proj.", 0, 2),
    ".mlp.gate_proj.": (".mlp.up_gate_proj.", 1, 2),
}


@dataclass(frozen=True)
class Place:
    """Where a tensor of a model lies in its file.

    Attributes:
        name: of the tensor there.
        part: which of its parts it is, all of as many rows.
        count: how many parts there are; 1: it is the whole.
    """

    name: str
    part: int = 0
    count: int = 1


def saved_as(name: str) -> Place:
    """Where transformers saves a tensor that it calls so; under its own name, unless it is known.

    Args:
        name: of a weight or a bias, as the module has it.
    """
    found = f".{name}"
    for own, saved in _RENAMED:
        found = found.replace(own, saved)
    for own, (saved, part, count) in _JOINED.items():
        if own in found:
            return Place(found.replace(own, saved)[1:], part, count)
    return Place(found[1:])
