// XXH3-128 (seed 0) of each 64 KiB block of memory, one thread block a digest block at a time.
//
// Written from "xxHash fast digest algorithm" 0.2.0, the sections on XXH3; the names of steps and
// constants are its. Two properties of the sums carry the parallel form:
// - The 16 stripes of 1 KiB are added up from zero by a warp of their own; only the scrambles
//   between the sums run one after the other, and by then all memory has been read.
// - A word goes to its neighbour's accumulator as it is, its product to its own: both are added
//   up apart, and meet once a KiB.
#include <stdint.h>

namespace {

constexpr unsigned long long BLOCK_BYTES = 65536;
constexpr unsigned STRIPE_BYTES = 64, STRIPES = 16, STEP = 4, LANES = 8, WARPS = 8;
constexpr unsigned SUM_BYTES = STRIPE_BYTES * STRIPES, SUMS_MAX = BLOCK_BYTES / SUM_BYTES;
constexpr uint64_t PRIME32_1 = 0x9E3779B1, PRIME32_2 = 0x85EBCA77, PRIME32_3 = 0xC2B2AE3D;
constexpr uint64_t PRIME64_1 = 0x9E3779B185EBCA87, PRIME64_2 = 0xC2B2AE3D27D4EB4F;
constexpr uint64_t PRIME64_3 = 0x165667B19E3779F9, PRIME64_4 = 0x85EBCA77C2B2AE63;
constexpr uint64_t PRIME64_5 = 0x27D4EB2F165667C5;
constexpr uint64_t PRIME_MX1 = 0x165667919E3779F9, PRIME_MX2 = 0x9FB21C651E98DF25;

// The default secret: its 192 bytes as little-endian words.
__constant__ const uint64_t SECRET[24] = {
    0xbe4ba423396cfeb8, 0x1cad21f72c81017c, 0xdb979083e96dd4de, 0x1f67b3b7a4a44072,
    0x78e5c0cc4ee679cb, 0x2172ffcc7dd05a82, 0x8e2443f7744608b8, 0x4c263a81e69035e0,
    0xcb00c391bb52283c, 0xa32e531b8b65d088, 0x4ef90da297486471, 0xd8acdea946ef1938,
    0x3f349ce33f76faa8, 0x1d4f0bc7c7bbdcf9, 0x3159b4cd4be0518a, 0x647378d9c97e9fc8,
    0xc3ebd33483acc5ea, 0xeb6313faffa081c5, 0x49daf0b751dd0d17, 0x9e68d429265516d3,
    0xfca1477d58be162b, 0xce31d07ad1b8f88f, 0x280416958f3acb45, 0x7e404bbbcafbd7af};

struct digest128 {
    uint64_t low, high;
};

__device__ uint64_t secret64(unsigned offset_bytes) {
    const unsigned word = offset_bytes / 8, shift = offset_bytes % 8 * 8;
    if (shift == 0) return SECRET[word];
    return SECRET[word] >> shift | SECRET[word + 1] << (64 - shift);
}
__device__ uint64_t secret32(unsigned offset_bytes) {
    return secret64(offset_bytes) & 0xffffffff;
}

// Little-endian words from any address; a byte beside them is never touched.
__device__ uint64_t read32(const uint8_t* at) {
    return at[0] | at[1] << 8 | at[2] << 16 | static_cast<uint32_t>(at[3]) << 24;
}
__device__ uint64_t read64(const uint8_t* at) { return read32(at) | read32(at + 4) << 32; }
__device__ uint64_t read64_at(const uint8_t* at, bool aligned) {
    return aligned ? *reinterpret_cast<const uint64_t*>(at) : read64(at);
}

__device__ uint32_t swap32(uint32_t x) {
    return x >> 24 | (x >> 8 & 0xff00) | (x & 0xff00) << 8 | x << 24;
}
__device__ uint64_t swap64(uint64_t x) {
    return static_cast<uint64_t>(swap32(static_cast<uint32_t>(x))) << 32 |
           swap32(static_cast<uint32_t>(x >> 32));
}
__device__ uint64_t folded(uint64_t a, uint64_t b) { return a * b ^ __umul64hi(a, b); }
__device__ uint64_t product32(uint64_t x) { return (x & 0xffffffff) * (x >> 32); }
__device__ uint64_t avalanche(uint64_t x) {
    x = (x ^ x >> 37) * PRIME_MX1;
    return x ^ x >> 32;
}
__device__ uint64_t avalanche_xxh64(uint64_t x) {
    x = (x ^ x >> 33) * PRIME64_2;
    x = (x ^ x >> 29) * PRIME64_3;
    return x ^ x >> 32;
}

// ---- small inputs: 0 to 16 bytes --------------------------------------------------------------
__device__ digest128 digest_0() {
    return {avalanche_xxh64(secret64(64) ^ secret64(72)),
            avalanche_xxh64(secret64(80) ^ secret64(88))};
}
__device__ digest128 digest_1_to_3(const uint8_t* data, unsigned length) {
    const uint32_t combined = data[length - 1] | length << 8 | data[0] << 16 |
                              static_cast<uint32_t>(data[length >> 1]) << 24;
    const uint32_t swapped = swap32(combined);
    const uint32_t rotated = swapped << 13 | swapped >> 19;
    return {avalanche_xxh64((secret32(0) ^ secret32(4)) ^ combined),
            avalanche_xxh64((secret32(8) ^ secret32(12)) ^ rotated)};
}
__device__ digest128 digest_4_to_8(const uint8_t* data, unsigned length) {
    const uint64_t combined = read32(data) | read32(data + length - 4) << 32;
    const uint64_t value = (secret64(16) ^ secret64(24)) ^ combined;
    const uint64_t factor = PRIME64_1 + (length << 2);
    uint64_t low = value * factor;
    const uint64_t high = __umul64hi(value, factor) + (low << 1);
    low ^= high >> 3;
    low = (low ^ low >> 35) * PRIME_MX2;
    return {low ^ low >> 28, avalanche(high)};
}
__device__ digest128 digest_9_to_16(const uint8_t* data, unsigned length) {
    const uint64_t first = read64(data), last = read64(data + length - 8);
    const uint64_t value1 = (secret64(32) ^ secret64(40)) ^ first ^ last;
    const uint64_t value2 = (secret64(48) ^ secret64(56)) ^ last;
    uint64_t low = value1 * PRIME64_1 + (static_cast<uint64_t>(length - 1) << 54);
    const uint64_t high = __umul64hi(value1, PRIME64_1) + (value2 >> 32 << 32) +
                          (value2 & 0xffffffff) * PRIME32_2;
    low ^= swap64(high);
    return {avalanche(low * PRIME64_2),
            avalanche(__umul64hi(low, PRIME64_2) + high * PRIME64_2)};
}

// ---- medium inputs: 17 to 240 bytes -----------------------------------------------------------
__device__ uint64_t mix_step(const uint8_t* data, unsigned secret) {
    return folded(read64(data) ^ secret64(secret), read64(data + 8) ^ secret64(secret + 8));
}
__device__ void mix_two(digest128& sums, const uint8_t* data1, const uint8_t* data2,
                        unsigned secret) {
    sums.low += mix_step(data1, secret);
    sums.high += mix_step(data2, secret + 16);
    sums.low ^= read64(data2) + read64(data2 + 8);
    sums.high ^= read64(data1) + read64(data1 + 8);
}
__device__ digest128 digest_17_to_240(const uint8_t* data, unsigned length) {
    digest128 sums = {length * PRIME64_1, 0};
    if (length <= 128) {
        for (unsigned i = (length - 1) / 32 + 1; i-- > 0;)
            mix_two(sums, data + 16 * i, data + length - 16 * i - 16, 32 * i);
    } else {
        for (unsigned i = 0; i < 4; ++i) mix_two(sums, data + 32 * i, data + 32 * i + 16, 32 * i);
        sums = {avalanche(sums.low), avalanche(sums.high)};
        for (unsigned i = 4; i < length / 32; ++i)
            mix_two(sums, data + 32 * i, data + 32 * i + 16, 32 * (i - 4) + 3);
        mix_two(sums, data + length - 16, data + length - 32, 103);
    }
    const uint64_t high =
        sums.low * PRIME64_1 + sums.high * PRIME64_4 + static_cast<uint64_t>(length) * PRIME64_2;
    return {avalanche(sums.low + sums.high), 0 - avalanche(high)};
}
__device__ digest128 digest_up_to_240(const uint8_t* data, unsigned length) {
    if (length > 16) return digest_17_to_240(data, length);
    if (length > 8) return digest_9_to_16(data, length);
    if (length > 3) return digest_4_to_8(data, length);
    return length > 0 ? digest_1_to_3(data, length) : digest_0();
}

// ---- large inputs: 241 bytes to 64 KiB --------------------------------------------------------
__device__ uint64_t initial(unsigned lane) {
    switch (lane) {
    case 0: return PRIME32_3;
    case 1: return PRIME64_1;
    case 2: return PRIME64_2;
    case 3: return PRIME64_3;
    case 4: return PRIME64_4;
    case 5: return PRIME32_2;
    case 6: return PRIME64_5;
    default: return PRIME32_1;
    }
}
// A warp's: what up to 16 stripes add to the accumulators, lane by lane; its threads 0 to 7 use it.
// The keys are those of the stripes that a thread reads, ``STEP`` apart.
__device__ uint64_t sum_of_stripes(const uint8_t* data, unsigned stripe_count, bool aligned,
                                   const uint64_t* keys) {
    const unsigned lane = threadIdx.x % LANES, first = threadIdx.x / LANES % STEP;
    uint64_t words = 0, products = 0;
#pragma unroll
    for (unsigned i = 0; i < STRIPES / STEP; ++i) {
        const unsigned stripe = first + i * STEP;
        if (stripe < stripe_count) {
            const uint64_t word = read64_at(data + stripe * STRIPE_BYTES + lane * 8, aligned);
            words += word;
            products += product32(word ^ keys[i]);
        }
    }
    uint64_t sum = products + __shfl_xor_sync(0xffffffff, words, 1);
    sum += __shfl_xor_sync(0xffffffff, sum, 8);
    return sum + __shfl_xor_sync(0xffffffff, sum, 16);
}
__device__ uint64_t merged(const uint64_t* accumulators, uint64_t initial_value, unsigned secret) {
    uint64_t result = initial_value;
    for (unsigned i = 0; i < LANES; i += 2)
        result += folded(accumulators[i] ^ secret64(secret + 8 * i),
                         accumulators[i + 1] ^ secret64(secret + 8 * i + 8));
    return avalanche(result);
}
// The thread block's together: 256 threads, each of which sees the digest.
__device__ digest128 digest_from_241(const uint8_t* data, unsigned length) {
    __shared__ uint64_t sums[SUMS_MAX][LANES];
    __shared__ uint64_t accumulators[LANES];
    const bool aligned = reinterpret_cast<uintptr_t>(data) % 8 == 0;
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % LANES;
    const unsigned whole = (length - 1) / SUM_BYTES;
    const unsigned rest = (length - 1) % SUM_BYTES / STRIPE_BYTES;
    uint64_t keys[STRIPES / STEP];  // read once: threads that want different ones wait in turn
#pragma unroll
    for (unsigned i = 0; i < STRIPES / STEP; ++i)
        keys[i] = SECRET[threadIdx.x / LANES % STEP + i * STEP + lane];
    for (unsigned i = warp; i <= whole; i += WARPS) {
        const uint64_t sum =
            sum_of_stripes(data + i * SUM_BYTES, i < whole ? STRIPES : rest, aligned, keys);
        if (threadIdx.x % 32 < LANES) sums[i][lane] = sum;
    }
    __syncthreads();
    if (threadIdx.x < LANES) {
        uint64_t value = initial(lane);
        for (unsigned i = 0; i < whole; ++i) {
            value += sums[i][lane];
            value = (value ^ value >> 47 ^ SECRET[16 + lane]) * PRIME32_1;
        }
        const uint8_t* last = data + length - STRIPE_BYTES;
        value += sums[whole][lane] + product32(read64(last + 8 * lane) ^ secret64(121 + 8 * lane));
        accumulators[lane] = value + read64(last + 8 * (lane ^ 1));
    }
    __syncthreads();
    return {merged(accumulators, length * PRIME64_1, 11),
            merged(accumulators, ~(length * PRIME64_2), 117)};
}

}  // namespace

// Launch it with 256 threads a block and any number of blocks.
//
// data: uint8[size_bytes], at any address; digests: uint8[ceil(size_bytes / 65536)][16], at an
// address divisible by 8, each digest in its canonical (big-endian) form. Memory of any kind.
extern "C" __global__ void __launch_bounds__(256)
    ringflow_digest_blocks(const uint8_t* data, uint64_t size_bytes, uint64_t* digests) {
    const uint64_t count = (size_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
    for (uint64_t block = blockIdx.x; block < count; block += gridDim.x) {
        const uint64_t left = size_bytes - block * BLOCK_BYTES;
        const unsigned length = static_cast<unsigned>(left < BLOCK_BYTES ? left : BLOCK_BYTES);
        const uint8_t* start = data + block * BLOCK_BYTES;
        const digest128 digest =
            length > 240 ? digest_from_241(start, length) : digest_up_to_240(start, length);
        if (threadIdx.x == 0) {
            digests[2 * block] = swap64(digest.high);
            digests[2 * block + 1] = swap64(digest.low);
        }
        __syncthreads();  // the next block writes the shared sums
    }
}
