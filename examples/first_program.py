"""A kernel that adds numbers up, moves to another device and outlives its process: run twice."""

import anyio

import ringflow

SOURCE = """
#include <ringflow.cuh>
#include <ringflow_messages.cuh>

extern "C" __global__ void tally(ringflow::control* control, unsigned long long* total) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.receive(m)) {
        if (m.type == Add::id && self.leader()) {
            total[0] += m.as<Add>().amount;
            self.reply(m, Total{total[0]});
        }
    }
}
"""


@ringflow.message(1)
class Add:
    amount: ringflow.u64


@ringflow.message(2)
class Total:
    value: ringflow.u64


SPEC = ringflow.KernelSpec(
    kernel_id="tally",
    kernel_type="tally",
    code=ringflow.KernelCodeSource.from_cuda(SOURCE, "tally"),
    messages=[Add, Total],
    regions=[ringflow.Region("total", dtype="uint64", shape=(1,))],
)


async def main() -> None:
    async with ringflow.open_engine("tally-state", devices=["host:0", "host:1"]) as engine:
        if not engine.kernels():  # in a folder that was used before, its kernels run by themselves
            await engine.launch(SPEC, device="host:0")
        kernel = engine.kernel("tally")
        for amount in range(1, 101):
            await kernel.send(Add(amount))  # in the journal when this returns
        here = engine.kernels()[0].device
        moved = await engine.migrate("tally", to="host:1" if here == "host:0" else "host:0")
        total = (await kernel.call(Add(0), timeout_s=10)).unpack(Total)
        print(f"{total.value} on {moved.target_device}, paused {moved.pause_s * 1000:.1f} ms")


if __name__ == "__main__":
    anyio.run(main)
