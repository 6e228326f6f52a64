// messages: Add:1(value:u64) Total:2 Hop:3(left:u64) Trap:4
// regions: state:uint64[3]
// routes: next log(Add)
// max_replies: 2
// block: 32
// Folds numbers in their order and sends each on, tenfold, along `next`; Hop goes on until 0 is
// left. State: hash, sum and count.
#include <ringflow.cuh>
#include <ringflow_messages.cuh>

extern "C" __global__ void relay(ringflow::control* control, unsigned long long* state) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.receive(m)) {
        if (!self.leader()) continue;
        switch (m.type) {
        case Add::id:
            state[0] = state[0] * 31 + m.as<Add>().value;
            state[1] += m.as<Add>().value;
            state[2] += 1;
            self.send_to(routes::next, Add{m.as<Add>().value * 10});
            self.reply(m, state[0]);
            break;
        case Total::id:
            self.reply(m, state[1]);
            break;
        case Hop::id:
            state[2] += 1;
            if (m.as<Hop>().left > 0) self.send_to(routes::next, Hop{m.as<Hop>().left - 1});
            break;
        case Trap::id:
            __trap();
            break;
        }
    }
}
