// Folds numbers into a state whose value depends on their order, and moves all cells a step.
#include <ringflow.cuh>
#include <ringflow_messages.cuh>

extern "C" __global__ void adder(ringflow::control* control, unsigned long long* state,
                                 float* cells, float step) {
    ringflow::kernel self(control);
    ringflow::message m;
    unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned threads = gridDim.x * blockDim.x;
    while (self.receive(m)) {
        switch (m.type) {
        case Add::id:
            for (unsigned i = thread; i < 4096; i += threads) cells[i] += step;
            if (self.leader()) {
                state[0] = state[0] * 6364136223846793005ull + m.as<Add>().value
                           + 1442695040888963407ull;
                state[1] += m.as<Add>().value;
                state[2] += 1;
                self.reply(m, state[0]);
            }
            break;
        case Total::id:
            if (self.leader()) self.reply(m, state[1]);
            break;
        case Spin::id: {
            float moved = cells[thread];
            for (unsigned long long i = 0; i < m.as<Spin>().rounds; ++i) {
                cells[thread] = moved * 0.5f + 1.0f;
                moved = cells[thread];
                self.sync();
            }
            if (self.leader()) self.reply(m, state[2]);
            break;
        }
        case Wait::id:
            if (self.leader()) {
                while (*static_cast<volatile unsigned long long*>(&state[3]) == 0) __nanosleep(10000);
            }
            self.sync();
            break;
        case Trap::id:
            __trap();
            break;
        }
    }
}
