"""The layers, read from the imports: each module imports only from the rows above its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ringflow"
LAYERS = (
    "errors version",
    "files clock ids limits names workers dlpack",
    "messages code_source",
    "arrays",
    "spec",
    "spec_codec",
    "events",
    "statemachines",
    "journal",
    "storage",
    "device",
    "results",
    "ports",
    "stepping transit placement rates routing",
    "reload_values",
    "coordinator reload_steps",
    "migration hot_reload checkpointing held",
    "kernel",
    "engine",
    "simulate",
    "scenario",
    "swarm",
    "demo",
    "cli",
)
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row.split()}
PURE = (
    "code_source",
    "names",
    "messages",
    "spec",
    "spec_codec",
    "events",
    "statemachines",
    "results",
    "routing",
    "device/abi",
    "device/layout",
)
EFFECTS = {"anyio", "asyncio", "trio", "os", "pathlib", "time", "random", "secrets", "logging"}
BUILT_IN_EFFECTS = ("open", "print", "input")
MODULES = sorted(PACKAGE.rglob("*.py"))
# Any of these at import time would make ``import ringflow`` slow, or need a driver.
ONLY_IN = {
    "cuda": ("device/compiler/nvrtc.py", "device/cuda/"),
    "llvmlite": ("device/host/",),
    "ziglang": ("device/compiler/clang.py",),
    "pynvml": ("device/cuda/topology.py",),
    "matplotlib": ("demo/",),
    "typer": ("cli/",),
    "rich": ("cli/", "demo/"),
    "aiofiles": ("storage/file.py",),
    "trio": (),
}


def _place(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of every import, those within functions too."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_place(path)}:{node.lineno} imports relatively"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _is_in(place: str, allowed: tuple[str, ...]) -> bool:
    return any(place == one or (one.endswith("/") and place.startswith(one)) for one in allowed)


def _is_pure(path: Path) -> bool:
    place = path.relative_to(PACKAGE).with_suffix("").as_posix()
    return any(place == one or place.startswith(one + "/") for one in PURE)


def test_every_module_belongs_to_a_layer() -> None:
    """A new module needs a place among the layers, here and in ARCHITECTURE.md."""
    tops = {_place(path).split("/")[0].removesuffix(".py") for path in MODULES}
    assert tops - {"__init__"} <= set(RANK)


@pytest.mark.parametrize("path", MODULES, ids=_place)
def test_imports_point_down(path: Path) -> None:
    """No module imports from its own row or a lower one, except within its package."""
    own = _place(path).split("/")[0].removesuffix(".py")
    wrong = []
    for line, name in _imports(path):
        top, *rest = name.split(".")
        if top != "ringflow" or own == "__init__":
            continue
        if not rest or rest[0] not in RANK:  # names of ``ringflow`` itself: the whole library
            allowed = RANK.get(own, -1) > RANK["engine"]
        else:
            allowed = rest[0] == own or RANK[rest[0]] < RANK.get(own, -1)
        if not allowed:
            wrong.append(f"{_place(path)}:{line} imports {name}")
    assert not wrong


@pytest.mark.parametrize("path", MODULES, ids=_place)
def test_foreign_packages_stay_in_their_corner(path: Path) -> None:
    """cuda-python, LLVM, the compilers and the terminal are each behind one module or package."""
    wrong = [
        f"{_place(path)}:{line} imports {name}"
        for line, name in _imports(path)
        if not _is_in(_place(path), ONLY_IN.get(name.split(".")[0], (_place(path),)))
    ]
    assert not wrong


@pytest.mark.parametrize("path", [p for p in MODULES if _is_pure(p)], ids=_place)
def test_pure_modules_have_no_effects(path: Path) -> None:
    """Values, events, machines and layouts: no await, clock, file, chance or log."""
    found = [
        f"line {line}: {name}" for line, name in _imports(path) if name.split(".")[0] in EFFECTS
    ]
    waiting = (ast.Await, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith)
    for node in ast.walk(_tree(path)):
        if isinstance(node, waiting):
            found.append(f"line {node.lineno}: {type(node).__name__}")
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in BUILT_IN_EFFECTS:
            found.append(f"line {node.lineno}: calls {ast.unparse(node.func)}")
    assert not found
