"""OpenVINO on a classifier of transformers."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from packrank.bench.peers.classifier import Classifier, load
from packrank.bench.peers.peer import (
    CannotRun,
    Logits,
    Peer,
    Task,
    Variant,
    batches,
    need,
    on_cpu_only,
)
from packrank.bench.subjects.texts import Pairs
from packrank_kernels import get_num_threads

_NAME = "OpenVINO"
_BATCH = 16
_CALIBRATED = 32  # pairs
# Of int8 none: what is not in integers runs as the processor likes it.
_HINTS = {"float32": "f32", "bfloat16": "bf16"}


def variants(task: Task) -> list[Variant]:
    """In float32 and bfloat16, and in int8 by NNCF."""
    converted = cache(partial(_converted, task))
    return [
        Variant(f"{_NAME} ({dtype})", dtype, partial(_open, task, dtype, converted))
        for dtype in ("float32", "bfloat16", "int8")
    ]


def _open(task: Task, dtype: str, converted: Callable[[], tuple[Any, Classifier]]) -> Peer:
    need("openvino", f"{_NAME} is not installed; pip install openvino")
    on_cpu_only(task, _NAME)
    if dtype == "int8":
        need("nncf", f"{_NAME} in int8 needs NNCF; pip install nncf")
    model, classifier = converted()
    if dtype == "int8":
        model = _quantized(model, classifier, task.pairs[:_CALIBRATED])
    score = _compiled(model, classifier, dtype)
    return Peer(f"{_NAME} ({dtype}, batch {_BATCH})", dtype, score)


def _converted(task: Task) -> tuple[Any, Classifier]:
    # Of a sliding window's masks nothing but infinities may be left, of which its own fused
    # attention makes no number.
    for attention in ("sdpa", "eager"):
        classifier = load(task, attention)
        model = _convert(classifier)
        if np.isfinite(_compiled(model, classifier, "float32")(task.uneven)).all():
            return model, classifier
    raise CannotRun(f"{_NAME} gives logits of this model that are not finite")


def _convert(classifier: Classifier) -> Any:
    import openvino

    shape = openvino.PartialShape([-1, -1])
    with torch.no_grad():
        return openvino.convert_model(
            classifier.module,
            example_input=classifier.example,
            input=[shape for _ in classifier.names],
        )


def _compiled(model: Any, classifier: Classifier, dtype: str) -> Callable[[Pairs], Logits]:
    """Batches beside each other, which was faster than one after the other on all threads."""
    import openvino

    hints = {"INFERENCE_NUM_THREADS": get_num_threads(), "PERFORMANCE_HINT": "THROUGHPUT"}
    if dtype in _HINTS:
        hints["INFERENCE_PRECISION_HINT"] = _HINTS[dtype]
    queue = openvino.AsyncInferQueue(openvino.compile_model(model, "CPU", hints))

    def score(pairs: Pairs) -> Logits:
        logits = np.empty(len(pairs), dtype=np.float32)

        def take(request: Any, places: NDArray[np.int64]) -> None:
            logits[places] = request.get_output_tensor(0).data[:, 0]

        queue.set_callback(take)
        for places in batches(pairs, _BATCH):
            inputs = classifier.read([pairs[place] for place in places])
            queue.start_async([inputs[name] for name in classifier.names], places)
        queue.wait_all()
        return logits

    return score


def _quantized(model: Any, classifier: Classifier, pairs: Pairs) -> Any:
    """Weights and activations in bytes."""
    import nncf

    read = [classifier.read([pair]) for pair in pairs]
    inputs = [[one[name] for name in classifier.names] for one in read]
    return nncf.quantize(
        model,
        nncf.Dataset(inputs),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(inputs),
    )
