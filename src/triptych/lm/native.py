"""native.cpp: built once by the C++ compiler of this machine, and called through ctypes.

    native.cpp ──c++──▶ CACHE/native-<digest of source, compiler and processor>.so ──▶ `library()`

The library has no threads of its own: it calls the OpenMP of torch, whose symbols are there once torch is imported, so
that both share one team. Invariant: a machine without a compiler, without that OpenMP or with TRIPTYCH_NATIVE=0 gets
None, never an error. Knows no model.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math")
BUILDER = "native build"
"""the thread that builds beside other work"""
_BUILDING = threading.Lock()


class Matrix(ctypes.Structure):
    """native.cpp's Matrix."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("rows", ctypes.c_int32),
        ("columns", ctypes.c_int32),
        ("kind", ctypes.c_int32),
        ("unused", ctypes.c_int32),
    )


class Layer(ctypes.Structure):
    """native.cpp's Layer."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("attention_norm", "mlp_norm", "query_norm", "key_norm")),
        *((name, Matrix) for name in ("qkv", "out", "gate_up", "down")),
    )


class Model(ctypes.Structure):
    """native.cpp's Model."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("layers", "dim", "heads", "kv_heads", "head_size", "hidden")),
        ("eps", ctypes.c_float),
        ("unused", ctypes.c_float),
        ("layer", ctypes.POINTER(Layer)),
        ("norm", ctypes.c_void_p),
        ("rates", ctypes.c_void_p),
    )


def library() -> ctypes.CDLL | None:
    """The library, built where it is not there yet: some three seconds of one core, once a machine. None where it
    cannot be had."""
    if os.environ.get("TRIPTYCH_NATIVE", "1") == "0" or os.name != "posix":
        return None
    with _BUILDING:
        return next(filter(None, map(_made_by, _compilers())), None)


def begin() -> None:
    """Builds the library beside other work, such as reading weights."""
    threading.Thread(target=library, name=BUILDER).start()


def _made_by(compiler: str) -> ctypes.CDLL | None:
    try:
        path = _path(compiler)
        return _open(path) if path.exists() or _build(path, compiler) else None
    except (OSError, RuntimeError):  # no home, or one that is another user's; a compiler that does not run
        return None


@cache
def _path(compiler: str) -> Path:
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    digest = hashlib.sha256(b"\0".join([SOURCE.read_bytes(), version, " ".join(FLAGS).encode(), _processor()]))
    return _folder() / f"native-{digest.hexdigest()[:16]}.so"


def _compilers() -> list[str]:
    """One after the other: clang's OpenMP is another than that of most builds of torch, and is not found there."""
    named = filter(None, (os.environ.get("CXX"), "g++", "clang++"))
    return list(dict.fromkeys(filter(None, map(shutil.which, named))))


def _processor() -> bytes:
    """What -march=native stands for."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor().encode()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})).encode()


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "triptych"


@cache
def _build(path: Path, compiler: str) -> bool:
    wide = ["-mprefer-vector-width=512"] if b"avx512f" in _processor() else []
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as beside:
            made = [Path(beside) / name for name in ("native.o", "native.so")]
            compile_line = [compiler, *FLAGS, "-march=native", *wide, "-c", str(SOURCE), "-o", str(made[0])]
            # Linked without -fopenmp: a second OpenMP would bring a second team of threads.
            link_line = [compiler, "-shared", str(made[0]), "-o", str(made[1])]
            for line in (compile_line, link_line):
                subprocess.run(line, check=True, capture_output=True, timeout=300)
            os.replace(made[1], path)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


@cache
def _open(path: Path) -> ctypes.CDLL | None:
    import torch  # noqa: F401 - brings the OpenMP that the library calls

    try:
        if path.stat().st_uid != os.getuid():
            return None
        found = ctypes.CDLL(str(path))
    except OSError:
        return None
    pointer, whole = ctypes.c_void_p, ctypes.c_int
    found.scratch_floats.restype, found.read_all.restype = ctypes.c_int64, ctypes.c_float
    found.scratch_floats.argtypes = (ctypes.POINTER(Model),)
    found.read_all.argtypes = (pointer, ctypes.c_int64, whole)
    found.product.argtypes = (ctypes.POINTER(Matrix), whole, pointer, pointer, pointer, whole)
    found.step.argtypes = (ctypes.POINTER(Model), whole, *(pointer,) * 8, whole)
    return found
