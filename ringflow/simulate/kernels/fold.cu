// messages: Fold:1(value:u64) Probe:2 Spin:3(rounds:u64) Trap:4
// regions: state:uint64[4]
// block: 32
// entry: fold
// type: fold
// max_replies: 2
// Folds numbers into a state that depends on their order and on the code's FACTOR.
// state: hash, sum, count, conversions. ringflow/simulate/reference.py has the same in Python.
#include <ringflow.cuh>
#include <ringflow_messages.cuh>
#ifndef FACTOR
#define FACTOR 1
#endif
#ifndef TRAP_AT
#define TRAP_AT 0
#endif

extern "C" __global__ void fold(ringflow::control* control, unsigned long long* state) {
    ringflow::kernel self(control);
    ringflow::message m;
    unsigned handled = 0;
    while (self.receive(m)) {
        if (m.type == Spin::id)  // work that takes long, so that others wait behind it
            for (unsigned long long i = 0; i < m.as<Spin>().rounds; ++i) self.sync();
        if (!self.leader()) continue;
        if (m.type == Fold::id) {
            unsigned long long term = m.as<Fold>().value * FACTOR;
            state[0] = state[0] * 6364136223846793005ull + term + 1442695040888963407ull;
            state[1] += term;
            state[2] += 1;
            if (++handled == TRAP_AT) __trap();
            self.reply(m, state[0]);
            if (m.as<Fold>().value & 1) self.reply(m, state[1]);
        } else if (m.type == Probe::id || m.type == Spin::id) {
            self.reply(m, state[2]);
        } else {
            state[0] = 0;
            __trap();
        }
    }
}

extern "C" __global__ void carry(const unsigned long long*, unsigned long long* state) {
    if (blockIdx.x == 0 && threadIdx.x == 0) state[3] += 1;
}
