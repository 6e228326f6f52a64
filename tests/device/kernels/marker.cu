// Writes to regions and marks what it writes: before the loop, by message, in every step, after it.
#include <ringflow.cuh>

struct Write {  // each thread one cell: thread number * stride + first, in 4-byte cells
    static constexpr unsigned id = 1;
    unsigned first, stride;
};
struct Mark {  // one thread marks a range, from a region's start; region 2: the variable
    static constexpr unsigned id = 2;
    unsigned region;
    int offset;
    unsigned long long size;
};
struct Sweep {  // from here on each thread writes a cell in every step, the next one
    static constexpr unsigned id = 3;
    unsigned stride;
};

__device__ unsigned extra[20000];

extern "C" __global__ void marker(ringflow::control* control, unsigned* large, unsigned* small,
                                  unsigned length) {
    ringflow::kernel self(control);
    ringflow::message m;
    unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned threads = gridDim.x * blockDim.x, stride = 0;
    if (self.leader()) {
        small[0] += 1;
        self.mark(&small[0], 4);
    }
    for (unsigned step = 0; self.step(); ++step) {
        while (self.poll(m)) {
            if (m.type == Write::id) {
                unsigned cell = (thread * m.as<Write>().stride + m.as<Write>().first) % length;
                atomicAdd(&large[cell], 1);
                self.mark(&large[cell], 4);
            } else if (m.type == Mark::id) {
                const Mark& asked = m.as<Mark>();
                unsigned* memory = asked.region == 0 ? large : asked.region == 1 ? small : extra;
                if (thread == threads - 1)
                    self.mark(reinterpret_cast<unsigned char*>(memory) + asked.offset, asked.size);
                if (asked.size == ~0ull) extra[0] = 1;
            } else {
                stride = m.as<Sweep>().stride;
            }
            self.sync();
            if (self.leader()) self.reply(m, step);
        }
        if (stride == 0) continue;
        unsigned cell = (unsigned)((step * (unsigned long long)threads + thread) * stride % length);
        self.mark(&large[cell], 4);  // before the store here, after it above
        large[cell] += 1;
    }
    small[thread % 16] += 1;
    self.mark(&small[thread % 16], 4);
}
