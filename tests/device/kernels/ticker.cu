// Emits and sends by turns at every step, and again in each message, which it answers.
#include <ringflow.cuh>

enum : unsigned { TICK = 7 };

extern "C" __global__ void ticker(ringflow::control* control, unsigned long long* ticks) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.step()) {
        while (self.poll(m)) {
            if (!self.leader()) continue;
            self.emit(m.type, ticks[0]);
            self.send_to(1, m.type, ticks[0]);
            self.reply(m, ticks[0]);
        }
        if (!self.leader()) continue;
        if (ticks[0] & 1 ? self.emit(TICK, ticks[0]) : self.send_to(1, TICK, ticks[0])) ticks[0] += 1;
    }
}
