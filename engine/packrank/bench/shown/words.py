"""Numbers with their units, as people read them."""

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BYTES = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))


def amount(value: float | None, unit: str = "") -> str:
    """A value in three digits or so: "812 candidates/s", "23.4 GB/s", "1.25 ms"; "" of None."""
    if value is None:
        return ""
    if unit == "s":
        return time(value)
    if unit in ("B/s", "op/s", "Hz"):
        for size, prefix in _PREFIXES:
            if abs(value) >= size:
                return f"{digits(value / size)} {prefix}{unit}"
    return f"{digits(value)} {unit}".rstrip()


def digits(value: float) -> str:
    """Three digits of a number, and all of one that has more before its point."""
    size = abs(value)
    if size >= 99.95 or size == 0:
        return f"{value:,.0f}"
    if size >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.0995 else f"{value:.2g}"


def time(seconds: float) -> str:
    """Seconds in the unit that fits."""
    for size, unit in _TIMES:
        if abs(seconds) >= size:
            return f"{digits(seconds / size)} {unit}"
    return f"{digits(seconds / 1e-9)} ns" if seconds else "0 s"


def tick(value: float, unit: str) -> str:
    """A round value on an axis: "200 ms", "100 G", "5,000"."""
    sizes = _TIMES if unit == "s" else _PREFIXES if unit in ("B/s", "op/s") else ()
    for size, name in sizes:
        if value >= size * (1 - 1e-9):
            return f"{value / size:.4g} {name}"
    return f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}"


def memory(value: float | None) -> str:
    """Bytes in the unit that fits; "" of None."""
    if value is None:
        return ""
    for size, unit in _BYTES:
        if abs(value) >= size:
            return f"{digits(value / size)} {unit}"
    return f"{value:,.0f} B"


def percent(share: float | None) -> str:
    """A share, with a digit after the point where it is small; "" of None."""
    if share is None:
        return ""
    return f"{100 * share:.0f} %" if abs(share) >= 0.0995 else f"{100 * share:.2g} %"


def money(value: float | None) -> str:
    """A cost in whatever the price was in; "" of None."""
    if value is None:
        return ""
    return f"{value:,.2f}" if abs(value) >= 0.0995 else f"{value:.2g}"
