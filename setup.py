"""Builds the compiled CPU kernels where that is possible; all metadata is in pyproject.toml.

DIFNET_BUILD=auto, the default, builds them if torch and a C++ compiler are found; otherwise it installs
without them and says why. DIFNET_BUILD=1 fails instead, and DIFNET_BUILD=0 does not try. torch must be
visible to the build: `pip install --no-build-isolation .`

For developers, DIFNET_TEST_TARGETS=1 adds the emulator of AMX that tests run on, and DIFNET_SANITIZE=1 builds
with AddressSanitizer and UBSan.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from glob import glob
from typing import Any

import setuptools

MINIMUM_SETUPTOOLS = 77  # as in pyproject.toml, which pip ignores with --no-build-isolation
MINIMUM_TORCH = (2, 11)
# Compilers that the kernels were tested with: GCC 12, Clang 14, 19 and 22.
FLAGS = [
    *("-O3", "-std=c++17", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
    *("-fvisibility=hidden", "-Wno-psabi", "-DTORCH_TARGET_VERSION=0x020b000000000000"),
]

WITHOUT = "difnet-kernels: installing without the compiled CPU kernels"
# Python may have been built with -fwrapv, which hides overflows from UBSan.
SANITIZERS = ["-O1", "-g", "-fno-wrapv", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]


def check_setuptools() -> None:
    """Exit with the remedy if setuptools is too old to read pyproject.toml."""
    if int(setuptools.__version__.partition(".")[0]) < MINIMUM_SETUPTOOLS:
        sys.exit(
            f"difnet-kernels needs setuptools {MINIMUM_SETUPTOOLS} or newer to be built, and here is "
            f"{setuptools.__version__}: pip install -U 'setuptools>={MINIMUM_SETUPTOOLS}'"
        )


def obstacle() -> str | None:
    """Why the kernels cannot be built here, or None."""
    try:
        import torch
    except ImportError:
        return "torch is not visible to the build; install it first and use pip's --no-build-isolation"
    if tuple(map(int, torch.__version__.split(".")[:2])) < MINIMUM_TORCH:
        return f"torch {torch.__version__} is older than 2.11"
    compiler = os.environ.get("CXX", "c++")
    command = shlex.split(compiler)
    if not command or shutil.which(command[0]) is None:
        return f"no C++ compiler: {compiler!r} was not found (set CXX)"
    if sys.platform == "win32":
        return "the kernels need GCC or Clang"
    return None


def extension(required: bool) -> dict[str, Any]:
    """The extension, on LibTorch's stable ABI and Python's limited API: one binary for all versions."""
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    class Build(BuildExtension):
        """Installs without the extension if it does not compile and is not required."""

        def build_extensions(self) -> None:
            try:
                super().build_extensions()
            except Exception as error:
                if required:
                    raise
                print(f"{WITHOUT}: they do not compile here: {error}", file=sys.stderr)
                self.extensions.clear()

    sanitizers = SANITIZERS if os.environ.get("DIFNET_SANITIZE") == "1" else []
    tests = ["-DDIFNET_TEST_TARGETS"] if os.environ.get("DIFNET_TEST_TARGETS") == "1" else []
    native = CppExtension(
        "difnet_kernels._native",
        sorted(glob("csrc/**/*.cpp", recursive=True)),
        depends=sorted(glob("csrc/**/*.h", recursive=True)),
        extra_compile_args=FLAGS + tests + sanitizers,
        extra_link_args=sanitizers[2:],
        py_limited_api=True,
    )
    return {"ext_modules": [native], "cmdclass": {"build_ext": Build}}


def options() -> dict[str, Any]:
    """The arguments of setup(), beside those in pyproject.toml."""
    wish = os.environ.get("DIFNET_BUILD", "auto")
    if wish not in ("auto", "0", "1"):
        sys.exit(f"DIFNET_BUILD={wish!r}: expected auto, 0 or 1")
    if wish == "0":
        return {}
    reason = obstacle()
    if reason is None:
        return extension(required=wish == "1") | {"options": {"bdist_wheel": {"py_limited_api": "cp310"}}}
    if wish == "1":
        sys.exit(f"DIFNET_BUILD=1: {reason}")
    print(f"{WITHOUT}: {reason}", file=sys.stderr)
    return {}


check_setuptools()
setuptools.setup(**options())
