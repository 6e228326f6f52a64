// tally_v1 with other constants, another initial total, and one more variable.
#include <ringflow.cuh>
#include <ringflow_messages.cuh>

__device__ unsigned long long total = 7;
__device__ unsigned added = 40;
namespace tally_parts {
__device__ float weights[3];
}
__device__ const unsigned steps[4] = {2, 2, 2, 2};

__device__ __noinline__ unsigned called() {
    static unsigned calls;
    return ++calls;
}

extern "C" __global__ void tally(ringflow::control* control, unsigned long long* shown) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.receive(m)) {
        if (!self.leader()) continue;
        if (m.type == Add::id) {
            total += m.as<Add>().value * steps[m.size % 4];
            tally_parts::weights[called() % 3] += 0.5f;
            printf("v2 %s %llu\n", m.sequence % 2 ? "odd" : "even", total);
            shown[0] = total + ++added;
        } else {
            self.reply(m, total);
        }
    }
}
