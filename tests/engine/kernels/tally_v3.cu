// tally_v1 with five weights in place of three, and a kernel that takes the three over.
#include <ringflow.cuh>
#include <ringflow_messages.cuh>

__device__ unsigned long long total = 100;
namespace tally_parts {
__device__ float weights[5];
}
__device__ const unsigned steps[4] = {1, 1, 1, 1};

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
            tally_parts::weights[called() % 5] += 0.5f;
            printf("v3 %s %llu\n", m.sequence % 2 ? "odd" : "even", total);
            shown[0] = total;
        } else {
            self.reply(m, total);
        }
    }
}

extern "C" __global__ void widen(unsigned long long* shown, unsigned long long* new_shown,
                                 const float* weights) {
    if (blockIdx.x | threadIdx.x) return;
    for (unsigned i = 0; i < 3; ++i) tally_parts::weights[i] = weights[i] * 10;
    *new_shown = *shown;
}
