"""The table of models that run names all that is registered, and README has it."""

import pytest
from source_tree import ROOT

from packrank.checkpoint.architectures import DECODERS, ENCODER_DECODERS, ENCODERS
from packrank.commands import supported
from packrank.commands.cli import main
from packrank.ordering.opening import NAMED
from packrank.text.templates import TEMPLATES


def test_everything_registered_has_a_name() -> None:
    assert supported.ENCODER_NAMES.keys() == ENCODERS.keys()
    assert supported.DECODER_NAMES.keys() == DECODERS.keys()
    assert supported.ENCODER_DECODER_NAMES.keys() == ENCODER_DECODERS.keys()
    assert supported.TEMPLATE_MODELS.keys() == TEMPLATES.keys()
    assert supported.METHOD_MODELS.keys() == NAMED.keys()


def test_the_table_names_them() -> None:
    table = supported.markdown()
    named = supported.ENCODER_NAMES | supported.DECODER_NAMES | supported.ENCODER_DECODER_NAMES
    for name in [*named.values(), *supported.TEMPLATE_MODELS.values()]:
        assert name in table
    for name in supported.METHOD_MODELS.values():
        assert name in table


def test_readme_has_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    """As `packrank info --models` prints it."""
    assert main(["info", "--models"]) == 0
    assert capsys.readouterr().out in (ROOT / "README.md").read_text(encoding="utf-8")
