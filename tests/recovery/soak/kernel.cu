// Folds numbers into a state that depends on their order and on the code's FACTOR.
#include <ringflow.cuh>
#include <ringflow_messages.cuh>

extern "C" __global__ void soak(ringflow::control* control, unsigned long long* state,
                                float* cells) {
    ringflow::kernel self(control);
    ringflow::message m;
    unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned threads = gridDim.x * blockDim.x;
    unsigned handled = 0;
    while (self.receive(m)) {
        switch (m.type) {
        case Fold::id: {
            unsigned long long value = m.as<Fold>().value;
            for (unsigned i = thread; i < CELLS; i += threads)
                cells[i] = cells[i] * 0.5f + (float)(value & 1023);
            if (self.leader()) {
                state[0] = state[0] * 6364136223846793005ull + value * FACTOR
                           + 1442695040888963407ull;
                state[1] += value * FACTOR;
                state[2] += 1;
                if (++handled == TRAP_AT) __trap();
                self.reply(m, state[0]);
                if (value & 1) self.reply(m, state[1]);
            }
            break;
        }
        case Probe::id:
            if (self.leader()) self.reply(m, state[2]);
            break;
        case Poison::id:
            if (self.leader()) state[1] = 0;
            __trap();
            break;
        }
    }
}
