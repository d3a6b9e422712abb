"""sentence-transformers' CrossEncoder, by torch, ONNX or OpenVINO."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from packrank.bench.machine import instruction_sets
from packrank.bench.peers.peer import (
    Logits,
    Peer,
    Task,
    Variant,
    best_batch,
    expect_one_logit,
    need,
    on_cpu_only,
)
from packrank.bench.subjects.texts import Pairs
from packrank_kernels import get_num_threads

_NAME = "sentence-transformers"
_BATCH = 32


def variants(task: Task) -> list[Variant]:
    """By torch in the device's precisions; on a CPU by the other backends."""
    found = [
        Variant(f"{_NAME} ({dtype})", dtype, partial(open_torch, task, dtype))
        for dtype in task.precisions
    ]
    found += [
        Variant(f"{_NAME} with ONNX ({dtype})", dtype, partial(_open_onnx, task, dtype))
        for dtype in ("float32", "int8")
    ]
    # In int8 its OpenVINO backend calibrates on a data set of the hub.
    found += [
        Variant(f"{_NAME} with OpenVINO ({dtype})", dtype, partial(_open_openvino, task, dtype))
        for dtype in ("float32", "bfloat16")
    ]
    return found


def open_torch(task: Task, dtype: str) -> Peer:
    """By torch.

    Raises:
        CannotRun: it is not installed, or the model gives several logits of a pair.
    """
    options = {"model_kwargs": {"dtype": getattr(torch, dtype)}}
    return _peer(task, _NAME, dtype, _model(task, task.folder, options))


def _open_onnx(task: Task, dtype: str) -> Peer:
    name = f"{_NAME} with ONNX"
    _need_package()
    need(
        "optimum.onnxruntime",
        f"{name} needs optimum-onnx; pip install 'optimum-onnx[onnxruntime]' "
        f"'{_NAME}<6' (it asks for transformers 4, so in an environment of its own)",
    )
    on_cpu_only(task, name)
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = get_num_threads(), 3
    kwargs = {"provider": "CPUExecutionProvider", "session_options": settings}
    options = {"backend": "onnx", "model_kwargs": kwargs | {"export": True}}
    if dtype == "float32":
        return _peer(task, name, dtype, _model(task, task.folder, options))
    with tempfile.TemporaryDirectory(prefix="packrank-bench-") as made:
        folder = Path(made)
        for path in task.folder.resolve().iterdir():
            (folder / path.name).symlink_to(path)
        _quantize(_model(task, folder, options), folder)
        [file] = folder.rglob("model_qint8_*.onnx")
        kwargs["file_name"] = file.relative_to(folder).as_posix()
        options = {"backend": "onnx", "model_kwargs": kwargs}
        return _peer(task, name, dtype, _model(task, folder, options))


def _quantize(model: Any, folder: Path) -> None:
    """Weights in bytes, as the package itself recommends for this processor."""
    from sentence_transformers.backend import export_dynamic_quantized_onnx_model

    sets = instruction_sets()
    kinds = {"asimd": "arm64", "avx512_vnni": "avx512_vnni"}
    kind: Any = next((kind for known, kind in kinds.items() if known in sets), "avx2")
    export_dynamic_quantized_onnx_model(model, kind, str(folder))


def _open_openvino(task: Task, dtype: str) -> Peer:
    name = f"{_NAME} with OpenVINO"
    _need_package()
    need(
        "optimum.intel.openvino",
        f"{name} needs optimum-intel; pip install 'optimum-intel[openvino]' "
        "(it asks for an older transformers, so in an environment of its own)",
    )
    on_cpu_only(task, name)
    hints = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
        "INFERENCE_NUM_THREADS": get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    options = {"backend": "openvino", "model_kwargs": {"ov_config": hints, "export": True}}
    return _peer(task, name, dtype, _model(task, task.folder, options))


def _need_package() -> None:
    need("sentence_transformers", f"{_NAME} is not installed; pip install {_NAME}")


def _model(task: Task, folder: Path, options: dict[str, Any]) -> Any:
    _need_package()
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(
        str(folder),
        device=str(task.device),
        max_length=task.max_length,
        activation_fn=torch.nn.Identity(),
        local_files_only=True,
        trust_remote_code=False,
        **options,
    )
    expect_one_logit(model.num_labels)
    return model


def _peer(task: Task, name: str, dtype: str, model: Any) -> Peer:
    """It sorts by length, and pads to the batch's longest, by itself."""

    def score(pairs: Pairs, batch: int) -> Logits:
        found = model.predict(pairs, batch_size=batch, show_progress_bar=False)
        return np.asarray(found, dtype=np.float32)

    batch = best_batch(task, _BATCH, score)
    return Peer(f"{name} ({dtype}, batch {batch})", dtype, partial(score, batch=batch))
