// regions: ticks:uint64[1]
// block: 32
// replay: checkpoint
// It steps without messages, and emits 1, 2 and 3.
#include <ringflow.cuh>

extern "C" __global__ void ticks(ringflow::control* control, unsigned long long* ticks) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.step()) {
        while (self.poll(m)) self.sync();
        if (self.leader() && ticks[0] < 3 && self.emit(9, ticks[0] + 1)) ticks[0] += 1;
    }
}
