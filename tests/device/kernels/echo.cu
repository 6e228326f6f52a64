// Answers each message with its own payload.
#include <ringflow.cuh>

extern "C" __global__ void echo(ringflow::control* control) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.receive(m)) {
        if (self.leader()) self.reply(m, m.data, m.size);
    }
}
