// Answers about arrays, and with arrays.
#include <ringflow.cuh>

enum : unsigned {
    TELL = 1, DOUBLED = 2, COPY = 3, ECHO = 4, TWICE = 5, LATCH = 6, PLAIN = 7, ROOMS = 8
};

struct told {
    unsigned payload_bytes, first_byte, bulk_bytes, same;
    unsigned long long sum;
};

struct rooms {
    unsigned long long first, second, third;
};

extern "C" __global__ void arrays(ringflow::control* control, unsigned* latch) {
    ringflow::kernel self(control);
    ringflow::message m;
    while (self.receive(m)) {
        const unsigned* words = static_cast<const unsigned*>(m.bulk_data);
        unsigned count = m.bulk_size / 4;
        unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
        if (m.type == DOUBLED) {
            unsigned* to = static_cast<unsigned*>(self.reply_buffer());
            for (unsigned i = thread; i < count; i += gridDim.x * blockDim.x) to[i] = 2 * words[i];
            self.sync();
            if (self.leader()) self.reply_data(m, self.reply_buffer(), m.bulk_size);
        }
        if (m.type == ROOMS) {
            rooms told{self.reply_room(), 0, 0};
            self.sync();
            if (told.first != 0) {
                if (self.leader()) self.reply_data(m, words, m.bulk_size);
                self.sync();
                told.second = self.reply_room();
                self.sync();
                if (self.leader())
                    self.reply_data(m, words, m.bulk_size < told.second ? m.bulk_size : told.second);
                self.sync();
                told.third = self.reply_room();
            }
            atomicAdd(latch, (unsigned)(told.first + told.second + told.third));
            if (self.leader()) self.emit(ROOMS, told);
        }
        if (!self.leader()) continue;
        if (m.type == TELL) {
            told answer{m.size, 0, m.bulk_size, m.data == m.bulk_data, 0};
            if (m.size) answer.first_byte = m.as<unsigned char>();
            for (unsigned i = 0; i < count; ++i) answer.sum += words[i];
            self.reply(m, answer);
        }
        if (m.type == COPY) self.reply_data(m, m.sequence, m.bulk_data, m.bulk_size);
        if (m.type == ECHO) self.reply_data(m, m.data, m.size);
        if (m.type == TWICE) {
            self.reply_data(m, words, m.bulk_size / 2);
            self.reply_data(m, 2u, words + count / 2, m.bulk_size / 2);
        }
        if (m.type == LATCH)
            while (*(volatile unsigned*)latch == 0) __nanosleep(100);
        if (m.type == PLAIN) self.reply(m, m.size);
    }
    if (self.leader()) *latch += (unsigned)self.reply_room();
}
