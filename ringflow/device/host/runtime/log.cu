// What kernels print: messages into a ring of slots, which the host reads and puts into words.
//
// - Nobody ever waits: the newest messages overwrite the oldest, and a message is lost if another
//   thread is writing to its slot at that moment.
// - A slot's stamp is odd while it is written; afterwards it tells which message lies there.
// - A message is its format as text, then each argument: 8 bytes, or a string with its end.

#include "cta.cuh"

enum : u32 { SLOTS = 128, DATA_BYTES = 480 };

struct Slot {
    u64 stamp;
    u32 index[3], thread, bytes, truncated;
    char data[DATA_BYTES];
};
struct Log {
    u64 next;
    u64 reserved[7];
    Slot slot[SLOTS];
};

INLINE u64 load_acquire(const u64* word) {
    u64 value;
    asm volatile("ld.acquire.sys.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
    return value;
}

INLINE void store_release(u64* word, u64 value) {
    asm volatile("st.release.sys.u64 [%0], %1;" : : "l"(word), "l"(value) : "memory");
}

INLINE u64 swap(u64* word, u64 expected, u64 desired) {
    u64 before;
    asm volatile("atom.acq_rel.sys.cas.b64 %0, [%1], %2, %3;"
                 : "=l"(before) : "l"(word), "l"(expected), "l"(desired) : "memory");
    return before;
}

INLINE u64 add(u64* word, u64 value) {
    u64 before;
    asm volatile("atom.acq_rel.sys.add.u64 %0, [%1], %2;"
                 : "=l"(before) : "l"(word), "l"(value) : "memory");
    return before;
}

// Appends a text and its end; a text that is too long loses its last part.
static DEVICE __attribute__((noinline)) void put_text(Slot* slot, const char* text) {
    if (!text) text = "(null)";
    u32 at = slot->bytes;
    if (at >= DATA_BYTES) {
        slot->truncated = 1;
        return;
    }
#pragma unroll 1
    while (*text && at < DATA_BYTES - 1) slot->data[at++] = *text++;
    if (*text) slot->truncated = 1;
    slot->data[at] = 0;
    slot->bytes = at + 1;
}

static DEVICE __attribute__((noinline)) void put_word(Slot* slot, u64 word) {
    if (slot->bytes + 8 > DATA_BYTES) {
        slot->truncated = 1;
        return;
    }
#pragma unroll 1
    for (u32 i = 0; i < 8; ++i) slot->data[slot->bytes++] = (char)(word >> (8 * i));
}

INLINE bool is_digit(char c) { return c >= '0' && c <= '9'; }
INLINE bool is_flag(char c) { return c == '-' || c == '+' || c == ' ' || c == '#' || c == '0'; }
INLINE bool is_length(char c) {
    return c == 'h' || c == 'l' || c == 'j' || c == 'z' || c == 't' || c == 'L';
}

struct Arguments {
    const char* at;
    u32 count;
};

INLINE u64 take(Arguments& arguments, u32 bytes) {
    arguments.at = (const char*)(((u64)arguments.at + bytes - 1) & ~(u64)(bytes - 1));
    u64 value = bytes == 8 ? *(const u64*)arguments.at : *(const u32*)arguments.at;
    arguments.at += bytes;
    ++arguments.count;
    return value;
}

// Skips a width or precision; one given as an argument is put like any other.
INLINE const char* number(Slot* slot, const char* p, Arguments& arguments) {
    if (*p == '*') {
        put_word(slot, take(arguments, 4));
        return p + 1;
    }
#pragma unroll 1
    while (is_digit(*p)) ++p;
    return p;
}

static DEVICE __attribute__((noinline)) u32 put_all(
    Slot* slot, const char* format, const char* first) {
    Arguments arguments{first, 0};
#pragma unroll 1
    for (const char* p = format; *p; ++p) {
        if (*p != '%') continue;
        ++p;
#pragma unroll 1
        while (is_flag(*p)) ++p;
        p = number(slot, p, arguments);
        if (*p == '.') p = number(slot, p + 1, arguments);
        bool wide = false;
#pragma unroll 1
        for (; is_length(*p); ++p) wide |= *p != 'h';
        if (!*p) break;
        if (*p == '%') continue;
        if (*p == 's') {
            put_text(slot, (const char*)take(arguments, 8));
            continue;
        }
        bool four = *p == 'd' || *p == 'i' || *p == 'u' || *p == 'x' || *p == 'X' || *p == 'o' ||
                    *p == 'c';
        put_word(slot, take(arguments, four && !wide ? 4 : 8));
    }
    return arguments.count;
}

// Returns the number of arguments, or -1 if the message is lost.
EXPORT int ringflow_print(Header* cta, u32 thread, const char* format, const char* arguments) {
    Log* log = (Log*)cta->log;
    if (!log) return -1;
    u64 ticket = add(&log->next, 1);
    Slot* slot = &log->slot[ticket % SLOTS];
    u64 stamp = load_acquire(&slot->stamp);
    if (stamp & 1 || stamp > 2 * ticket) return -1;
    if (swap(&slot->stamp, stamp, 2 * ticket + 1) != stamp) return -1;
#pragma unroll 1
    for (u32 i = 0; i < 3; ++i) slot->index[i] = cta->index[i];
    slot->thread = thread;
    slot->bytes = slot->truncated = 0;
    put_text(slot, format);
    u32 count = slot->truncated ? 0 : put_all(slot, format, arguments);
    store_release(&slot->stamp, 2 * ticket + 2);
    return (int)count;
}
