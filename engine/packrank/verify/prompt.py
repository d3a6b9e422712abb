"""A decoder's prompt as its authors' code puts it together: lists of ids, cut by slices.

It shares the data of `text.templates` with the engine, and none of its code.
"""

from collections.abc import Callable

from packrank.text.templates import Template

Encode = Callable[[str], list[int]]


def prompt_ids(
    template: Template,
    encode: Encode,
    bos: int | None,
    query: str,
    document: str,
    *,
    max_length: int,
    instruction: str | None,
) -> list[int]:
    """Ids of a pair under a template.

    Args:
        template: of the model.
        encode: ids of a text, without special tokens around it.
        bos: the tokenizer's, where the template begins with one.
        query: any text.
        document: any text.
        max_length: as the template's budget counts it.
        instruction: instead of the template's own.
    """
    first = query.join(_around_query(template, instruction))
    second = document.join(template.document.split("{document}"))
    head = ([] if bos is None else [bos]) + encode(template.head)
    separator = encode(template.separator) if template.separator else []
    tail = [token for piece in template.tail for token in encode(piece)]
    if template.document_first:
        whole = encode(second + first)
        if len(head) + len(whole) + len(tail) <= max_length:
            return head + whole + tail
        end = encode(template.document.split("{document}")[1]) + encode(first)
        return head + encode(second)[: max_length - len(head) - len(end) - len(tail)] + end + tail
    if template.budget == "whole":
        room = max_length - len(head) - len(tail)
        return head + encode(first + second + template.closing)[:room] + tail
    asked = encode(first)[: max_length * 3 // 4]
    read = separator + encode(second)[:max_length]
    if template.budget == "mxbai":
        return head + asked + read[: max_length - len(asked)] + tail
    return head + asked + read[: max_length + len(tail) - len(head) - len(asked)] + tail


def _around_query(template: Template, instruction: str | None) -> tuple[str, str]:
    given = template.instruction if instruction is None else instruction
    pattern = template.query
    if instruction and template.instructed is not None:
        pattern = template.instructed
    before, after = pattern.split("{query}")
    before, after = (part.replace("{instruction}", given or "") for part in (before, after))
    return before, after
