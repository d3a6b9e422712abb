"""Have calls launch their kernels on a device that is not there, and say what it was told.

    python tests/pretend/launches.py --keep FOLDER [--sample] [--share I/N] [module]

The module's `cases()` are called, else those of pretend.cases: each with its first number of rows,
then with the others. Prints a JSON object a line and case: names (of kernels launched, with how
often), launches, maps, later (names of kernels that only other numbers brought), error.
"""

import argparse
import importlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretend.device import Device


def report(device: Device, case: Any) -> dict[str, Any]:
    found = {"launcher": case.launcher, "form": case.form, "later": [], "error": None}
    device.take_records()
    try:
        first, *others = case.counts
        case.call(first)
        told = device.take_records()
        for count in others:
            case.call(count)
    except Exception as error:
        return found | {"error": f"{type(error).__name__}: {error}"}
    later = device.take_records()
    told += later
    launched = Counter(one["kernel"] for one in told if one["what"] == "launch")
    return found | {
        "names": launched,
        "launches": launched.total(),
        "maps": sum(one["what"] == "map" for one in told),
        "later": [one["kernel"] for one in later if one["what"] == "load"],
    }


def first_of_each(cases: Iterator[Any]) -> Iterator[Any]:
    seen = set[str]()
    for case in cases:
        if case.launcher not in seen:
            seen.add(case.launcher)
            yield case


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("module", nargs="?", default="pretend.cases")
    parser.add_argument("--keep", type=Path, required=True, help="where what is compiled is kept")
    parser.add_argument("--share", default="0/1", metavar="I/N", help="every Nth, from the Ith on")
    parser.add_argument("--sample", action="store_true", help="one of each launcher")
    options = parser.parse_args()
    os.environ["TRITON_CACHE_DIR"] = str(options.keep / "triton")
    os.environ["TRITON_STORE_BINARY_ONLY"] = "1"
    device = Device(options.keep)
    cases = importlib.import_module(options.module).cases()
    if options.sample:
        cases = first_of_each(cases)
    first, step = map(int, options.share.split("/"))
    for case in itertools.islice(cases, first, None, step):
        print(json.dumps(report(device, case)), flush=True)


if __name__ == "__main__":
    main()
