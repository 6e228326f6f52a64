// messages: Add:1(value:u64) Total:2 Spin:3(rounds:u64) Trap:4
// regions: state:uint64[3] cells:float32[64]=arange
// block: 32
// entry: adder
// The adder with kernels that convert its old regions: one traps, one writes where it must not.
#include <ringflow.cuh>
#include <ringflow_messages.cuh>

extern "C" __global__ void adder(ringflow::control* control, unsigned long long* state,
                                 float* cells) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.receive(m)) {
        if (m.type == Add::id && self.leader()) {
            state[1] += m.as<Add>().value;
            self.reply(m, state[1]);
        } else if (m.type == Total::id && self.leader()) {
            self.reply(m, state[1]);
        }
    }
}

extern "C" __global__ void trapping(unsigned long long* old_state, float* old_cells,
                                    unsigned long long* state, float* cells) {
    __trap();
}

extern "C" __global__ void careless(unsigned long long* old_state, float* old_cells,
                                    unsigned long long* state, float* cells) {
    if (threadIdx.x == 0) state[1] = 0;
}
