"""The kernels and objects that the documents show, run as they say."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ringflow
from ringflow.device.compiler.api import CompileTarget, compile_source
from ringflow.device.compiler.headers import messages_header
from ringflow.messages import layout_of

pytestmark = pytest.mark.anyio

DOCS = Path(__file__).parent.parent / "docs"
TEXT = (DOCS / "kernels.md").read_text(encoding="utf-8")


@ringflow.message(1)
class Step:
    count: ringflow.u32


@ringflow.message(2)
class First:
    """Asks for the first value."""


def _blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def _spec() -> ringflow.KernelSpec:
    """Return the document's spec, made by its own lines."""
    names: dict[str, Any] = {
        "ringflow": ringflow,
        "np": np,
        "Step": Step,
        "First": First,
        "source": _blocks("cuda")[0],
        "array": np.arange(8, 1008, dtype=np.float32),
    }
    exec(_blocks("python")[0], names)
    spec = names["spec"]
    assert isinstance(spec, ringflow.KernelSpec)
    return spec


async def test_the_documented_kernel_does_what_it_says(folder: Path) -> None:
    """Two steps halve every value twice; a migration between them changes nothing."""
    async with ringflow.open_engine(folder, devices=["host:0", "host:1"]) as engine:
        kernel = await engine.launch(_spec(), device="host:0")
        await kernel.send(Step(1))
        await engine.migrate("decay", to="host:1")
        await kernel.send(Step(1))
        reply = await kernel.call(First(), timeout_s=30)
        assert reply.array("float32").tolist() == [2.0]
        async with kernel.held() as state:
            expected = np.arange(8, 1008, dtype=np.float32) / 4
            np.testing.assert_array_equal(state["values"].numpy(), expected)


async def test_the_kernel_that_works_between_messages_can_be_asked(folder: Path) -> None:
    """The loop of ``step`` and ``poll``, with its two gaps filled in."""
    loop = _blocks("cuda")[1].replace("/* answer */", "if (self.leader()) self.reply(m, ticks[0]);")
    source = (
        "#include <ringflow.cuh>\n"
        'extern "C" __global__ void free_running(ringflow::control* control, unsigned* ticks) {\n'
        "    ringflow::kernel self(control);\n    ringflow::message m;\n"
        + loop.replace("advance();", "if (self.leader()) ticks[0] += 1;")
        + "}\n"
    )
    spec = ringflow.KernelSpec(
        kernel_id="free",
        kernel_type="free",
        code=ringflow.KernelCodeSource.from_cuda(source, "free_running"),
        messages=[First],
        block=(32, 1, 1),
        regions=[ringflow.Region("ticks", dtype="uint32", shape=(1,))],
        replay="checkpoint",
        release="at_once",
    )
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        kernel = await engine.launch(spec, device="host:0")
        seen = [
            int((await kernel.call(First(), timeout_s=30)).array("uint32")[0]) for _ in range(3)
        ]
    assert seen == sorted(seen)
    assert seen[-1] > 0


@ringflow.message(1)
class Scale:
    """Asks for an array, scaled."""


async def test_the_documented_kernel_scales_arrays(folder: Path) -> None:
    """The source, its spec and the call, word for word."""
    sources, texts = _blocks("cuda"), _blocks("python")
    (source,) = [one for one in sources if "reply_buffer" in one]
    (declared,) = [one for one in texts if 'kernel_id="scale"' in one]
    (called,) = [one for one in texts if "Scale(), data=array" in one]
    array = np.arange(100_000, dtype=np.float32)
    names: dict[str, Any] = {"ringflow": ringflow, "np": np, "Scale": Scale, "array": array}
    exec(declared, names | {"source": source}, names)
    async with ringflow.open_engine(folder, devices=["host:0"]) as engine:
        names["kernel"] = await engine.launch(names["spec"], device="host:0")
        code = compile(called, "kernels.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        await eval(code, names)
        np.testing.assert_array_equal(names["halved"], array / 2)
        kernel = names["kernel"]
        for large in [False] * 3 + [True] * 7:  # the last share of the arena among them
            sent = np.ones((2 if large else 1) << 20, np.float32)
            reply = await kernel.call(Scale(), data=sent, timeout_s=30)
            assert len(reply.data) == (0 if large else 4 << 20)
        assert [status.state for status in engine.kernels()] == ["running"]


async def test_the_documented_object_moves_with_its_state() -> None:
    """The example of an object of one's own, word for word."""
    text = (DOCS / "operations.md").read_text(encoding="utf-8")
    block = next(one for one in _blocks("python", text) if "class Counter" in one)
    names: dict[str, Any] = {"__name__": "documented"}
    await eval(compile(block, "operations.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    assert names["new"].count == 7
    assert names["coordinator"].device_of("counter") == "b"
    assert names["result"].target_device == "b"


def test_the_documented_kernel_is_good_for_gpus() -> None:
    """NVRTC takes it, too."""
    compiled = compile_source(
        _blocks("cuda")[0],
        entry_point="decay",
        target=CompileTarget("sm_90"),
        headers={"ringflow_messages.cuh": messages_header([layout_of(Step), layout_of(First)])},
        cache=None,
    )
    assert compiled.target == "sm_90"


def test_every_function_of_the_kernels_interface_is_documented() -> None:
    """The public methods of ``ringflow::kernel`` stand in the table."""
    header = Path(ringflow.__file__).parent / "device" / "include" / "ringflow.cuh"
    body = header.read_text(encoding="utf-8").split("class kernel {")[1].split("private:")[0]
    methods = set(re.findall(r"__forceinline__ \w+ (\w+)\(", body))
    assert methods >= {"kernel", "receive", "reply"}
    assert not [name for name in methods - {"kernel"} if f"self.{name}(" not in TEXT]
