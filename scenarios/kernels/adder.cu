// messages: Add:1(value:u64) Total:2 Spin:3(rounds:u64) Trap:4
// regions: state:uint64[3] cells:float32[64]=arange
// block: 32
// Folds numbers in an order-dependent way; state: hash, sum and count.
#include <ringflow.cuh>
#include <ringflow_messages.cuh>

extern "C" __global__ void adder(ringflow::control* control, unsigned long long* state,
                                 float* cells) {
    ringflow::kernel self(control);
    ringflow::message m;
    unsigned thread = threadIdx.x;
    while (self.receive(m)) {
        switch (m.type) {
        case Add::id:
            for (unsigned i = thread; i < 64; i += blockDim.x) cells[i] += 1.0f;
            if (self.leader()) {
                state[0] = state[0] * 31 + m.as<Add>().value;
                state[1] += m.as<Add>().value;
                state[2] += 1;
                self.reply(m, state[0]);
            }
            break;
        case Total::id:
            if (self.leader()) self.reply(m, state[1]);
            break;
        case Spin::id:
            for (unsigned long long i = 0; i < m.as<Spin>().rounds; ++i) {
                cells[thread] = cells[thread] * 0.5f + 1.0f;
                self.sync();
            }
            if (self.leader()) self.reply(m, state[2]);
            break;
        case Trap::id:
            __trap();
            break;
        }
    }
}
