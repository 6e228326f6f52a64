// Code that no compiler takes.
#include <ringflow.cuh>

extern "C" __global__ void adder(ringflow::control* control, no_such_type* state) {}
