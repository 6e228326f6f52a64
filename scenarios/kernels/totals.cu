// messages: Add:1(value:u64) Total:2
// block: 32
// Its state is a variable of the code, no region is declared.
#include <ringflow.cuh>
#include <ringflow_messages.cuh>

__device__ unsigned long long total = 100;

extern "C" __global__ void totals(ringflow::control* control) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.receive(m)) {
        if (!self.leader()) continue;
        if (m.type == Add::id) total += m.as<Add>().value;
        self.reply(m, total);
    }
}
