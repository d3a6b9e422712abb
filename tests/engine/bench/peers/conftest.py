"""Packages are whole before a test hides them: what they find at import they keep."""

import importlib
import importlib.util

import pytest


@pytest.fixture(scope="session", autouse=True)
def _imported() -> None:
    for name in ("sentence_transformers", "openvino"):
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)
    if importlib.util.find_spec("transformers") is not None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: F401
