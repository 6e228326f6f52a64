// Several blocks hand a field on to each other: each step adds the neighbour's value, between two
// grid barriers, so that a missing barrier shows as a wrong number.
#include <ringflow.cuh>

struct Sweep {
    static constexpr unsigned id = 1;
    unsigned steps;
};

extern "C" __global__ void sweep(ringflow::control* control, unsigned* field, unsigned* next,
                                 unsigned long long* sums, unsigned length) {
    ringflow::kernel self(control);
    ringflow::message m;
    unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned threads = gridDim.x * blockDim.x;
    while (self.receive(m)) {
        if (m.type != Sweep::id) continue;
        unsigned steps = m.as<Sweep>().steps;
        for (unsigned step = 0; step < steps; ++step) {
            for (unsigned i = thread; i < length; i += threads)
                next[i] = field[i] + field[i + 1 < length ? i + 1 : 0] + 1;
            self.sync();
            for (unsigned i = thread; i < length; i += threads) field[i] = next[i];
            self.sync();
        }
        if (self.leader()) {
            unsigned long long sum = 0;
            for (unsigned i = 0; i < length; ++i) sum += field[i];
            sums[0] = sum;
            self.reply(m, sum);
        }
    }
}
