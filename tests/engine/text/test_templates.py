from string import Formatter

import pytest

from packrank.text.templates import TEMPLATES, Template


def fields(pattern: str) -> list[str]:
    return [name for _, name, *_ in Formatter().parse(pattern) if name is not None]


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_every_template_is_whole(template: Template) -> None:
    """What `PromptLayout` takes for granted."""
    assert template.source
    assert fields(template.document) == ["document"]
    assert "query" in fields(template.query)
    named = "instruction" in fields(template.query)
    assert named == (template.instruction is not None)
    if template.instructed is not None:
        assert sorted(fields(template.instructed)) == ["instruction", "query"]
    assert template.takes_instruction == (named or template.instructed is not None)
    assert all(template.tail)
    assert template.true_token is not None or template.false_token is None
    # In one string nothing stands between, and the rule of cutting it is that of the whole.
    assert not template.one_string or not template.separator
    assert template.one_string == (template.budget == "whole")
    for token in template.special_tokens:
        assert token in template.head + "".join(template.tail)


def test_only_layerwise_templates_have_no_scoring_token() -> None:
    without = {name for name, template in TEMPLATES.items() if template.true_token is None}
    assert without == {"bge-minicpm-layerwise", "bge-gemma2-lightweight", "nemotron"}
