"""The C++ extensions; everything else is in pyproject.toml.

packrank_kernels._cpu is built always, packrank_kernels._cuda where nvcc is found: on the path, in
CUDA_HOME, or in /usr/local/cuda.
"""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup
from setuptools.command.editable_wheel import editable_wheel
from setuptools.errors import CompileError
from setuptools.modified import newer_group

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

# Machine code for sm_80 to sm_89 and sm_90; newer devices translate what is for compute_90.
NVCC_FLAGS = [
    "-O3",
    "-std=c++17",
    "-Xcompiler=-fPIC,-fvisibility=hidden",
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90a,code=sm_90a",
    "-gencode=arch=compute_90,code=compute_90",
]


# Beyond its first level ptxas takes more registers here than there are; see the file.
FLAGS_OF = {"attention_64.cu": ["-Xptxas=-O1"]}


def find_nvcc() -> str | None:
    """The CUDA compiler, or None where there is none."""
    folders = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    paths = [
        shutil.which("nvcc"),
        *(os.path.join(folder, "bin/nvcc") for folder in folders if folder),
    ]
    return next((path for path in paths if path and os.access(path, os.X_OK)), None)


class BuildExtensions(build_ext):
    """Compiles .cu files with nvcc and links what comes of them like any other object."""

    def finalize_options(self) -> None:
        """As setuptools does; extensions are built beside each other unless told otherwise."""
        super().finalize_options()
        if self.parallel is None:
            self.parallel = True

    def build_extension(self, extension: Pybind11Extension) -> None:
        """As setuptools does, after nvcc."""
        cuda = [source for source in extension.sources if source.endswith(".cu")]
        if cuda:
            extension.sources = [s for s in extension.sources if s not in cuda]
            nvcc = find_nvcc()
            assert nvcc is not None
            extension.depends += cuda
            with ThreadPoolExecutor() as pool:
                compiled = [
                    pool.submit(self.compile_cuda, nvcc, source, extension.depends)
                    for source in cuda
                ]
            extension.extra_objects = [each.result() for each in compiled]
            extension.library_dirs = [runtime_folder(nvcc)]
        super().build_extension(extension)

    def compile_cuda(self, nvcc: str, source: str, depends: list[str]) -> str:
        """The object file of one .cu file."""
        target = Path(self.build_temp, source).with_suffix(".o")
        if not (self.force or newer_group(depends, str(target))):
            return str(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [
            nvcc,
            *NVCC_FLAGS,
            *FLAGS_OF.get(Path(source).name, []),
            "-c",
            source,
            "-o",
            str(target),
        ]
        print(*command, flush=True)
        if subprocess.run(command).returncode != 0:
            raise CompileError(f"{nvcc} could not compile {source}")
        return str(target)


class EditableWheel(editable_wheel):
    """An editable installation that puts engine/ and kernels/ on sys.path.

    What setuptools does by itself here, a finder behind the path, loses to any folder named
    packrank in the working directory: the clone, for whoever stands beside it.
    """

    def _select_strategy(self, name, tag, build_lib):  # type: ignore[no-untyped-def]
        from setuptools.command.editable_wheel import _StaticPth

        if self.mode:
            return super()._select_strategy(name, tag, build_lib)
        folders = [Path(self.project_dir, folder) for folder in ("engine", "kernels")]
        return _StaticPth(self.distribution, name, folders)


def runtime_folder(nvcc: str) -> str:
    """Where the toolkit of this nvcc, which may be a script elsewhere, has its static runtime."""
    dry = [nvcc, "--dryrun", "-c", "-x", "cu", os.devnull, "-o", os.devnull]
    plan = subprocess.run(dry, capture_output=True, text=True).stderr
    top = re.search(r"^#\$ TOP=(.*)$", plan, re.MULTILINE)
    top_folder = Path(top[1].strip()) if top else Path(nvcc).resolve().parents[1]
    for folder in ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"):
        if (top_folder / folder / "libcudart_static.a").exists():
            return str(top_folder / folder)
    raise CompileError(
        f"{nvcc} has no libcudart_static.a under {top_folder}; install CUDA's runtime"
    )


def extensions() -> list[Pybind11Extension]:
    """What can be built here."""
    cpu = Pybind11Extension(
        "packrank_kernels._cpu",
        sorted(["csrc/bindings.cpp", *glob("csrc/common/*.cpp"), *glob("csrc/cpu/*.cpp")]),
        depends=[*glob("csrc/*/*.h"), *glob("csrc/*/*.inc")],
        cxx_std=17,
        extra_compile_args=FLAGS,
        extra_link_args=["-pthread"],
    )
    if find_nvcc() is None:
        print("packrank: no nvcc, so packrank_kernels._cuda is not built", file=sys.stderr)
        return [cpu]
    cuda = Pybind11Extension(
        "packrank_kernels._cuda",
        sorted(["csrc/cuda/bindings.cpp", *glob("csrc/cuda/*.cu")]),
        depends=glob("csrc/cuda/*.h"),
        cxx_std=17,
        extra_compile_args=["-O2", "-fvisibility=hidden"],
        libraries=["cudart_static", "rt", "dl", "pthread"],
        optional=True,  # an nvcc that cannot build it must not cost the CPU its kernels
    )
    return [cpu, cuda]


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildExtensions, "editable_wheel": EditableWheel},
)
