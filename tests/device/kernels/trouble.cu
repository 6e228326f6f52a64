// Does on request what kernels should not do.
#include <ringflow.cuh>

enum : unsigned { ECHO = 1, TRAP = 2, SPIN = 3, FLOOD = 4, MANY = 5, HUGE_REPLY = 6, LATCH = 7, LEAVE = 8 };
enum : unsigned { LATCH_OTHERS = 9 };

extern "C" __global__ void trouble(ringflow::control* control, unsigned* stop) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.receive(m)) {
        if (m.type == LEAVE) {
            while (*(volatile unsigned*)&stop[2] == 0) __nanosleep(100);
            return;
        }
        if (m.type == LATCH_OTHERS && blockIdx.x != 0)
            while (*(volatile unsigned*)&stop[2] == 0) __nanosleep(100);
        if (!self.leader()) continue;
        unsigned count = m.size ? m.as<unsigned>() : 0;
        if (m.type == ECHO) self.reply(m, count);
        if (m.type == TRAP) asm volatile("trap;");
        if (m.type == SPIN) {
            unsigned value = stop[0];
            for (unsigned long long i = 0; i < ~0ull; ++i) value = (value * 3 + 1) ^ (value >> 7);
            stop[1] = value;
        }
        if (m.type == LATCH)
            while (*(volatile unsigned*)&stop[2] == 0) __nanosleep(100);
        if (m.type == FLOOD) {
            unsigned sent = 0;
            for (unsigned i = 0; i < count; ++i) sent += self.emit(FLOOD, i);
            self.reply(m, sent);
        }
        if (m.type == MANY)
            for (unsigned i = 0; i < count; ++i) self.reply(m, i);
        if (m.type == HUGE_REPLY) self.reply(m, stop, count);
    }
}
