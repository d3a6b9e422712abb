"""A folder's scores against another package's of the same folder, part by part."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from packrank.checkpoint.adapter import adapter_in
from packrank.checkpoint.kind import LATE, RERANKERS, expect
from packrank.checkpoint.modules import encoder_folder
from packrank.quiet import quiet, reason_of
from packrank.runtime.device import choose_devices
from packrank.verify.comparison import (
    Allowed,
    Both,
    Row,
    order_row,
    same_tokens,
    token_row,
    value_row,
)
from packrank.verify.cross_encoder import open_cross_encoder
from packrank.verify.engine import LateSide, Readings, RerankerSide
from packrank.verify.multi_vector import open_multi_vector
from packrank.verify.pairs import LONGEST_RUN, builtin_pairs, long_pairs
from packrank.verify.published import published_of
from packrank.verify.reading import Float32, NotCompared, Pair, Reading, Reference, read
from packrank.verify.report import Report
from packrank.verify.roundings import MARGIN, measured_spread, relative, usual_spread
from packrank.verify.transformers_models import open_classifier

# Pairs of which it is measured how far an error spreads.
_MEASURED = 8
# The last step by itself is float32 whatever the model is in: a unit in its last place.
_LAST_STEP = 2.0**-23

_ADAPTED = (
    "adapters are compared in plain classifiers and under templates alone; merge it (peft: "
    "merge_and_unload, save_pretrained) and verify that folder"
)


def verify(
    folder: Path,
    name: str,
    pairs: list[Pair] | None,
    options: dict[str, Any],
    where: dict[str, Any],
) -> Report:
    """Compare token ids, logits or token vectors, activation or MaxSim, scores and their order.

    The reference runs in float32, a pair at a time, after the engine has let go of its model.

    Args:
        folder: of the model.
        name: what the user calls it.
        pairs: to compare by; None for those that are built in.
        options: of the front door, those that change what a pair scores.
        where: device and dtype of the front door.

    Raises:
        ModelError: the engine cannot use the folder.
        InputError: it cannot use an option.
    """
    devices, dtype = choose_devices(where.get("device", "auto"), where.get("dtype", "auto"))
    is_reranker = expect(folder, RERANKERS + LATE) in RERANKERS
    side = (
        RerankerSide(folder, name, options, where)
        if is_reranker
        else LateSide(folder, options, where)
    )
    tokens_only: set[int] = set()
    if pairs is None:
        short, long = builtin_pairs(), long_pairs(*side.lengths)
        pairs = short + long
        if max(side.lengths) > LONGEST_RUN:
            tokens_only = {*range(len(short), len(pairs))}
    ours = side.readings(pairs, tokens_only)
    # On a CUDA device "auto" may be either narrow one.
    widest = dtype or torch.bfloat16
    published: list[Row] = []
    if isinstance(side, RerankerSide) and not options:
        published = _published(side, folder, name, widest)
    left_out = dict(ours.failures)
    rows: tuple[Row, ...] = ()
    reference, why_not = None, None
    with quiet():
        try:
            opened = _reference(side, folder, devices[0], options)
            reference = opened.name
            rows, why_not = _compared(side, opened, pairs, ours, tokens_only, widest, left_out)
        except NotCompared as error:
            why_not = str(error)
    said = "auto" if dtype is None else str(dtype).removeprefix("torch.")
    return Report(name, reference, said, rows, tuple(published), left_out, why_not)


def _reference(
    side: RerankerSide | LateSide, folder: Path, device: torch.device, options: dict[str, Any]
) -> Reference:
    """What the folder is compared with.

    Raises:
        NotCompared: nothing that is installed can load it.
    """
    adapted = adapter_in(encoder_folder(folder)) is not None
    if isinstance(side, LateSide):
        side.close()
        if adapted:
            raise NotCompared(_ADAPTED)
        return open_multi_vector(folder, device, side.settings, options)
    if len(side.config.inner_exits) > 0:
        raise NotCompared("no other package reads an encoder's exit_layers")
    scoring, instruction = side.scoring, options.get("instruction")
    by_transformers = scoring.template is not None or options.get("template") is not None
    if adapted and (scoring.modules is not None or scoring.chat is not None or scoring.prompt):
        raise NotCompared(_ADAPTED)
    if not by_transformers and not adapted:
        try:
            return open_cross_encoder(folder, device, options.get("max_length"), instruction)
        except NotCompared:
            if scoring.head != "classifier" or scoring.chat is not None or scoring.prompt:
                raise
    if scoring.template is None and scoring.head != "classifier":
        raise NotCompared("no other package scores it under this template")
    return open_classifier(
        folder,
        device,
        scoring,
        num_labels=side.config.num_labels,
        max_length=side.max_length,
        instruction=instruction,
    )


def _compared(
    side: RerankerSide | LateSide,
    reference: Reference,
    pairs: list[Pair],
    ours: Readings,
    tokens_only: set[int],
    dtype: torch.dtype,
    left_out: dict[int, str],
) -> tuple[tuple[Row, ...], str | None]:
    """A row for each part, and why there are no logits if there are none."""
    both: Both = []
    for place, mine in ours.every.items():
        try:
            theirs = read(reference, pairs[place], whole=place not in tokens_only)
        except Exception as error:  # of one text, whatever the package raises of it
            left_out[place] = f"{reference.name} fails on it ({reason_of(error)})"
            continue
        both.append((place, mine, theirs))
    if not both and left_out:
        raise NotCompared(next(iter(left_out.values())))
    rows = [token_row(both, pairs, reference.name)]
    alike = [each for each in same_tokens(both) if each[2].values is not None]
    if reference.module is None:
        return tuple(rows), getattr(reference, "why_not", None)
    if not alike:
        return tuple(rows), None
    lasts = _last_steps(reference, alike)
    sample = alike[:: max(len(alike) // _MEASURED, 1)][:_MEASURED]
    spread = measured_spread(
        reference, [pairs[place] for place, *_ in sample], [theirs for *_, theirs in sample]
    )
    size = relative(dtype, side.config)
    values = {p: (list(a.values or ()), list(b.values or ())) for p, a, b in alike}
    rows.append(value_row(side.step, values, Allowed(spread.values * size, MARGIN), pairs))
    scored = [each for each in alike if each[2].scores is not None and each[1].scores is not None]
    if scored:
        last = _last_step(lasts)
        allowed = Allowed(float(np.hypot(spread.scores * size, last.expected)), MARGIN)
        rows.append(value_row(side.last_step, lasts, last, pairs))
        scores = {p: (_scores(a), _scores(b)) for p, a, b in scored}
        rows.append(value_row("scores", scores, allowed, pairs))
        rows.append(order_row(scored, pairs, allowed))
    return tuple(rows), None


def _scores(reading: Reading) -> list[Float32]:
    return [] if reading.scores is None else [reading.scores]


def _last_steps(reference: Reference, alike: Both) -> dict[int, Any]:
    """The engine's scores, and what the reference's last step makes of the engine's own values."""
    found: dict[int, Any] = {}
    for place, mine, theirs in alike:
        if mine.values is not None and mine.scores is not None and theirs.scores is not None:
            with torch.inference_mode():
                found[place] = [mine.scores], [reference.scores(mine.values)]
    return found


def _last_step(lasts: dict[int, Any]) -> Allowed:
    every = [score for ours, _ in lasts.values() for score in np.abs(ours[0]).ravel()]
    size = max((float(score) for score in every if np.isfinite(score)), default=0.0)
    return Allowed(_LAST_STEP * max(size, 1.0), MARGIN)


def _published(side: RerankerSide, folder: Path, name: str, dtype: torch.dtype) -> list[Row]:
    """A row for each source that has printed scores of a model of this name."""
    rows = []
    for one in published_of(folder, name):
        expected = np.array(one.logits, dtype=np.float32).reshape(len(one.pairs), -1)
        found = side.published(one)
        size = usual_spread(side.config, float(np.abs(expected).max()))
        steps = (relative(dtype, side.config), relative(one.dtype, side.config))
        allowed = Allowed(size * float(np.hypot(*steps)), MARGIN)
        arrays = {i: ([found[i]], [expected[i]]) for i in range(len(one.pairs))}
        rows.append(value_row(f"{one.model}, {one.source}", arrays, allowed, one.pairs))
    return rows
