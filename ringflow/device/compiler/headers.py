"""The headers that a kernel's source may include, the same under both front ends.

- Shipped ones lie in ``device/include``; ``include/std`` stands in for the C++ library's.
- ``cuda_names.cuh`` is clang's alone: NVRTC brings those names itself.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Final

INCLUDE_FOLDER: Final = Path(__file__).parent.parent / "include"
STANDARD_FOLDER: Final = INCLUDE_FOLDER / "std"
CUDA_NAMES: Final = INCLUDE_FOLDER / "cuda_names.cuh"


@functools.cache
def shipped_headers() -> Mapping[str, str]:
    """Return the text of each shipped header by the name that an ``#include`` gives."""
    headers = {}
    for path in sorted(INCLUDE_FOLDER.rglob("*")):
        if path.is_file() and path != CUDA_NAMES and path.suffix in ("", ".h", ".cuh"):
            base = STANDARD_FOLDER if path.is_relative_to(STANDARD_FOLDER) else INCLUDE_FOLDER
            headers[path.relative_to(base).as_posix()] = path.read_text(encoding="utf-8")
    return headers
