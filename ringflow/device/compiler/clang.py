"""clang as the front end of the host device: CUDA C++ to PTX, with no file of the CUDA SDK.

- The program is ziglang's, else a clang of version 18 or newer on the PATH.
- The result depends on the source, the headers, the flags and the program alone: the process
  gets an environment of its own, reads the source from its input and writes nothing but output.
- Its PTX is for the host device only: clang drops the scope of some atomics.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import attrs

from ringflow.device.compiler.headers import CUDA_NAMES, INCLUDE_FOLDER, STANDARD_FOLDER
from ringflow.errors import CompileError, DeviceError

FloatMode = Literal["reproducible", "fast"]

DEADLINE_S: Final = 30.0
CLANG_VERSION_MIN: Final = 18
CLANG_NAMES: Final = ("clang", *(f"clang-{version}" for version in range(30, 17, -1)))
FLAGS: Final = (
    *("-x", "cuda", "--cuda-path=/nonexistent", "--cuda-feature=+ptx80"),
    *("--cuda-gpu-arch=sm_80", "--cuda-device-only", "-nocudainc", "-nocudalib"),
    *("-fdeclspec", "-nostdinc", "--target=x86_64-unknown-linux-gnu", "-std=c++17"),
    *("-O2", "-S", "-mllvm", "-disable-lsr"),
    "-fno-slp-vectorize",  # it makes packed halves, which the host device does not have
    "-fno-finite-loops",  # an endless loop is to be seen, not to be taken for impossible
)
LINE_INFO: Final = ("-gline-tables-only",)
CONTRACTION: Final[Mapping[FloatMode, str]] = {
    "reproducible": "-ffp-contract=off",
    "fast": "-ffp-contract=fast",
}


@attrs.frozen
class ClangProgram:
    """A clang that can emit PTX: the start of its command line, and what to call it."""

    command: tuple[str, ...]
    version: str


@functools.cache
def find_clang() -> ClangProgram:
    """Return ziglang's clang, else the first on the PATH that is new enough.

    Raises:
        DeviceError: there is none; says what to install.
    """
    program = _ziglang() or _system_clang()
    if program is None:
        raise DeviceError(
            f"no clang to compile for the host device: neither the package ziglang nor a clang "
            f"of version {CLANG_VERSION_MIN} or newer on the PATH; pip install 'ringflow[host]'",
            call="clang",
            code="not installed",
        )
    return program


def compile_to_ptx(
    source: str,
    *,
    name: str = "kernel.cu",
    headers: Mapping[str, str] | None = None,
    float_mode: FloatMode = "reproducible",
    line_info: bool = False,
    extra_flags: Sequence[str] = (),
    deadline_s: float = DEADLINE_S,
) -> tuple[str, str]:
    """Compile CUDA C++ to PTX for the host device.

    Args:
        source: the text; positions in errors are ``name:line:column`` in it.
        name: what to call the source in errors.
        headers: texts that the source may include beside the shipped ones, by name.
        line_info: the PTX says which line of which source each instruction is from.
        extra_flags: go to clang after all others.
    Returns:
        The PTX text, and the compiler's log (warnings; empty where there are none).
    Raises:
        CompileError: clang refused the source, or did not end in time and was killed.
        DeviceError: no clang is installed.
    """
    program = find_clang()
    with _folder_of(headers or {}) as folder:
        includes = [folder] if folder else []
        includes += [str(INCLUDE_FOLDER), str(STANDARD_FOLDER)]
        command = [*program.command, *FLAGS, CONTRACTION[float_mode], "-include", str(CUDA_NAMES)]
        command += [f"-I{include}" for include in includes]
        if line_info:
            command += LINE_INFO
            command += [f"-ffile-prefix-map={include}=." for include in includes]
        command += [*extra_flags, "-", "-o", "-"]
        code, output, log = _run(command, _marked(source, name), deadline_s=deadline_s)
    for include in includes:
        log = log.replace(include + os.sep, "")
    if code != 0:
        raise CompileError("clang", log or f"clang ended with exit code {code} and said nothing")
    return output, log


def _marked(source: str, name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'#line 1 "{escaped}"\n{source}'


@contextlib.contextmanager
def _folder_of(headers: Mapping[str, str]) -> Iterator[str]:
    """Write the headers to a folder for as long as clang runs; empty where there are none."""
    if not headers:
        yield ""
        return
    with tempfile.TemporaryDirectory(prefix="ringflow-headers-") as folder:
        for name, text in headers.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        yield folder


def _run(command: Sequence[str], stdin: str, *, deadline_s: float) -> tuple[int, str, str]:
    """Run the command; past the deadline kill it with its children and raise CompileError."""
    environment = {"LC_ALL": "C", "PATH": os.defpath, "SOURCE_DATE_EPOCH": "0"}
    if "LD_LIBRARY_PATH" in os.environ:
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=environment,
            cwd=INCLUDE_FOLDER,  # a quoted include looks here first
            start_new_session=True,
        )
    except OSError as error:
        raise DeviceError(
            f"cannot run {command[0]}: {error}; pip install 'ringflow[host]' again",
            call="clang",
            code=type(error).__name__,
        ) from error
    with process:
        try:
            output, log = process.communicate(stdin, timeout=deadline_s)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise CompileError(
                "clang", f"no result within {deadline_s:g} s, killed; simplify the source"
            ) from None
    return process.returncode, output, log


def _ziglang() -> ClangProgram | None:
    spec = importlib.util.find_spec("ziglang")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        program = Path(folder, "zig")
        if program.is_file():
            version = importlib.metadata.version("ziglang")
            return ClangProgram((str(program), "clang"), f"ziglang {version}")
    return None


def _system_clang() -> ClangProgram | None:
    for name in CLANG_NAMES:
        path = shutil.which(name)
        if path is None:
            continue
        _, output, _ = _run([path, "--version"], "", deadline_s=DEADLINE_S)
        found = re.search(r"clang version (\d+)\S*", output)
        if found and int(found[1]) >= CLANG_VERSION_MIN and "Apple" not in output:
            return ClangProgram((path,), found[0])
    return None
