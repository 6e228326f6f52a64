// A persistent kernel in the bare: thread 0 polls a mailbox, all threads work, thread 0 answers.
enum Command : unsigned { ADD = 1, SCALE = 2, SUM = 3, STOP = 4 };

struct Mailbox {
  unsigned sequence, command;
  int argument;
  unsigned answered;
  int answer;
};

extern "C" __global__ void actor(Mailbox* box, int* state, int n) {
  __shared__ unsigned command;
  __shared__ int argument, total;
  volatile Mailbox* mailbox = box;
  unsigned done = 0;
  for (;;) {
    if (threadIdx.x == 0) {
      while (mailbox->sequence == done) __nanosleep(200);
      __threadfence_system();
      command = mailbox->command;
      argument = mailbox->argument;
      total = 0;
    }
    __syncthreads();
    ++done;
    if (command == STOP) break;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
      if (command == ADD) state[i] += argument;
      if (command == SCALE) state[i] *= argument;
      if (command == SUM) atomicAdd(&total, state[i]);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      mailbox->answer = total;
      __threadfence_system();
      mailbox->answered = done;
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) mailbox->answered = done;
}
