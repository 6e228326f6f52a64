"""Rebuild what ringflow ships in generated form: header sections, and native code as PTX.

- ``python -m ringflow.device.native.build`` rewrites the files; ``--check`` only compares.
- The PTX is clang's, for the host device: running kernels then needs no compiler.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import attrs

from ringflow.device import abi
from ringflow.device.compiler.clang import compile_to_ptx
from ringflow.device.host import scheduler_layout
from ringflow.device.layout import replace_generated
from ringflow.device.native import layouts

DEVICE_FOLDER: Final = Path(__file__).parent.parent

SECTIONS: Final[Mapping[str, Callable[[], str]]] = {
    "include/ringflow.cuh": abi.generated_header,
    "native/room.cuh": layouts.generated_room,
    "native/pump.cu": layouts.generated_pump,
    "host/scheduler.cu": scheduler_layout.generated_scheduler,
}
NATIVE_CODE: Final = ("native/pump.cu", "host/scheduler.cu")


@attrs.frozen
class Product:
    """A shipped file (path below ``ringflow/device``) and what it should hold."""

    path: str
    text: str

    @property
    def current(self) -> bool:
        file = DEVICE_FOLDER / self.path
        return file.is_file() and file.read_text(encoding="utf-8") == self.text


def section_products() -> list[Product]:
    """Return the sources with generated sections, as their layouts would have them."""
    made = []
    for path, generate in SECTIONS.items():
        source = (DEVICE_FOLDER / path).read_text(encoding="utf-8")
        made.append(Product(path, replace_generated(source, generate())))
    return made


def code_products() -> list[Product]:
    """Compile the native sources; raises ``CompileError``, and ``DeviceError`` without clang."""
    room = (DEVICE_FOLDER / "native/room.cuh").read_text(encoding="utf-8")
    made = []
    for path in NATIVE_CODE:
        source = (DEVICE_FOLDER / path).read_text(encoding="utf-8")
        ptx, _log = compile_to_ptx(
            source, name=Path(path).name, headers={"ringflow_room.cuh": room}
        )
        made.append(Product(path.replace(".cu", ".ptx"), ptx))
    return made


def main(arguments: list[str]) -> int:
    """Rebuild, or with ``--check`` return 1 if something shipped is not current."""
    stale = []
    for build in (section_products, code_products):
        for product in build():
            if product.current:
                continue
            stale.append(product.path)
            if "--check" not in arguments:
                (DEVICE_FOLDER / product.path).write_text(product.text, encoding="utf-8")
    for path in stale:
        print(f"{'stale' if '--check' in arguments else 'rebuilt'}: ringflow/device/{path}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
