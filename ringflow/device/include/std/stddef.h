// size_t, ptrdiff_t and NULL are known to both front ends.
#pragma once
#define offsetof(type, member) __builtin_offsetof(type, member)
