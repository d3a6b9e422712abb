"""Linear layers in AMX's tiles: the definition at every height and width, and company."""

import pytest
import torch

from packrank_kernels import get_num_threads, linear, pack_linear, reference, set_num_threads
from packrank_kernels.dispatch import TABLE
from packrank_kernels.packed import ACTIVATIONS
from packrank_kernels.testing import assert_close

CPU, BFLOAT16 = torch.device("cpu"), torch.bfloat16
AMX = TABLE["linear"][0]
REASON = AMX.why_not(CPU, BFLOAT16)
needs_amx = pytest.mark.skipif(REASON is not None, reason=str(REASON))

HEIGHTS = [1, 15, 16, 17, 31, 32, 33, 48, 95, 96, 97, 130]
WIDTHS = [1, 16, 17, 32, 47, 48, 49, 64, 96, 100, 384]


def made(rows: int, inputs: int, outputs: int, *, gated: bool = False):
    weight = (torch.randn(outputs * (1 + gated), inputs) / inputs**0.5).bfloat16()
    return torch.randn(rows, inputs).bfloat16(), weight, torch.randn(len(weight))


def check(rows: int, inputs: int, outputs: int, activation: str | None, *, gated: bool) -> None:
    x, weight, bias = made(rows, inputs, outputs, gated=gated)
    layer = pack_linear(weight, bias, activation=activation, gated=gated, backend="amx")
    expected = reference.linear(x.double(), weight.double(), bias, activation, gated)
    assert_close(linear(x, layer), expected)


@needs_amx
@pytest.mark.parametrize("rows", HEIGHTS)
@pytest.mark.parametrize("outputs", WIDTHS)
def test_every_block_equals_the_definition(rows: int, outputs: int) -> None:
    check(rows, 64, outputs, None, gated=False)


@needs_amx
@pytest.mark.parametrize("inputs", [32, 96, 384, 1536, 4096])
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_every_depth_equals_the_definition(inputs: int, gated: bool) -> None:
    check(37, inputs, 70, None, gated=gated)


@needs_amx
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_activations_are_applied_to_the_sums(activation: str, gated: bool) -> None:
    check(33, 64, 50, activation, gated=gated)


@needs_amx
def test_a_row_has_the_same_bits_in_any_company_and_at_any_number_of_threads() -> None:
    x, weight, bias = made(203, 384, 1152)
    layer = pack_linear(weight, bias, activation="gelu", backend="amx")
    whole, threads = linear(x, layer), get_num_threads()
    try:
        for count in (1, 2, 3):
            set_num_threads(count)
            assert torch.equal(linear(x, layer), whole)
            for start, stop in ((0, 1), (5, 21), (7, 40), (100, 203), (31, 64)):
                assert torch.equal(linear(x[start:stop], layer), whole[start:stop])
    finally:
        set_num_threads(threads)


@needs_amx
def test_rows_may_lie_apart_and_what_is_not_finite_stays_in_its_row() -> None:
    wide, weight, bias = made(40, 128, 48)
    x, weight = wide[:, 32:96], weight[:, :64].contiguous()
    layer = pack_linear(weight, bias, backend="amx")
    expected = linear(x.contiguous(), layer)
    assert torch.equal(linear(x, layer), expected)
    spoiled = x.contiguous()
    spoiled[3, 5], spoiled[20, 9] = torch.nan, torch.inf
    found = linear(spoiled, layer)
    assert found[3].isnan().all()
    assert not found[20].isfinite().any()
    clean = [row for row in range(40) if row not in (3, 20)]
    assert torch.equal(found[clean], expected[clean])


@needs_amx
def test_it_is_taken_where_rows_fill_tiles_and_nowhere_else() -> None:
    def chosen(inputs: int, dtype: torch.dtype) -> str:
        return pack_linear(torch.randn(8, inputs).to(dtype)).backend

    assert chosen(64, BFLOAT16) == "amx"
    assert chosen(33, BFLOAT16) == chosen(64, torch.float32) == "avx512"
    with pytest.raises(ValueError, match="rows have 33 values, which do not fill tiles of 32"):
        pack_linear(torch.randn(8, 33).bfloat16(), backend="amx")
    assert linear(torch.randn(0, 64).bfloat16(), pack_linear(torch.randn(8, 64).bfloat16())).shape


@needs_amx
def test_others_may_use_the_tiles_in_turns() -> None:
    """torch's products do so, by tiles of other sizes that it sets on the same threads."""
    x, weight, bias = made(96, 256, 96)
    layer = pack_linear(weight, bias, backend="amx")
    ours, theirs = linear(x, layer), x[:40] @ weight[:33].T
    for _ in range(5):
        assert torch.equal(x[:40] @ weight[:33].T, theirs)
        assert torch.equal(linear(x, layer), ours)
