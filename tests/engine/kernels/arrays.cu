// Folds arrays into a state that depends on their order, and answers with arrays.
#include <ringflow.cuh>
#include <ringflow_messages.cuh>

extern "C" __global__ void arrays(ringflow::control* control, unsigned long long* state,
                                  volatile unsigned* latch) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.receive(m)) {
        const unsigned char* bytes = static_cast<const unsigned char*>(m.bulk_data);
        unsigned thread = blockIdx.x * blockDim.x + threadIdx.x, all = gridDim.x * blockDim.x;
        if (m.type == Fold::id) {
            if (self.leader()) {
                unsigned long long sum = m.as<Fold>().salt;
                for (unsigned i = 0; i < m.bulk_size; ++i) sum += (i + 1ull) * bytes[i];
                state[0] = state[0] * 6364136223846793005ull + sum;
                state[1] += 1;
                self.reply(m, state[0]);
            }
        } else if (m.type == Mirror::id && m.bulk_size <= self.reply_room()) {
            unsigned char* to = static_cast<unsigned char*>(self.reply_buffer());
            for (unsigned i = thread; i < m.bulk_size; i += all) to[i] = bytes[i] ^ 0xFF;
            self.sync();
            if (self.leader()) {
                state[1] += 1;
                self.reply_data(m, state[1], to, m.bulk_size);
            }
        } else if (self.leader()) {
            if (m.type == Wait::id)
                while (*latch == 0) __nanosleep(1000);
            state[1] += 1;
            self.reply(m, state[0]);
        }
    }
}
