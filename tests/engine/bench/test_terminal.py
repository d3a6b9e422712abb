"""What a person reads: sentences first, tables that fit, doubts last."""

import pytest
from bench_reports import EVIL, report

from packrank.bench.report import Ceiling, Report, Result, Verdict
from packrank.bench.shown.grid import Grid, bar
from packrank.bench.shown.terminal import lines
from packrank.screen import Screen, columns

WIDE = Screen(80, "utf-8")


def small() -> Report:
    facts = {
        "share_of_ceiling": 0.61,
        "bound_by": "bytes",
        "parts": {"products": 0.0005, "attention": 0.0004, "tokenizer": 0.0001},
        "memory_bytes": 3 * 2**20,
    }
    return Report(
        "2026-11-30T20:00:00Z",
        {"cores": 2, "versions": {"torch": "2.13.0"}},
        seconds=120.0,
        complete=True,
        ceilings=[
            Ceiling("memory read", "bandwidth", "B/s", [20e9, 19e9, 18e9]),
            Ceiling("memory copy", "bandwidth", "B/s", [10e9]),
        ],
        results=[
            Result(
                *("Offline", "MiniLM-L6", "bfloat16", "long", "rate", "candidates/s"),
                [800.0, 1000.0, 1000.0, 1000.0],
                facts=facts,
            )
        ],
        left_out=["base: no memory"],
    )


