"""The repository's texts: what they say must be so."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import ringflow
from ringflow.cli import build_app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples" / "first_program.py"
ADRS = sorted((ROOT / "docs" / "adr").glob("*.md"))
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/*.md")]
)
IGNORED = {".git", ".venv", "build", "dist", "ringflow-demo", "__pycache__"}
TEXT = {".py", ".md", ".toml", ".txt", ".cu", ".cuh", ".h", ".ptx", ".json", ".yml", ""}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _text_files() -> Iterator[Path]:
    for folder, folders, names in os.walk(ROOT):
        here = Path(folder)
        if here == ROOT:
            folders[:] = [name for name in folders if name not in IGNORED and name[0] != "."]
            folders.append(".ci")
        folders[:] = [name for name in folders if name != "__pycache__"]
        yield from (here / name for name in names if Path(name).suffix in TEXT)


def _fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def _line_with(part: str) -> str:
    """Return the README's only line that holds ``part``."""
    lines = [line for line in README.splitlines() if part in line]
    assert len(lines) == 1, f"{len(lines)} lines of README.md hold {part}"
    return lines[0]


# The two lines, and what CI runs


def test_two_lines_run_everything() -> None:
    """They start with an environment of their own and stand together before all else."""
    demo, tests = _fenced(README, "sh")[0].splitlines()
    start = "python3 -m venv .venv && .venv/bin/pip install -e "
    assert demo == f"{start}'.[demo]' && .venv/bin/ringflow demo"
    assert tests.startswith(f"{start}'.[test]' && ")
    assert tests.endswith(" && .venv/bin/pytest -n auto")
    for step in ("ruff check .", "ruff format --check .", "mypy"):
        assert f" && .venv/bin/{step} && " in tests
    assert README.index("```sh") < README.index("## ")


@pytest.mark.parametrize("broken", ["", "pip", "ruff", "mypy", "pytest"])
def test_ci_runs_the_second_line_and_fails_with_it(tmp_path: Path, broken: str) -> None:
    """Every step runs in order with the README's words; the first that fails is the last."""
    line = _line_with("pip install -e '.[test]'")
    steps = [step.replace("'", "") for step in line.split(" && ")]
    log, made = tmp_path / "log", tmp_path / "checkout"
    (made / ".ci").mkdir(parents=True)
    (made / ".ci" / "run").write_bytes((ROOT / ".ci" / "run").read_bytes())
    (made / ".ci" / "run").chmod(0o755)
    (made / "README.md").write_text(README, encoding="utf-8")
    for program in ("python3", ".venv/bin/pip", *(f".venv/bin/{n}" for n in _TOOLS)):
        stub = made / program
        stub.parent.mkdir(parents=True, exist_ok=True)
        code = 1 if Path(program).name == broken else 0
        stub.write_text(f'#!/bin/sh\necho "{program} $*" >> {log}\nexit {code}\n')
        stub.chmod(0o755)
    path = f"{made}:{os.environ['PATH']}"
    done = subprocess.run(
        [made / ".ci" / "run"], cwd=tmp_path, env={"PATH": path}, check=False, capture_output=True
    )
    ran = [one.strip() for one in log.read_text().splitlines()]
    assert ran == (steps if not broken else steps[: len(ran)])
    assert (done.returncode != 0) is bool(broken)
    if broken:
        assert f"/{broken}" in ran[-1]


_TOOLS = ("ruff", "mypy", "pytest")


def test_ci_is_executable() -> None:
    """The checkout keeps the bit."""
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


# The first program


def test_the_readme_shows_the_first_program_as_it_is() -> None:
    """Nobody copies a program that was never run."""
    assert _fenced(README, "python") == [EXAMPLE.read_text(encoding="utf-8")]


