"""A chat template has as much work as a prompt can need, and no more."""

import time

import pytest

from packrank.text import chat_sandbox
from packrank.text.chat_sandbox import Compiled

LONG = "{% set x = 'x' * 1000000 %}"
GROWING = (
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = BODY %}{% endfor %}"
)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) if i < 0 %}{% endfor %}" * 2,
        "{% macro f(n) %}{% if n %}{{ f(n - 1) ~ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{w}}'.format(1, w=1000000000) }}",
        "{{ 'x' * 10000000000 }}",
        "{{ [0] * 10000000000 }}",
        "{{ 10 ** (10 ** 9) }}",
        "{{ 'x' | center(1000000000) }}",
        "{{ 'x'.zfill(1000000000) }}",
        "{{ '\t'.expandtabs(1000000000) }}",
        "{{ 'a\nb' | indent(1000000000) }}",
        "{{ [[1]] | tojson(indent=1000000000) }}",
        "{{ [1] | slice(1000000000) | list }}",
        "{{ [1] | batch(1000000000, 1) | list }}",
        "{{ (1).to_bytes(1000000000, 'big') }}",
        LONG + "{{ x.replace('x', x) }}",
        LONG + "{{ x.join(x) }}",
        LONG + "{% for i in range(99999) %}{{ x }}{% endfor %}",
        LONG + "{% set y %}{% for i in range(99999) %}{{ x }}{% endfor %}{% endset %}",
        "{% set y %}{% for i in range(9999) %}" + "z" * 50000 + "{% endfor %}{% endset %}",
        GROWING.replace("BODY", "ns.x ~ ns.x"),
        GROWING.replace("BODY", "ns.x + ns.x"),
        GROWING.replace("BODY", "'%s%s' % (ns.x, ns.x)"),
        GROWING.replace("BODY", "[ns.x, ns.x] | join"),
    ],
)
def test_what_a_template_may_not_ask_for(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_sandbox, "_MOST", chat_sandbox._MOST >> 4)
    start = time.process_time()
    with pytest.raises(Exception, match="more work than a prompt can need"):
        Compiled(source).render()
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "source",
    [
        "{{ x | trim }}",
        "{{ x.replace('\\n', ' ') }}{{ x.split('</think>')[-1] ~ 'y' }}",
        "{% for m in [x, 'a'] %}{{ '<|start|>' + m + '<|end|>\\n' }}{{ loop.last }}{% endfor %}",
        "{{ '%s: %s' % ('a', x) }}{{ '{}: {}'.format('a', x) }}",
        "{{ x | tojson }}{{ x[:9] | truncate(8000) }}",
        "{{ [x, 'a'] | join('\\n') | length }} {{ 3 * 7 + 1 }} {{ 7 % 4 }} {{ 2 ** 10 }}",
        "{% for a in [[1, [2]], [3]] recursive %}{{ a if a is number else loop(a) }}{% endfor %}",
    ],
)
def test_long_texts_are_shown(source: str) -> None:
    """As jinja2 itself shows them, of a document of millions of characters."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    text = "word \n" * 400_000
    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    if "tojson" in source:
        plain.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    assert Compiled(source).render(x=text) == plain.from_string(source).render(x=text)


def test_every_rendering_has_a_budget_of_its_own() -> None:
    compiled = Compiled("{% for i in range(9000) %}{% endfor %}{{ x }}")
    for _ in range(4):
        assert compiled.render(x="a") == "a"
