// A variable that holds the address of one of two others: it means nothing in other memory.
#include <ringflow.cuh>
#include <ringflow_messages.cuh>

__device__ unsigned long long here, there;
__device__ unsigned long long* current = &here;

extern "C" __global__ void tally(ringflow::control* control, unsigned long long* shown) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.receive(m)) {
        if (!self.leader()) continue;
        if (m.type == Add::id) {
            *current += m.as<Add>().value;
            current = current == &here ? &there : &here;
            shown[0] = here * 1000 + there;
        } else {
            self.reply(m, here * 1000 + there);
        }
    }
}
