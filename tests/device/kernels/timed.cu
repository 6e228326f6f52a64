// Works for as long as each message says, by the device's clock, and answers how long it was.
#include <ringflow.cuh>

struct Work {
    static constexpr unsigned id = 1;
    unsigned long long duration_ns;
};

extern "C" __global__ void timed(ringflow::control* control) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.receive(m)) {
        if (m.type != Work::id || !self.leader()) continue;
        unsigned long long began = ringflow::globaltimer_ns(), now = began;
        while (now - began < m.as<Work>().duration_ns) now = ringflow::globaltimer_ns();
        self.reply(m, now - began);
    }
}
