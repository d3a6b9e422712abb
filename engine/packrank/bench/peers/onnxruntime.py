"""ONNX Runtime on a classifier of transformers."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from packrank.bench.machine import instruction_sets
from packrank.bench.peers.classifier import Classifier, load
from packrank.bench.peers.peer import Logits, Peer, Task, Variant, in_batches, need, on_cpu_only
from packrank.bench.subjects.texts import Pairs
from packrank_kernels import get_num_threads

_NAME = "onnxruntime"
_BATCH = 32
_SILENT = 3  # errors only


def variants(task: Task) -> list[Variant]:
    """In float32, and in int8 by its own quantizer; bfloat16 it does not multiply."""
    return [
        Variant(f"{_NAME} ({dtype})", dtype, partial(_open, task, dtype))
        for dtype in ("float32", "int8")
    ]


def _open(task: Task, dtype: str) -> Peer:
    for module in (_NAME, "onnx"):
        need(module, f"{module} is not installed; pip install onnxruntime onnx")
    on_cpu_only(task, _NAME)
    classifier = load(task)
    with tempfile.TemporaryDirectory(prefix="packrank-bench-") as folder:
        file = Path(folder) / "model.onnx"
        _export(classifier, file)
        if dtype == "int8":
            file = _quantized(file)
        session = _session(file)

    def run(pairs: Pairs) -> Logits:
        found = session.run(None, classifier.read(pairs))[0]
        return np.asarray(found, dtype=np.float32)[:, 0]

    def score(pairs: Pairs) -> Logits:
        return in_batches(pairs, _BATCH, run)

    return Peer(f"{_NAME} ({dtype}, batch {_BATCH})", dtype, score)


def _export(classifier: Classifier, file: Path) -> None:
    """By torch's older exporter, which needs no further package."""
    with torch.no_grad():
        torch.onnx.export(
            classifier.module,
            classifier.example,
            str(file),
            input_names=list(classifier.names),
            output_names=["logits"],
            dynamic_axes={name: {0: "pairs", 1: "tokens"} for name in classifier.names},
            dynamo=False,
        )


def _quantized(file: Path) -> Path:
    """Weights in bytes, a scale a column; activations as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    made = file.with_name("bytes.onnx")
    # Without VNNI sums of two products overflow 16 bits, so weights have seven.
    narrower = "avx512_vnni" not in instruction_sets()
    quantize_dynamic(
        file, made, per_channel=True, reduce_range=narrower, weight_type=QuantType.QInt8
    )
    return made


def _session(file: Path) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = get_num_threads(), _SILENT
    return onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
