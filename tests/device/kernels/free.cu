// Runs free between messages: counts its steps, and takes messages as they come.
#include <ringflow.cuh>

extern "C" __global__ void free_running(ringflow::control* control, unsigned long long* steps) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.step()) {
        while (self.poll(m)) {
            if (self.leader()) self.reply(m, steps[0]);
        }
        if (self.leader()) steps[0] += 1;
    }
}
