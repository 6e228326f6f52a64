"""``ringflow check``: lines for people, JSON for machines, and exit codes."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from ringflow.cli import main

GOOD = 'extern "C" __global__ void k(float* f) { f[0] = 1; }\n'
HOST_ONLY = 'extern "C" __global__ void k(float* f) {\n  f[0] = _Float16(f[1]);\n}\n'


def _run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str | Path
) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of one run."""
    monkeypatch.setattr("sys.argv", ["ringflow", "check", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_exit_codes_and_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 where all is good; 1 where one file is not, and the line that says why."""
    monkeypatch.chdir(tmp_path)
    Path("good.cu").write_text(GOOD)
    Path("host.cu").write_text(HOST_ONLY)
    code, out, _ = _run(capsys, monkeypatch, "good.cu", "--arch", "sm_90")
    assert (code, out) == (0, "good.cu: good for the host device and for sm_90\n")
    code, out, _ = _run(capsys, monkeypatch, "good.cu", "host.cu")
    lines = out.splitlines()
    assert code == 1
    assert lines[0] == "good.cu: good for the host device and for sm_80"
    assert lines[1].startswith("host.cu:2:10: error (only nvrtc): ")
    assert lines[2] == "host.cu: good for the host device, refused for sm_80"


def test_json_has_one_object_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With each diagnostic and whether it is one-sided."""
    good, host = tmp_path / "good.cu", tmp_path / "host.cu"
    good.write_text(GOOD)
    host.write_text(HOST_ONLY)
    code, out, _ = _run(capsys, monkeypatch, good, host, "--json")
    first, second = map(orjson.loads, out.splitlines())
    assert code == 1
    assert (first["good"], first["verdict"], first["host_kernels"]) == (True, "both", ["k"])
    assert (second["good"], second["verdict"]) == (False, "host only")
    (said,) = second["diagnostics"]
    assert (said["front_end"], said["line"], said["one_sided"]) == ("nvrtc", 2, True)


def test_messages_and_headers_reach_the_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Message classes come from a module in the current folder, headers from files."""
    monkeypatch.chdir(tmp_path)
    Path("checked_messages.py").write_text(
        "import ringflow\n@ringflow.message(7)\nclass Step:\n    count: ringflow.u32\n"
        "ALL = [Step]\n"
    )
    Path("sizes.cuh").write_text("#define SIZE 4\n")
    Path("k.cu").write_text(
        "#include <ringflow_messages.cuh>\n#include <sizes.cuh>\n"
        'static_assert(Step::id == 7 && SIZE == 4, "");\n' + GOOD
    )
    for name in ("ALL", "Step"):
        arguments = ("k.cu", "--messages", f"checked_messages:{name}", "--header", "sizes.cuh")
        code, out, err = _run(capsys, monkeypatch, *arguments)
        assert code == 0, out + err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere.cu",), "cannot read nowhere.cu"),
        (("k.cu", "--messages", "nothing_here:ALL"), "--messages nothing_here:ALL"),
        (("k.cu", "--messages", "ringflow:nothing"), "--messages ringflow:nothing"),
        (("k.cu", "--messages", "ringflow.files:write_atomic"), "a function is no message class"),
        (("k.cu", "--messages", "ringflow.files:TEMPORARY_SUFFIX"), "a str is no message class"),
    ],
)
def test_wrong_use_exits_with_2(
    arguments: tuple[str, ...],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line on stderr, and nothing compiled."""
    monkeypatch.chdir(tmp_path)
    Path("k.cu").write_text(GOOD)
    code, out, err = _run(capsys, monkeypatch, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("ringflow: ")
    assert said in err
    assert len(err.splitlines()) == 1


def _no_nvrtc(*_: object) -> None:
    raise RuntimeError('Failed to dlopen "nvrtc"\n  searched:\n    here\n')


def test_without_nvrtc_the_host_side_is_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not good, for the GPU's side is not known; nothing is called one-sided."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cuda.bindings.nvrtc.nvrtcCreateProgram", _no_nvrtc)
    Path("good.cu").write_text(GOOD)
    Path("bad.cu").write_text(GOOD.replace("1;", "one;"))
    code, out, err = _run(capsys, monkeypatch, "good.cu")
    why = 'NVRTC cannot be loaded: Failed to dlopen "nvrtc" searched: here; pip install '
    assert (code, err) == (1, "")
    assert out.startswith(f"good.cu: good for the host device; GPU: not checked: {why}")
    assert out.count("\n") == 1
    code, out, _ = _run(capsys, monkeypatch, "bad.cu")
    assert code == 1
    assert "error (clang): " in out
    assert "bad.cu: refused for the host device; GPU: not checked: " in out
    plain = orjson.loads(_run(capsys, monkeypatch, "good.cu", "--json")[1])
    assert (plain["good"], plain["verdict"]) == (False, "incomplete")
    assert (plain["host_takes"], plain["gpu_takes"]) == (True, None)
    assert plain["gpu_unchecked"].startswith(why)


def test_a_source_without_a_kernel_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both take it, and there is nothing to launch."""
    monkeypatch.chdir(tmp_path)
    Path("empty.cu").write_text("")
    code, out, _ = _run(capsys, monkeypatch, "empty.cu")
    assert (code, "empty.cu: it has no kernel" in out) == (0, True)
