"""Rank a few documents for a query: `python examples/rank.py`, or `python examples/rank.py MODEL`.

MODEL is the folder or hub name of a cross-encoder, such as cross-encoder/ms-marco-MiniLM-L6-v2.
Without one, the model of the `demo` extra ranks by late interaction.
"""

import sys

from packrank import LateInteraction, Reranker
from packrank.demo import default_model

QUERY = "how do snakes find prey in the dark"
DOCUMENTS = [
    "Pit vipers sense the heat of a warm animal through organs between eye and nostril.",
    "Python 3.12 reports where in the line a syntax error is.",
    "A barn owl hears a mouse under snow.",
    "Many snakes smell with the tongue, which carries scent to the roof of the mouth.",
]

model = Reranker(sys.argv[1]) if len(sys.argv) > 1 else LateInteraction(default_model())
for place, ranked in enumerate(model.rank(QUERY, DOCUMENTS, top_k=3), start=1):
    print(f"{place}  {ranked.score:7.3f}  {ranked.document}")
