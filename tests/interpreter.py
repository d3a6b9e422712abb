"""Triton's interpreter for tests: in a third of its time, with products that no BLAS decides."""

import dataclasses
import functools
from typing import Any

import numpy as np
from triton.runtime import interpreter

tl = interpreter.tl


def prepare() -> None:
    """Once a process, before any kernel runs."""
    _patch_the_language_once_a_launch()
    _look_types_up()
    # Computed for assertions that the interpreter then leaves out.
    options = dataclasses.replace(interpreter.interpreter_builder.options, sanitize_overflow=False)
    interpreter.interpreter_builder.options = options
    _multiply_in_float64()


def _patch_the_language_once_a_launch() -> None:
    """Not at each call of a device function."""
    plain, patched = interpreter._patch_lang, set[int]()
    languages = {id(tl), id(tl.core)}

    def patch_lang(fn: Any) -> Any:
        named = {id(value) for value in fn.__globals__.values()} & languages
        if named <= patched:
            return interpreter._LangPatchScope()
        scope = plain(fn)
        patched.update(named)
        restore = scope.restore

        def restored() -> None:
            patched.clear()
            restore()

        scope.restore = restored
        return scope

    interpreter._patch_lang = patch_lang


def _look_types_up() -> None:
    """What a type of blocks, and a tensor by its type, is made of, instead of making it anew."""
    of_blocks: dict[Any, dict[str, Any]] = {}
    of_tensors: dict[Any, dict[str, Any]] = {}
    make_blocks, make_tensor = tl.core.block_type.__init__, tl.core.tensor.__init__

    def init_blocks(self: Any, element_ty: Any, shape: Any) -> None:
        key = (str(element_ty), *(int(n) for n in shape))
        if key not in of_blocks:
            make_blocks(self, element_ty, shape)
            of_blocks[key] = dict(vars(self))
        else:
            vars(self).update(of_blocks[key])

    def init_tensor(self: Any, handle: Any, type: Any) -> None:
        key = type.name
        if key not in of_tensors:
            make_tensor(self, handle, type)
            of_tensors[key] = {name: vars(self)[name] for name in ("shape", "numel")}
        else:
            vars(self).update(of_tensors[key], handle=handle, type=type, dtype=type.scalar)

    tl.core.block_type.__init__ = init_blocks
    tl.core.tensor.__init__ = init_tensor

    np_dtype = functools.cache(interpreter._get_np_dtype)
    interpreter._get_np_dtype = lambda kind: (
        np.dtype(np.uint64) if kind.scalar.is_ptr() else np_dtype(kind.scalar)
    )


def _multiply_in_float64() -> None:
    """A BLAS may pick another kernel, and other bits, by the shape."""
    plain = interpreter.InterpreterBuilder.create_dot

    def create_dot(self: Any, a: Any, b: Any, d: Any, *options: Any) -> Any:
        if any(x.data.dtype.kind != "f" for x in (a, b, d)):
            return plain(self, a, b, d, *options)
        product = np.matmul(a.data.astype(np.float64), b.data.astype(np.float64))
        total = product.astype(d.data.dtype) + d.data
        return interpreter.TensorHandle(total, d.dtype.scalar)

    interpreter.InterpreterBuilder.create_dot = create_dot
