"""Whole rankings by several documents at a time, held against what their parts take.

Seeded random weights. Listwise needs --data: Qwen2's tokenizer. A ranking of windows can be no
faster than reading its prompts and, where orders are written, the steps that write them; both are
timed by themselves in the same round.
"""

import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoder_models import add_tokenizer, qwen

from packrank import Listwise
from packrank.models import T5Settings, load_model
from packrank.ordering.by_labels import ByLabels
from packrank.ordering.by_writing import ByWriting
from packrank.request import Pack, Sequence
from packrank.runtime.generation import Generation
from packrank.runtime.runner import Runner

QUERIES, CANDIDATES, WINDOW, STRIDE = 4, 40, 20, 10  # three windows a query
ROUNDS = 3
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
WORDS = ("panda", "owl", "snake", "heat", "river", "stone", "light", "under", "often", "green")

# google/flan-t5-base, config.json.
T5_SIZES = {
    "vocab_size": 32128,
    "d_model": 768,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 12,
    "num_heads": 12,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "decoder_start_token_id": 0,
}
PAIRS, PAIR_TOKENS = 32, (200, 330)  # two passages of 128 tokens at most, and what is asked


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory, data_dir: Path | None) -> Path:
    if data_dir is None:
        pytest.skip("needs --data: Qwen2's tokenizer")
    folder = add_tokenizer(qwen(tmp_path_factory.mktemp("chat"), "CausalLM"), data_dir)
    said = {"chat_template": CHATML, "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder


def requests_of(words: int) -> list[tuple[str, list[str]]]:
    """Queries with candidates of so many words, each of which is a token."""
    chance = random.Random(0)
    return [
        (
            " ".join(chance.choices(WORDS, k=8)),
            [" ".join(chance.choices(WORDS, k=words)) for _ in range(CANDIDATES)],
        )
        for _ in range(QUERIES)
    ]


def windows_of(way: Any, requests: list[tuple[str, list[str]]]) -> list[Any]:
    """The prompts of all windows, in the given order: as many and as long as those of a ranking."""
    prompts = way.prompts if isinstance(way, ByWriting) else way._prompts.window
    found = []
    for query, documents in requests:
        asked = prompts.asked(query, documents)
        for start in range(0, CANDIDATES - STRIDE, STRIDE):
            found.append(prompts.ids(asked, range(start, start + WINDOW)))
    return found


def seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@pytest.mark.parametrize("words", [30, 100])
def bench_rankings(rows, chat, words):
    requests = requests_of(words)
    options = {"window": WINDOW, "stride": STRIDE, "dtype": "bfloat16", "context": 4096}
    written = Listwise(chat, method="listwise", **options)
    first = Listwise(chat, method="first", **options)
    writing, by_letters = written._way, first._way
    assert isinstance(writing, ByWriting)
    assert isinstance(by_letters, ByLabels)
    prompts = windows_of(writing, requests)
    size = writing.prompts.answer_tokens(WINDOW)
    generator = writing.generator

    def generate(tokens: int, asked: list[Any]) -> None:
        for number, ids in enumerate(asked):
            generator.add(number, Generation(ids, tokens, tokens, writing.stop_token_ids))
        done = dict(generator.finished())
        assert all(len(out or []) == tokens for out in done.values())

    def rounds_of(tokens: int) -> None:
        """As a ranking runs them: a window of each query at a time."""
        for place in range(len(prompts) // QUERIES):
            generate(tokens, prompts[place :: len(prompts) // QUERIES])

    found = written.rank_many(requests)
    assert (
        found == [written.rank(query, documents) for query, documents in requests[:1]] + found[1:]
    )
    times: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, call in (
            ("written", lambda: written.rank_many(requests)),
            ("first", lambda: first.rank_many(requests)),
            ("prefill", lambda: rounds_of(1)),
            ("prefill and decode", lambda: rounds_of(size)),
        ):
            times.setdefault(name, []).append(seconds(call))
    medians = {name: float(np.median(all_of)) for name, all_of in times.items()}
    case = f"Qwen2.5-0.5B bfloat16, {QUERIES} queries, {CANDIDATES} passages of {words} words"
    tokens = sum(map(len, prompts))
    for name, value, unit in (
        ("written", QUERIES / medians["written"], "queries/s"),
        ("first", QUERIES / medians["first"], "queries/s"),
        ("prefill", tokens / medians["prefill"], "tokens/s"),
        ("first over written", medians["written"] / medians["first"], "x"),
        ("allowed by parts", medians["prefill and decode"] / medians["prefill"], "x"),
        ("written, of its parts", 100 * medians["prefill and decode"] / medians["written"], "%"),
        ("first, of its prompts", 100 * medians["prefill"] / medians["first"], "%"),
    ):
        kept = {"bench": f"rankings, {name}", "case": case, "contestant": "packrank"}
        rows.add({**kept, "rate": value, "unit": unit})


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import transformers

    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**T5_SIZES)).eval()
    model.lm_head.weight = torch.nn.Parameter(0.05 * torch.randn_like(model.lm_head.weight))
    model.save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("labels", [2, 4])
def bench_labels(race, t5, dtype, labels):
    """Pairs by two labels and sets by four: all from one encoding, and one for each."""
    import transformers

    kind, rng = getattr(torch, dtype), np.random.default_rng(0)
    lengths = rng.integers(*PAIR_TOKENS, PAIRS)
    drawn = [rng.integers(2, 32000, length).astype(np.int32) for length in lengths]
    pack = Pack.of(Sequence(ids, np.zeros_like(ids)) for ids in drawn)
    read, tokens = (0, 5454), (71, 272, 205, 309)[:labels]

    def runner(*label_ids: int) -> Runner:
        settings = T5Settings(read, label_ids)
        return Runner(load_model(t5, device="cpu", dtype=kind, causal=settings))

    whole, each = runner(*tokens), [runner(one) for one in tokens]
    reference = transformers.T5ForConditionalGeneration.from_pretrained(t5, dtype=kind).eval()
    order = np.argsort(-lengths)

    def theirs() -> torch.Tensor:
        """Sorted, in batches of 8, padded."""
        out = torch.zeros(PAIRS, labels)
        with torch.inference_mode():
            for start in range(0, PAIRS, 8):
                some = order[start : start + 8]
                most = int(lengths[some].max())
                ids = torch.zeros(len(some), most, dtype=torch.long)
                mask = torch.zeros(len(some), most, dtype=torch.long)
                for row, one in enumerate(some):
                    ids[row, : lengths[one]] = torch.from_numpy(drawn[one])
                    mask[row, : lengths[one]] = 1
                first = torch.tensor([read]).expand(len(some), -1)
                logits = reference(input_ids=ids, attention_mask=mask, decoder_input_ids=first)
                out[some] = logits.logits[:, -1, list(tokens)].float()
        return out

    found = whole.logits(pack)
    np.testing.assert_array_equal(np.hstack([one.logits(pack) for one in each]), found)
    want = theirs().numpy()
    scale = np.abs(want).max()
    np.testing.assert_allclose(found, want, atol=(1e-4 if dtype == "float32" else 0.06) * scale)
    race(
        "labels of an encoder-decoder",
        f"flan-t5-base {dtype}, {labels} labels of prompts of 200 to 330 tokens",
        {
            "packrank": lambda: whole.logits(pack),
            "a pass a label": lambda: [one.logits(pack) for one in each],
            "transformers": theirs,
        },
        PAIRS,
        "prompts",
        rounds=5,
    )