def test_a_small_report() -> None:
    assert list(lines(small(), WIDE)) == [
        "MiniLM-L6, bfloat16: 1,000 candidates/s, 61 % of what the machine can do;",
        "  attention takes the most beyond that.",
        "",
        "Begun 2026-11-30T20:00:00Z; it took 2 minutes.",
        "Machine: cores: 2; versions torch: 2.13.0",
        "",
        "What the machine can do, measured",
        "                  best  noise",
        "memory read  20.0 GB/s  5.3 %  " + "█" * 49,
        "memory copy  10.0 GB/s   once  " + "█" * 24 + "▌",
        "",
        "Offline: everything at once, candidates/s (dtype bfloat16, lengths long)",
        "model       rate  noise  of ceiling  bound by",
        "MiniLM-L6  1,000    5 %        61 %     bytes  " + "█" * 33,
        "",
        "Where the time of a candidate goes (dtype bfloat16, lengths long)",
        "█ products ▓ attention ▒ tokenizer",
        "model      a candidate",
        "MiniLM-L6      1.00 ms  " + "█" * 28 + "▓" * 22 + "▒" * 6,
        "",
        "What it takes (dtype bfloat16, lengths long)",
        "model        memory",
        "MiniLM-L6  3.00 MiB",
        "",
        "Valid: nothing speaks against these numbers.",
        "",
        "Left out:",
        "- base: no memory",
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
@pytest.mark.parametrize("width", [40, 80, 133])
def test_it_fits_and_can_be_shown(width: int, encoding: str) -> None:
    shown = list(lines(report(), Screen(width, encoding)))
    assert max(map(columns, shown)) <= width
    "\n".join(shown).encode(encoding)
    assert not any("\x1b" in line for line in shown)


@pytest.mark.parametrize("width", [40, 60, 80])
def test_nothing_is_lost_in_few_columns(width: int) -> None:
    text = " ".join(" ".join(lines(report(with_odd=False), Screen(width, "utf-8"))).split())
    assert "..." not in text
    for name in ("sentence-transformers, ONNX", "Qwen2.5-0.5B", "tokenizer, all cores"):
        assert name in text
    # Of each table its last column, which a line that is too long would have lost.
    for number in ("operations", "1.94 x", "2.33 ms", "0.23", "8.12", "650", "6.37"):
        assert number in text
    assert "does not count: the queue was still growing." in text


def test_a_name_is_whole_however_long() -> None:
    assert EVIL[:60] in "\n".join(lines(report(), WIDE))


def test_cells_without_room_go_below() -> None:
    grid = Grid("", ["name", "a", "b", "c"], [["name", *("0123456789ab" for _ in range(3))]])
    blank = " " * 11
    assert list(grid.lines(Screen(40, "utf-8"))) == [
        f"name  {blank}a  {blank}b",
        f"  {blank}c",
        "name  0123456789ab  0123456789ab",
        "  0123456789ab",
    ]


def test_maxsim_is_a_table_of_its_own_and_no_headline() -> None:
    """Beside its documents a second, bars of models could not be seen."""
    one, fast = small(), ("Offline", "MaxSim 32 x 180", "int8", "180 tokens", "rate")
    one.results += [Result(*fast, "candidates/s", [900_000.0, 900_000.0])]
    shown = list(lines(one, WIDE))
    assert not any("MaxSim" in line for line in shown[:3])
    assert "MiniLM-L6  1,000    5 %        61 %     bytes  " + "█" * 33 in shown
    place = shown.index("MaxSim 32 x 180, candidates/s")
    assert shown[place + 2].split()[:4] == ["int8", "900,000", "0", "%"]
    one.results = one.results[1:]
    assert next(lines(one, WIDE)).startswith("MaxSim 32 x 180, int8: 900,000 candidates/s")


def test_a_command_is_not_broken_at_a_hyphen() -> None:
    one = small()
    one.left_out = ["x" * 60 + " needs pip install late-interaction-kernels"]
    assert "  late-interaction-kernels" in lines(one, WIDE)


def test_a_file_has_80_columns_and_a_wide_terminal_more() -> None:
    narrow, wide = (list(lines(report(), Screen(size, "utf-8"))) for size in (None, 200))
    assert max(map(columns, narrow)) <= 80
    assert max(map(columns, wide)) > 100


@pytest.mark.parametrize(("count", "said"), [(99, False), (100, True)])
def test_of_few_queries_there_is_no_p99(count: int, said: bool) -> None:
    one = small()
    one.results = [Result("SingleStream", "m", "float32", "x", "latency", "s", [0.5] * count)]
    one.results[0].facts = {"p99": 0.75}
    text = "\n".join(lines(one, WIDE))
    assert ("p99" in text) is ("99 of 100 at most 750 ms" in text) is said
    assert "p95" in text


def test_where_there_are_no_blocks() -> None:
    text = "\n".join(lines(small(), Screen(80, "ascii")))
    assert "# products % attention + tokenizer" in text
    assert "#" * 28 + "%" * 22 + "+" * 6 in text


def test_an_interrupted_or_doubtful_run_says_so_last() -> None:
    one = small()
    one.complete, one.left_out = False, []
    one.verdict = Verdict(False, ["the clock fell by 30 %", "Others were at work."])
    assert list(lines(one, WIDE))[-4:] == [
        "Not valid: do not rely on these numbers.",
        "The run was interrupted: what is here is a part of what was asked for.",
        "The clock fell by 30 %.",
        "Others were at work.",
    ]
    assert "Begun 2026-11-30T20:00:00Z; it was interrupted after 2 minutes." in lines(one, WIDE)


def test_what_was_seen_is_said_after_the_verdict() -> None:
    one = small()
    one.left_out, one.seen = [], {
        "CPU clock, Hz": [3.1e9, 2.4e9, 3.0e9], "GPU 0 temperature, C": [61.0, 61.0],
        "GPU 0 at its power limit, share": [0.0, 1.0, 0.0, 0.0],
    }  # fmt: skip
    assert " ".join(line.strip() for line in list(lines(one, Screen(200, "utf-8")))[-2:]) == (
        "Valid: nothing speaks against these numbers. Seen: CPU clock 2.40 GHz to 3.10 GHz; "
        "GPU 0 temperature 61.0 C; GPU 0 at its power limit at 25 % of the looks."
    )


def test_nothing_measured() -> None:
    shown = list(lines(Report("2026-11-30T20:00:00Z", {}), WIDE))
    assert shown[0] == "Nothing was measured."


def test_bars() -> None:
    assert bar([0.5], 8, WIDE) == "████"
    assert bar([1 / 16], 8, WIDE) == "▌"
    assert bar([0.0], 8, WIDE) == bar([], 8, WIDE) == ""
    assert bar([7.0], 3, WIDE) == "███"
    assert bar([0.5, 0.25, 0.25], 8, WIDE) == "████▓▓▒▒"
    assert bar([0.5, 0.0, 0.5], 4, Screen(80, "ascii")) == "##++"


def test_names_that_are_too_long_stand_above() -> None:
    rows = [["a" * 30, "b", "1.5"], ["short", "c", "2.5"]]
    grid = Grid("", ["name", "of", "rate"], rows, names=2)
    assert list(grid.lines(Screen(40, "utf-8"))) == [
        "name                            of  rate",
        "a" * 30 + "  b    1.5",
        "short" + " " * 27 + "c    2.5",
    ]
    rows[0][0] = "a" * 45
    assert list(grid.lines(Screen(40, "utf-8"))) == [
        "name                            of  rate",
        "a" * 40,
        "  " + "a" * 5 + ", b",
        " " * 37 + "1.5",
        "short" + " " * 27 + "c    2.5",
    ]


def test_products_of_a_models_shapes_are_a_table_of_their_own() -> None:
    made = []
    for by, rate in (("torch", 4e9), ("packrank", 5e9)):
        facts = {"dtype": "float32", "m": 2048, "k": 384, "n": 1536, "of": "MiniLM-L6", "by": by}
        made.append(Ceiling(f"product, float32, 384 -> 1536 of MiniLM-L6, {by}", "products",
                            "op/s", [rate], facts))  # fmt: skip
    shown = "\n".join(lines(Report("now", {}, ceilings=made), Screen(80, "utf-8")))
    table = shown[shown.index("Products of the models' own shapes") :].splitlines()
    assert table[1].split() == ["model", "dtype", "shape", "torch", "packrank"]
    assert table[2].split() == [
        "MiniLM-L6",
        "float32",
        "2048",
        "x",
        "384",
        "x",
        "1536",
        "4.00",
        "Gop/s",
        "5.00",
        "Gop/s",
    ]
    assert "What the machine can do, measured" not in shown
