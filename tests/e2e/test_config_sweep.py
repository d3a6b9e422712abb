"""No key of config.json changes a score of transformers' that it does not change here, or refuses.

And what transformers ignores changes nothing here; nothing but a ModelError is ever raised.
"""

import json
import random
import warnings
from collections.abc import Iterator
from pathlib import Path

import config_sweep
import pytest
import transformers
from config_sweep import BASES, Change, build, changes, fault_of, ours, theirs, twin

SAMPLE = 4  # changes a family in the short form


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """transformers has a word on most of what is tried."""
    before = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity(60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    transformers.utils.logging.set_verbosity(before)


@pytest.mark.parametrize("name", BASES)
def test_every_key_in_every_way(name: str, thorough: bool, tmp_path: Path) -> None:
    base = tmp_path / "base"
    model_type = build(base, name)
    before = theirs(base)
    assert abs(before - ours(base)).max() < 1e-5 * abs(before).max()
    every = list(changes(model_type, json.loads((base / "config.json").read_text())))
    if not thorough:
        every = random.Random(name).sample([change for change in every if change.ask], SAMPLE)
    folder = twin(base, tmp_path / "changed")
    faults = {str(change): fault_of(base, folder, change, before) for change in every}
    assert {change: fault for change, fault in faults.items() if fault is not None} == {}


def test_a_fault_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Or the sweep would show nothing."""
    base = tmp_path / "base"
    build(base, "bert")
    before, folder = theirs(base), twin(base, tmp_path / "changed")
    heard = Change({"hidden_act": "relu"})
    assert fault_of(base, folder, heard, before) is None
    more = Change({"num_hidden_layers": 3})
    assert fault_of(base, folder, more, before) is None
    monkeypatch.setattr(config_sweep, "ours", lambda folder: before)
    assert str(fault_of(base, folder, heard, before)).startswith("off by ")
    monkeypatch.setattr(config_sweep, "ours", lambda folder: before + 1)
    assert "(transformers: no " in str(fault_of(base, folder, more, before))
    monkeypatch.setattr(config_sweep, "ours", lambda folder: 1 // 0)
    assert str(fault_of(base, folder, heard, before)).startswith("ZeroDivisionError")
