"""The sheet of docs/gpu.md: numbers worked out by hand, and by the engine's own calls."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import instructions
import pytest
import torch
from compiled import digest, kept
from visits import ROOT, load, visit

from packrank.bench.speed.profile import added, counted
from packrank.models import CausalSettings, load_model

arithmetic: Any = load("arithmetic")
resources: Any = sys.modules["resources"]  # what arithmetic goes by
sheet: Any = load("sheet")
predictions: Any = visit("predictions")
goals: Any = visit("goals")

US = 1e-6


@pytest.fixture
def no_calls_kept() -> Any:
    kept_calls = arithmetic.encoder, arithmetic.decoder, arithmetic.step, arithmetic.maxsim
    for function in kept_calls:
        function.cache_clear()
    yield
    for function in kept_calls:
        function.cache_clear()


def kernel(forward: Any, name: str) -> Any:
    [found] = [one for _, one in forward.kernels if one.name == name]
    return found


def test_the_page_has_what_the_sheet_prints() -> None:
    page = (ROOT / "docs/gpu.md").read_text()
    _, _, rest = page.partition("\n## Ceilings, by arithmetic\n\n")
    assert rest.partition("\n\n## ")[0] == sheet.section()


def test_a_layer_of_a_base_model() -> None:
    forward = arithmetic.encoder("XLM-R base", 128, 128)
    layer = sum(one.operations for count, one in forward.kernels if count == 11)
    assert layer == 24 * 768**2 * 16384 + 4 * 128 * 768 * 16384  # 231.9e9 + 6.4e9
    up, norm = kernel(forward, "GELU product"), kernel(forward, "add + norm")
    assert up.operations == 77_309_411_328
    assert up.seconds == pytest.approx(97.86 * US, rel=1e-3)  # by 790e12
    assert up.moved == 25_165_824 + 100_663_296 + 4_718_592  # x, out, weight
    assert up.times["issue"] == pytest.approx(27.16 * US, rel=1e-3)  # 50.3e6 values x 16 / 32
    assert norm.moved == 100_663_296
    assert norm.seconds == pytest.approx(20.97 * US, rel=1e-3)
    assert norm.binds == "memory"
    assert kernel(forward, "embedding + norm").moved == 16384 * (3 * 4 + 768 * 2 * 2)
    assert kernel(forward, "head").moved == 768 * 768 * 4 + 128 * 768 * 2
    # Embedding, 7 a layer, head; last: keys and values, attention, and 8 more.
    assert forward.launches == 1 + 11 * 7 + 10 + 1
    assert forward.eager == pytest.approx(12 * 298 * US)


def test_attention_that_instructions_bind(monkeypatch: pytest.MonkeyPatch) -> None:
    of = {"step": (600, 500), "tile": (100, 50), "chunk": (10, 5), "unit": (40, 20)}
    monkeypatch.setitem(resources.INSTRUCTIONS, "attention 64", of)
    one = resources.attention("", 128, 128, 12, 64)
    # A head of a sequence: 8 tiles of 2 steps; 8 chunks of 128 keys on 32 lanes; 4 warps a unit.
    assert one.issue == 128 * 12 * (8 * (2 * 600 + 100) + 32 * 10 + 4 * 40)
    assert one.alu == 128 * 12 * (8 * (2 * 500 + 50) + 32 * 5 + 4 * 20)
    assert one.binds == "ALU"  # 2 of these a clock, of all others 4
    assert one.seconds == pytest.approx(one.alu / (132 * 1.755e9 * 2))
    assert resources.attention("", 1, 257, 12, 64).issue == 0  # by Triton


def test_what_exponentials_bind() -> None:
    one = resources.Kernel("", exponentials=132 * 16 * 1.755e9, operations=1.0, moved=1.0)
    assert one.binds == "exponentials"
    assert one.seconds == pytest.approx(1.0)


def test_a_window_of_one_to_either_side() -> None:
    assert resources.visible(4, 1) == 2 + 3 + 3 + 2
    assert resources.visible(4) == 16


def test_one_query_is_bound_by_bytes() -> None:
    forward = arithmetic.maxsim(1, 32, 100_000, 180, "float16")
    maxima = forward.kernels[0][1]
    assert maxima.moved == 100_000 * 180 * 128 * 2 + 100_000 * 32 * 4  # 4.608 GB, maxima
    assert maxima.binds == "memory"
    assert maxima.seconds == pytest.approx(960 * US, rel=4e-3)  # by 4.8 TB/s
    residual = arithmetic.maxsim(1, 32, 100_000, 180, "4bit").kernels[0][1]
    assert residual.moved == 18_000_000 * (64 + 8) + 12_800_000
    assert residual.cached == 18_000_000 * 128
    assert residual.times["cache"] == pytest.approx(657 * US, rel=1e-3)  # 3.61 GB by 5.5 TB/s


def test_many_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    float16 = arithmetic.maxsim(128, 32, 10_000, 180, "float16").kernels[0][1]
    assert float16.operations == 1_887_436_800_000
    assert float16.times["products"] == pytest.approx(2389 * US, rel=1e-3)
    # What `plan_maxsim` gives for 4096 columns.
    passes = {"float16": 11, "bfloat16": 11, "int8": 5, "4bit": 6, "2bit": 6}
    assert {name: arithmetic.passes(name, 4096) for name in passes} == passes
    assert float16.moved == 11 * 460_800_000 + 10_000 * 4096 * 4


def test_instructions_of_maxsim(monkeypatch: pytest.MonkeyPatch, no_calls_kept: None) -> None:
    of = {"tile": (20, 10), "rows": (10, 4), "panel": (200, 114)}
    monkeypatch.setitem(resources.INSTRUCTIONS, "maxsim int8", of)
    many = arithmetic.maxsim(128, 32, 10_000, 180, "int8").kernels[0][1]
    # 112500 tiles of 16 document tokens: five passes, and 32 panels of 128 query tokens.
    assert many.issue == 112_500 * (5 * 10 + 32 * 200)
    assert many.alu == 112_500 * (5 * 4 + 32 * 114)
    one = arithmetic.maxsim(1, 32, 10_000, 180, "int8").kernels[0][1]
    assert (one.issue, one.alu) == (112_500 * 20, 112_500 * 10)


def test_candidates_share_their_prefix() -> None:
    forward = arithmetic.decoder("Qwen2.5-0.5B", (50, 150), 60)
    up, attention = kernel(forward, "gated SiLU product"), kernel(forward, "attention, causal")
    assert up.operations == 2 * 260 * 896 * 9728
    pairs = (50 * 51 + 150 * 151 + 60 * 61) // 2 + 60 * 200
    assert attention.operations == 4 * pairs * 896
    assert forward.host == pytest.approx(24 * (2 * 26 + 4 * 44 + 70) * US)
    assert forward.seconds == forward.host > forward.device


def test_attention_by_distance() -> None:
    """Two sequences of 128, three heads of 64: 24 tiles of 64 by 64."""
    tables, biases = (resources.by_distance("", 2, 128, 3, 64, n) for n in (2, 0))
    pairs = 2 * 3 * 128 * 128
    assert tables.operations == 8 * pairs * 64
    assert biases.operations == 4 * pairs * 64
    # Of a table a tile's 64 x 127 terms are made, as 64 x 128, and a half is taken.
    assert tables.times["products"] == pytest.approx((4 + 2 * 4) * pairs * 64 / 790e12)
    # A float is written for each term and read for each pair; of queries both turn once more.
    assert tables.near == 24 * 4 * (2 * (64 * 128 + 64 * 64) + 2 * 64 * 64)
    assert tables.times["gathers"] == pytest.approx(tables.near / (132 * 128 * 1.755e9))
    assert biases.near == 8 * pairs
    assert tables.moved == biases.moved == 4 * 2 * 256 * 3 * 64
    assert resources.by_distance("", 1, 65, 1, 64, 2).near == tables.near / 6  # four tiles


def test_a_step_over_pages() -> None:
    for count, binds in ((16, "one multiprocessor"), (64, "memory")):
        written, attended = resources.in_pages(count, 1500, 14, 2, 64)
        assert attended.moved == count * (1500 * 2 * 2 * 64 * 2 + 2 * 14 * 64 * 2)
        assert attended.operations == 4 * count * 1500 * 14 * 64
        assert attended.binds == binds
        assert written.moved == 2 * count * 2 * 2 * 64 * 2
    # 512 programs on 132 multiprocessors: one of these reads for four heads of keys.
    attended = resources.in_pages(64, 1500, 32, 8, 128)[1]
    assert attended.alone == 4 * 1500 * 2 * 128 * 2
    assert attended.times["one multiprocessor"] == pytest.approx(27.3 * US, rel=1e-2)


def test_a_step_reads_every_weight_once() -> None:
    forward = arithmetic.step("Qwen2.5-0.5B", 16, 1500)
    weights = 24 * (896 * 1152 + 896 * 896 + 3 * 896 * 4864) + 151936 * 896
    cache = 24 * 16 * 1500 * 2 * 2 * 64
    moved = sum(count * one.moved for count, one in forward.kernels)
    assert moved == pytest.approx(2 * (weights + cache), rel=0.03)
    assert forward.seconds == pytest.approx(24 * (3 * 26 + 4 * 44 + 70) * US)
    assert forward.seconds > 10 * forward.device  # launched op by op, the host binds


def test_texts_in() -> None:
    budgets = {"MiniLM-L6": 16384, "XLM-R base": 10240, "XLM-R large": 7168,
               "ModernBERT-base": 13312}  # fmt: skip
    assert {shape: arithmetic.budget(shape) for shape in budgets} == budgets
    short, long = (arithmetic.texts("MiniLM-L6", cap) for cap in (128, 512))
    assert (short.tokens, long.tokens) == (128, 300)
    assert short.binds == long.binds == "tokenization"
    assert 1 / short.seconds == pytest.approx(64_000)  # 16 cores by 250 us
    assert arithmetic.texts("XLM-R large", 512).binds == "the device"


@pytest.mark.parametrize("name", ["Bert", "ModernBert", "DebertaV2"])
def test_an_encoder_does_as_much_as_the_sheet_says(
    name: str,
    checkpoint: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    no_calls_kept: None,
) -> None:
    """Counted call by call."""
    small = {"hidden_size": 96, "num_hidden_layers": 5, "num_attention_heads": 3,
             "intermediate_size": 128, "max_position_embeddings": 128}  # fmt: skip
    monkeypatch.setitem(arithmetic.ENCODERS, "small", (name, small))
    more: dict[str, Any] = {
        "ModernBert": {"local_attention": 128, "layer_types": None},
        "DebertaV2": {"position_buckets": 8, "type_vocab_size": 0},
    }.get(name, {})
    made = checkpoint(name, num_labels=1, **small, **more)
    model = load_model(made, device=torch.device("cpu"), dtype=torch.bfloat16)
    [pack] = load("forward").packs(model, 3 * 128, 1)
    inputs = model.inputs(pack)
    ops = count(lambda: model.score(inputs))
    check(ops, arithmetic.encoder("small", 3, 128), 0)


def test_a_decoder_does_as_much_as_the_sheet_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_calls_kept: None
) -> None:
    small = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
             "num_key_value_heads": 2, "intermediate_size": 192, "vocab_size": 99}  # fmt: skip
    monkeypatch.setitem(arithmetic.DECODERS, "small", ("Qwen2", small))
    decoders = load("decoders")
    decoders.make("small", tmp_path, torch.device("cpu"))
    model = load_model(tmp_path, device=torch.device("cpu"), dtype=torch.bfloat16,
                       causal=CausalSettings(head="classifier"))  # fmt: skip
    pack = decoders.candidates([50, 100, 150], 60, 99)
    forward = arithmetic.decoder("small", (50, 100, 150), 60)
    # Rows of the table are no op of ours; a CPU reads x twice for queries, and for keys and values.
    besides = 360 * (4 + 2 * 2 * 128) - 2 * 360 * 128 * 2
    check(count(lambda: model.logits(pack)), forward, besides)


def test_a_step_does_as_much_as_the_sheet_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_calls_kept: None
) -> None:
    small = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
             "num_key_value_heads": 2, "intermediate_size": 192, "vocab_size": 99}  # fmt: skip
    monkeypatch.setitem(arithmetic.DECODERS, "small", ("Qwen2", small))
    # By this name tests have a module of their own.
    monkeypatch.setitem(sys.modules, "decoders", load("decoders"))
    load("decoders").make("small", tmp_path, torch.device("cpu"), tie_word_embeddings=True)
    model = load_model(tmp_path, device=torch.device("cpu"), dtype=torch.bfloat16,
                       causal=CausalSettings(head="vocabulary"))  # fmt: skip
    kept = load("generation").Kept.draw(model, 20, 100)
    ops = count(lambda: model.next_logits(kept.step, kept.cache))
    # A CPU reads x twice; rows of the table are no op of ours, the last norm is of float32.
    besides = 20 * (4 + 4 * 128) - 3 * 2 * 20 * 128 - 4 * 2 * 20 * 128
    check(ops, arithmetic.step("small", 20, 100), besides)


def count(call: Callable[[], object]) -> dict[str, Any]:
    with torch.inference_mode():
        return {op.name: op for op in added(counted(call))}


def check(ops: dict[str, Any], forward: Any, besides: float) -> None:
    operations = sum(work.operations for work in ops.values())
    assert forward.operations == pytest.approx(operations, rel=3e-3)
    moved = sum(count * one.moved for count, one in forward.kernels) - besides
    # But for ids, biases and norms of single rows.
    assert moved == pytest.approx(sum(work.moved for work in ops.values()), rel=0.02)


def test_goals_of_maxsim_are_those_of_its_benchmark() -> None:
    asked = {}
    for shape in load("maxsim").shapes(SimpleNamespace(dry=False, chosen=[])):
        key = shape.queries, shape.query_tokens, len(shape.lengths), int(shape.lengths[0])
        if len({*shape.lengths.tolist()}) == 1:
            asked |= {(key, format): round(goal / US) for format, goal in shape.goals.items()
                      if format != "bfloat16"}  # fmt: skip
    assert {(key, format): goal for key, format, goal in sheet.MAXSIM_GOALS} == asked


def test_instructions_are_those_of_the_machine_code(compiled_folder: Path) -> None:
    """Within a tenth: compilers differ. Else `python tests/instructions.py` says what to put."""
    triton = pytest.importorskip("triton")
    module = pytest.importorskip("packrank_kernels._cuda")
    program = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not program.exists():
        pytest.skip("this Triton wheel has no cuobjdump")

    def count_to(path: Path) -> None:
        found = instructions.count(instructions.disassemble(program, Path(module.__file__)))
        path.write_text(json.dumps(found))

    sources = Path(instructions.__file__), ROOT / "tests/sass.py", Path(module.__file__)
    counted = kept(compiled_folder / f"instructions-{digest(*sources)}.json", count_to)
    found = json.loads(counted.read_text())
    assert found.keys() == resources.INSTRUCTIONS.keys()
    for name, parts in resources.INSTRUCTIONS.items():
        for part, numbers in parts.items():
            assert numbers == pytest.approx(found[name][part], rel=0.1, abs=2), (name, part)


def test_the_summary_has_predictions_beside_what_was_measured(a_visit: Any) -> None:
    rows = [
        ("maxsim", "1 x 32 tokens, 100000 documents of 180, float16", "packrank", 1.2e-3),
        ("maxsim", "1 x 32 tokens, 100000 documents of 180, float16", "packrank, triton", 9.0),
        ("maxsim", "1 x 32 tokens, 100000 documents of 8..512, log-normal, int8", "packrank", 9.0),
        ("cross-encoder", "MiniLM-L6, pairs of up to 128 tokens, 127 on average", "packrank", 2e-5),
        ("forward", "XLM-R base, 128 x 128 tokens, float16", "packrank", 8.3e-3),
        ("decoder", "Qwen2.5-0.5B, 100 candidates under 60 tokens, float16", "packrank", 1e-4),
        ("decoder", "Qwen2.5-0.5B, 32 x 512 tokens, float16", "packrank", 32e-3),
        ("relative attention", "flan-t5-base, 128 x 128 tokens, bfloat16", "packrank", 42e-6),
        ("paged attention", "Mistral-7B, 64 sequences of 1500 tokens, float16", "packrank", 168e-6),
        ("generation", "Qwen2.5-0.5B, 16 sequences of 1500 tokens, float16", "packrank", 1e-3),
        ("forward", "DeBERTa-v3-base, 128 x 128 tokens, bfloat16", "packrank", 8.3e-3),
        ("norms", "16384 x 384, float16", "packrank", 1e-5),
    ]
    for bench, case, contestant, seconds in rows:
        record = {"bench": bench, "case": case, "contestant": contestant, "median_s": seconds}
        with a_visit.results.rows.open("a") as file:
            file.write(json.dumps(record) + "\n")
    _, _, rest = a_visit.summary(a_visit.report("speed", {})).partition(" arithmetic for an H200\n")
    lines = [line.split(" | ") for line in rest.strip().split("\n\n")[0].splitlines()[2:]]
    found = {line[0][2:]: float(line[3].rstrip(" |")) for line in lines}
    expected = {
        f"maxsim, {rows[0][1]}": 1.24,
        f"cross-encoder, {rows[3][1]}": 1.28,
        f"forward, {rows[4][1]}": 2.0,
        f"decoder, {rows[5][1]}": 1.02,
        f"decoder, {rows[6][1]}": 2.0,
        f"relative attention, {rows[7][1]}": 2.0,
        f"paged attention, {rows[8][1]}": 2.0,
        f"generation, {rows[9][1]}": 2.06,  # a token, of a step of 7.8 ms
        f"forward, {rows[10][1]}": 2.0,
    }
    assert found == pytest.approx(expected, rel=0.1)  # kernels may come to need less
    assert predictions.table([goals.Measured([], {})]) == []
