# ruff: noqa: RUF001 (languages have the letters and marks that they have)
"""The pairs that a model is verified on where its user names none."""

import random

from packrank.verify.reading import Pair

# Longer sequences are tokenized and not run, so that a model of many positions takes no hour.
LONGEST_RUN = 1024

_CODE = "with open(path) as lines:\n\tfor line in lines:\n\n\t\tprint(line)\r\n# done"
_SPELLED = (
    "[CLS] one [SEP] two [MASK] <s> three </s> <mask> <|im_start|>user <|im_end|> <bos> <eos>"
)
_MARKS = "cafe\u0301 \ufb01ne \u2460 \u00bd \u201cquoted\u201d \U0001f469\u200d\U0001f52c \u200b."
_ASKED: list[tuple[str, tuple[str, ...]]] = [
    (
        "how do snakes find their prey",
        (
            "Pit vipers sense the warmth of a mouse, even in the dark.",
            "An owl hears a vole under the snow.",
            "Version 3.12 of the interpreter suggests corrections for misspelled names.",
            "",
        ),
    ),
    (
        "Wann fährt der letzte Zug nach Köln?",
        (
            "Der letzte Regionalexpress verlässt Münster um 23:41 Uhr.",
            "Köln liegt am Rhein, Münster an der Aa.",
            "A train needs rails; a bus does not.",
        ),
    ),
    ("如何冲泡绿茶？", ("绿茶宜用八十度左右的水，泡两分钟。", "这座桥有三百年的历史。")),
    ("東京から京都まで何時間？", ("新幹線で二時間あまりです。", "京都は古い寺で知られる。")),
    ("왜 하늘은 파란가", ("공기가 짧은 파장의 빛을 더 많이 흩뜨리기 때문이다.",)),
    ("Почему небо синее?", ("Воздух сильнее рассеивает короткие волны.", "Море солёное.")),
    ("ما هي عاصمة مصر؟", ("القاهرة هي عاصمة مصر.",)),
    ("पानी कब उबलता है", ("समुद्र तल पर पानी सौ डिग्री पर उबलता है।",)),
    ("read a file line by line", (_CODE, "Files\nhave\n\nlines.")),
    ("what does [SEP] stand for?", (_SPELLED,)),
    ("price of 1,234.56 €", (_MARKS,)),
    ("", ("A document that nobody asked for.", "")),
]
_WORDS = (
    *(
        "river",
        "stone",
        "evening",
        "7",
        "Überblick",
        "naïve",
        "вода",
        "日本",
        "مدينة",
        "x_1",
        "the",
    ),
    *("fox", "of", "2024-05-01", "antidisestablishmentarianism", "a", "नदी", "réseau", ","),
)


def builtin_pairs() -> list[Pair]:
    """Short ones: several languages, code, special tokens spelled out, odd marks, empty texts."""
    return [(query, document) for query, documents in _ASKED for document in documents]


def long_pairs(query_length: int, document_length: int) -> list[Pair]:
    """Pairs that a model has to cut.

    Args:
        query_length: tokens that it takes of a query, or of a pair.
        document_length: of a document, or of a pair.

    Returns:
        A long document, and a long query before one; the same at every call.
    """
    draw = random.Random(6)
    query, document = (
        " ".join(draw.choices(_WORDS, k=length + 20)) for length in (query_length, document_length)
    )
    return [("which river is it", document), (query, document)]
