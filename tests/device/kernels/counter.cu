// Adds each message's number to a total, and keeps how many there were after the loop.
#include <ringflow.cuh>

struct Add {
    static constexpr unsigned id = 1;
    unsigned long long amount;
};

struct Total {
    static constexpr unsigned id = 2;
    unsigned long long total, count;
};

extern "C" __global__ void counter(ringflow::control* control, unsigned long long* total,
                                   unsigned long long* saved) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.receive(m)) {
        if (m.type == Add::id && self.leader()) {
            total[0] += m.as<Add>().amount;
            total[1] += 1;
            self.reply(m, Total{total[0], total[1]});
        }
    }
    if (self.leader()) saved[0] = total[1];
}
