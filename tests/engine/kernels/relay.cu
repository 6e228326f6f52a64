// Folds numbers in their order, and passes each on along its first route as often as it is told.
#include <ringflow.cuh>
#include <ringflow_messages.cuh>

extern "C" __global__ void relay(ringflow::control* control, unsigned long long* state,
                                 unsigned long long copies) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.receive(m)) {
        if (!self.leader()) continue;
        switch (m.type) {
        case Add::id: {
            unsigned long long value = m.as<Add>().value;
            state[0] = state[0] * 6364136223846793005ull + value + 1442695040888963407ull;
            state[1] += value;
            state[2] += 1;
            for (unsigned long long copy = 0; copy < copies; ++copy)
                self.send_to(routes::next, Add{value * 10 + copy});
            self.reply(m, state[0]);
            break;
        }
        case Total::id:
            self.reply(m, state[1]);
            break;
        case Hop::id:
            state[3] += 1;
            if (m.as<Hop>().left > 0) self.send_to(routes::next, Hop{m.as<Hop>().left - 1});
            break;
        case Trap::id:
            __trap();
            break;
        }
    }
}
