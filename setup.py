"""The C++ extension; everything else is in pyproject.toml."""

from glob import glob

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup

# On x86 g++ is needed: clang does not know the pragma that opens an instruction set.
# -Wno-*: GCC 12 takes its own _mm512_undefined_*() for a mistake.
# -ffp-contract=off: where a product and a sum fuse is written in the source, so that every
# instance of an op rounds alike. -fno-strict-aliasing: units of 32 bits over rows of either dtype.
FLAGS = [
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-fvisibility=hidden",
    "-pthread",
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
]

setup(
    ext_modules=[
        Pybind11Extension(
            "packrank_kernels._cpu",
            sorted(["csrc/bindings.cpp", *glob("csrc/common/*.cpp"), *glob("csrc/cpu/*.cpp")]),
            depends=[*glob("csrc/*/*.h"), *glob("csrc/*/*.inc")],
            cxx_std=17,
            extra_compile_args=FLAGS,
            extra_link_args=["-pthread"],
        )
    ]
)