def test_the_first_program_runs_and_goes_on_in_its_folder(tmp_path: Path) -> None:
    """Run twice, the second run goes on with the first one's total on the other device."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = [
        subprocess.run(
            [sys.executable, "-W", "error", str(EXAMPLE)],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout
        for _ in range(2)
    ]
    assert said[0].startswith("5050 on host:1, paused ")
    assert said[1].startswith("10100 on host:0, paused ")


# Documents


def test_architecture_names_every_file_of_the_package() -> None:
    """One line a file, none forgotten, none that is gone; headers of one folder share a line."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("## Every file")[1]
    named = re.findall(r"^- `([^`]+)` \S", text, re.M)
    package = ROOT / "ringflow"
    files = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    folders = tuple(name for name in named if name.endswith("/"))
    lacking = {name for name in files - set(named) if not name.startswith(folders)}
    assert not lacking, f"ARCHITECTURE.md needs a line for each of {sorted(lacking)}"
    gone = {name for name in named if not (package / name).exists()}
    assert not gone, f"ARCHITECTURE.md names {sorted(gone)}, which do not exist"
    assert len(named) == len(set(named))


@pytest.mark.parametrize("path", ADRS, ids=_name)
def test_a_decision_has_its_sections_and_is_short(path: Path) -> None:
    """Status to Evidence, in this order, none empty, at most 60 lines."""
    text = path.read_text(encoding="utf-8")
    parts = re.split(r"^## (.+)\n", text, flags=re.M)
    sections = ["Status", "Context", "Decision", "Rejected", "Consequences", "Evidence"]
    assert parts[1::2] == sections
    assert all(body.strip() for body in parts[2::2])
    assert len(text.splitlines()) <= 60
    number = int(path.name[:4])
    assert text.startswith(f"# {number}. ")
    assert number == ADRS.index(path) + 1


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_links_lead_somewhere(path: Path) -> None:
    """A relative link names a file of the repository."""
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not re.match(r"https?:", target):
            assert (path.parent / target).exists(), f"{_name(path)} links to {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_the_paths_and_names_that_documents_use_exist(path: Path) -> None:
    """`tests/...`, `docs/...`, `examples/...` are there, and so is `ringflow.Name`."""
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"`?\b((?:tests|docs|examples|benchmarks)/[\w/.\-]+)", text):
        assert (ROOT / name.rstrip(".")).exists(), f"{_name(path)} names {name}"
    for name in re.findall(r"\bringflow\.([A-Za-z]\w*)\b(?![.\w]*\.)", text):
        module = ROOT / "ringflow" / name
        known = module.exists() or module.with_suffix(".py").exists() or name == "cuh"
        assert known or name in ringflow.__all__, f"{_name(path)} names ringflow.{name}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_the_commands_that_documents_name_exist(path: Path) -> None:
    """`ringflow journal verify` and the like are commands of the program."""
    program = typer.main.get_command(build_app())
    for words in re.findall(
        r"`(?:\.venv/bin/)?ringflow ([a-z ]+)", path.read_text(encoding="utf-8")
    ):
        command: Any = program
        for word in words.split():
            command = getattr(command, "commands", {}).get(word)
            assert command is not None, f"{_name(path)} names `ringflow {words}`"


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_python_in_documents_can_be_read(path: Path) -> None:
    """Each example is Python, `await` at its top level allowed."""
    for block in _fenced(path.read_text(encoding="utf-8"), "python"):
        compile(block, _name(path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_every_variable_of_the_environment_is_documented() -> None:
    """What changes the behaviour from outside stands in the table, and nothing else does."""
    package = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "ringflow").rglob("*.py")
    )
    documented = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    names = re.compile(r"\bRINGFLOW_[A-Z_]+")
    assert set(names.findall(package)) == set(names.findall(documented))


def test_the_changelog_has_this_version() -> None:
    """A version is released with words for its users."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(ringflow.__version__)}\]", text, re.M)
    assert f'version = "{ringflow.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_no_file_names_a_path_of_the_machine_that_it_was_made_on() -> None:
    """Only paths that every machine has, or that are relative, may stand in a file."""
    made_on = re.compile(r"(?<![\w.])/(?:(?:work|root)/\w|(?:home|Users)/\w+/)")
    found = [
        f"{_name(path)}:{number}: {line.strip()[:80]}"
        for path in _text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if made_on.search(line)
    ]
    assert not found
