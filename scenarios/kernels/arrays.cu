// messages: Fold:1(salt:u64) Mirror:2 Spin:3(rounds:u64) Trap:4
// regions: state:uint64[2]
// bulk_bytes: 4096
// max_reply_data_bytes: 1024
// reply_bulk_bytes: 8192
// block: 32
// Folds arrays into a hash that depends on their order, and gives arrays back inverted.
#include <ringflow.cuh>
#include <ringflow_messages.cuh>

extern "C" __global__ void arrays(ringflow::control* control, unsigned long long* state) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.receive(m)) {
        const unsigned char* bytes = static_cast<const unsigned char*>(m.bulk_data);
        if (m.type == Fold::id && self.leader()) {
            unsigned long long sum = m.as<Fold>().salt;
            for (unsigned i = 0; i < m.bulk_size; ++i) sum += bytes[i];
            state[0] = state[0] * 31 + sum;
            state[1] += 1;
            self.reply(m, state[0]);
        } else if (m.type == Mirror::id) {
            unsigned char* to = static_cast<unsigned char*>(self.reply_buffer());
            bool fits = m.bulk_size <= self.reply_room();
            for (unsigned i = threadIdx.x; fits && i < m.bulk_size; i += blockDim.x)
                to[i] = bytes[i] ^ 0xFF;
            self.sync();
            if (self.leader()) self.reply_data(m, ++state[1], to, m.bulk_size);
        } else if (m.type == Spin::id) {
            for (unsigned long long i = 0; i < m.as<Spin>().rounds; ++i) self.sync();
            if (self.leader()) self.reply(m, state[1]);
        } else if (m.type == Trap::id) {
            __trap();
        }
    }
}
