"""packrank rank: documents, or those of a store, best first."""

import argparse
import json
import math

from packrank.commands.messages import check_stdout, printable, report, say
from packrank.commands.scorer import open_model, report_cut
from packrank.errors import InputError
from packrank.jobs.score import Scorer
from packrank.late_interaction import LateInteraction
from packrank.records.file import RecordFile, nothing_in
from packrank.records.record import DOCUMENTS, IDS, Record
from packrank.request import Ranked, Ranking
from packrank.reranker import Reranker

_SHOWN_CHARACTERS = 80  # of a document in the table


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    check_stdout()
    if args.store is not None:
        return _rank_store(args)
    if args.candidates is not None:
        raise InputError("--candidates are ids of documents of a store; give --store as well")
    if args.exact is not False:
        raise InputError("--exact is for documents of a store; give --store as well")
    with RecordFile(args.documents, DOCUMENTS, args.format) as file:
        records = list(file.records())
    failures = [(record.number, record.error) for record in records if record.error is not None]
    documents = [record for record in records if record.error is None]
    ranking: Ranking | list[Ranked] = []
    if documents:
        texts = [str(record.fields["text"]) for record in documents]
        model = open_model(args)
        ranking, reasons = _try_rank(model, args, texts)
        report_cut(model)
        failures += [(documents[index].number, reason) for index, reason in reasons.items()]
    if not ranking:
        raise InputError(nothing_in(file, failures))
    _show(ranking, documents, as_json=args.json)
    report(sorted(failures), file.part)
    return 1 if failures else 0


def _rank_store(args: argparse.Namespace) -> int:
    candidates = None
    if args.candidates is not None:
        with RecordFile(args.candidates, IDS, args.format) as file:
            records = list(file.records())
        for record in records:
            if record.error is not None:
                raise InputError(f"{args.candidates}, {record.place}: {record.error}")
        candidates = [str(record.fields["id"]) for record in records]
    model = open_model(args)
    assert isinstance(model, LateInteraction) and model.store is not None
    if not model.store.complete:
        say(f"packrank: {args.store} is unfinished; packrank encode goes on with it")
    ranking, failures = model.try_rank(
        args.query, None, args.top_k, candidates=candidates, exact=args.exact
    )
    if not ranking:
        raise InputError(f"{args.store} has no document to rank that can be scored")
    if not args.json:
        print("rank     score  id")
    for rank, (_, score, id) in enumerate(ranking, start=1):
        shown = None if score == -math.inf else score
        row = {"rank": rank, "score": shown, "id": id}
        print(json.dumps(row) if args.json else f"{rank:4} {score:9.4f}  {printable(id)}")
    report_cut(model)
    for index, reason in failures.items():
        say(f"packrank: document {model.store.ids[index]!r} was left out: {reason}")
    return 1 if failures else 0


def _try_rank(
    model: Scorer, args: argparse.Namespace, texts: list[str]
) -> tuple[Ranking | list[Ranked], dict[int, str]]:
    if isinstance(model, Reranker):
        label = args.label
        if label is not None and label not in model.labels and label.isdecimal():
            label = int(label)
        return model.try_rank(
            args.query,
            texts,
            args.top_k,
            label=label,
            cutoff_layer=args.cutoff_layer,
            exit=args.exit,
        )
    return model.try_rank(args.query, texts, args.top_k)


def _show(ranking: Ranking | list[Ranked], documents: list[Record], *, as_json: bool) -> None:
    if not as_json:
        print(f"rank     score {documents[0].part:>7}  text")
    for rank, (index, score, _) in enumerate(ranking, start=1):
        record = documents[index]
        if not as_json:
            words = " ".join(record.fields["text"].split())[:_SHOWN_CHARACTERS]
            print(f"{rank:4} {score:9.4f} {record.number:7}  {printable(words)}")
            continue
        # -inf, of a document without token vectors, has no spelling in JSON.
        row = {"rank": rank, "score": None if score == -math.inf else score, "line": record.number}
        if isinstance(ranking, Ranking):
            row["layers"] = int(ranking.num_layers[index])
        row |= {name: record.fields[name] for name in ("id", "text") if name in record.fields}
        print(json.dumps(row))
    if as_json and isinstance(ranking, Ranking):
        run = zip(documents, ranking.num_layers.tolist(), strict=True)
        summary: dict[str, object] = {"layers": {record.number: layers for record, layers in run}}
        if (work := ranking.work) is not None:
            saved = ("prefix", "exits", "last_layer", "compression")
            shown = {name: getattr(work, name) for name in ("total", "computed", "recomputed")}
            summary["token_layers"] = shown | {
                f"saved_by_{what}": getattr(work, f"saved_by_{what}") for what in saved
            }
        print(json.dumps({"summary": summary}))
