"""``check_source``: both sides' verdicts, and where only one of them objects."""

from __future__ import annotations

import pytest

from ringflow.device.compiler.check import CheckReport, check_source
from ringflow.errors import DeviceError, SpecError

GOOD = """#include <ringflow_test.cuh>
extern "C" __global__ void k(float* f) { f[threadIdx.x] += STEP; }
extern "C" __global__ void j(int* i) { i[0] = 1; }
"""


def _places(report: CheckReport) -> list[tuple[str, str]]:
    return [(one.front_end, one.place) for one in report.one_sided]


def test_a_source_for_all_devices_is_good() -> None:
    """Both sides see the same kernels, and headers reach both."""
    report = check_source(GOOD, headers={"ringflow_test.cuh": "#define STEP 2.0f\n"})
    assert report.verdict == "both"
    assert report.good
    assert sorted(report.host_kernels) == sorted(report.gpu_kernels) == ["j", "k"]
    assert report.diagnostics == ()


def test_what_only_clang_takes_is_named() -> None:
    """``_Float16`` is clang's own."""
    source = '\nextern "C" __global__ void k(float* f) {\n  f[0] = _Float16(f[1]);\n}\n'
    report = check_source(source, name="half.cu")
    assert report.verdict == "host only"
    assert not report.good
    assert _places(report) == [("nvrtc", "half.cu:3:10")]
    assert "_Float16" in report.one_sided[0].text
    assert report.gpu_kernels == ()


def test_what_only_nvrtc_takes_is_named() -> None:
    """A CUDA name that the host's header does not have."""
    source = '\n\nextern "C" __global__ void k() { __prof_trigger(1); }\n'
    report = check_source(source, name="trigger.cu")
    assert report.verdict == "gpu only"
    assert _places(report) == [("clang", "trigger.cu:3:34")]


def test_what_only_the_translator_refuses_is_named_by_its_source_line() -> None:
    """PTX that clang passes on, in a function that was inlined into the kernel."""
    source = """
__device__ __forceinline__ void copy(unsigned shared, const float* f) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" :: "r"(shared), "l"(f));
}
extern "C" __global__ void k(const float* f, float* g) {
  g[1] = f[0];
  copy(4, f);
}
"""
    report = check_source(source, name="copy.cu")
    assert report.verdict == "gpu only"
    (refusal,) = report.one_sided
    assert (refusal.front_end, refusal.file, refusal.line) == ("translator", "copy.cu", 7)
    assert "cp.async.ca.shared.global" in refusal.text
    assert report.host_kernels == ("k",)


def test_errors_of_both_in_one_line_are_not_one_sided() -> None:
    """They word it differently; the line counts."""
    source = 'extern "C" __global__ void k() {\n  nothing();\n  std::min(1, 2);\n  _Float16 x;\n}\n'
    report = check_source(source)
    assert report.verdict == "neither"
    assert {one.line for one in report.diagnostics if one.severity == "error"} == {2, 3, 4}
    assert _places(report) == [("nvrtc", "kernel.cu:4:3")]


def test_kernels_that_only_one_side_sees_are_a_difference() -> None:
    """Both compile, and yet not the same program."""
    source = """
#ifdef __clang__
extern "C" __global__ void for_the_host(int* i) { i[0] = 1; }
#endif
extern "C" __global__ void k(int* i) { i[0] = 1; }
"""
    report = check_source(source)
    assert report.verdict == "both"
    assert report.one_sided_kernels == ("for_the_host",)
    assert not report.good


def test_warnings_are_told_and_spoil_nothing() -> None:
    """An unused variable is NVRTC's warning."""
    source = 'extern "C" __global__ void k() {\n  int unused;\n}\n'
    report = check_source(source)
    assert report.good
    assert [(one.severity, one.line) for one in report.diagnostics] == [("warning", 2)]


def test_more_than_twenty_errors_are_all_told() -> None:
    """clang's own limit would hide what only it refuses."""
    body = "\n".join(f"  missing_{n}();" for n in range(30))
    report = check_source(f'extern "C" __global__ void k() {{\n{body}\n}}\n')
    lines = [one.line for one in report.diagnostics if one.front_end == "clang"]
    assert lines == list(range(2, 32))


@pytest.mark.parametrize(
    ("architecture", "error"), [("sm_9", DeviceError), ("host", SpecError), ("hopper", SpecError)]
)
def test_an_unknown_architecture_is_an_error(architecture: str, error: type[Exception]) -> None:
    """Not a verdict about the source."""
    headers = {"ringflow_test.cuh": "#define STEP 2\n"}
    with pytest.raises(error, match=architecture):
        check_source(GOOD, architecture=architecture, headers=headers)
