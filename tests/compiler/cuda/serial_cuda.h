// CUDA's kernels on a CPU, one thread after the other: a fiber for each thread of a block, which
// goes on to the next barrier. The order of the threads between barriers is a permutation.
#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <vector>
using std::min;
#define __global__
#define __device__ static
#define __forceinline__ inline
// Shared memory is in a section of its own, so that it can be filled with NaN before each block.
#define __shared__ static __attribute__((section("shared_memory")))
extern "C" {
extern char __start_shared_memory[] __attribute__((weak, visibility("hidden")));
extern char __stop_shared_memory[] __attribute__((weak, visibility("hidden")));
}
struct Index {
  unsigned x = 1, y = 1, z = 1;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

namespace serial {
static std::vector<ucontext_t> fibers;
static ucontext_t home;
static std::vector<char> alive;
static char* stacks;
static std::vector<unsigned> order;
static unsigned now, waiting;
static void (*body)(char**);
static char** arguments;

// Contexts begin a fiber; jumps, which are no system calls, go on with it. The address sanitizer
// knows contexts alone.
#ifdef __SANITIZE_ADDRESS__
static std::vector<char> places;
static void leave() { swapcontext(&fibers[now], &home); }
static void enter(bool) { swapcontext(&home, &fibers[now]); }
#else
static jmp_buf back;
struct Place {
  jmp_buf at;
};
static std::vector<Place> places;
static void leave() {
  if (!_setjmp(places[now].at)) _longjmp(back, 1);
}
static void enter(bool first) {
  if (_setjmp(back)) return;
  if (first) setcontext(&fibers[now]);
  _longjmp(places[now].at, 1);
}
#endif

static void run() {
  body(arguments);
  alive[now] = 0;
  leave();
}
static void barrier() {
  waiting++;
  leave();
}
__attribute__((no_sanitize("address"))) static void forget() {
  volatile char* end = __stop_shared_memory;
  for (volatile char* at = __start_shared_memory; at != end; at++) *at = -1;
}
// Returns 1 if some threads of a block wait at a barrier that others never reach.
static int launch(void (*f)(char**), char** given, unsigned gx, unsigned gy, unsigned bx,
                  unsigned by, unsigned seed, bool waits) {
  const size_t stack = 65536, most = 1024;
  const unsigned threads = bx * by;
  body = f, arguments = given;
  gridDim.x = gx, gridDim.y = gy, blockDim.x = bx, blockDim.y = by;
  if (!stacks) stacks = (char*)malloc(stack * most);
  fibers.resize(threads), places.resize(threads);
  ucontext_t here;
  getcontext(&here);
  unsigned long long state = seed * 6364136223846793005ull + 1442695040888963407ull;
  auto shuffle = [&](std::vector<unsigned>& numbers) {
    for (size_t i = numbers.size() - 1; seed && i > 0; i--) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      std::swap(numbers[i], numbers[(state >> 33) % (i + 1)]);
    }
  };
  std::vector<unsigned> blocks(gx * gy);
  for (unsigned b = 0; b < gx * gy; b++) blocks[b] = b;
  shuffle(blocks);
  for (unsigned b : blocks) {
    blockIdx.x = b % gx, blockIdx.y = b / gx;
    order.resize(threads);
    for (unsigned t = 0; t < threads; t++) order[t] = t;
    if (!waits) {
      shuffle(order);
      for (unsigned t : order) {
        threadIdx.x = t % bx, threadIdx.y = t / bx;
        f(given);
      }
      continue;
    }
    forget();
    alive.assign(threads, 1);
    for (unsigned t = 0; t < threads; t++) {
      fibers[t] = here;
      fibers[t].uc_stack.ss_sp = &stacks[stack * t];
      fibers[t].uc_stack.ss_size = stack;
      fibers[t].uc_link = &home;
      makecontext(&fibers[t], run, 0);
    }
    bool first = true;
    for (unsigned left = threads; left; first = false) {
      shuffle(order);
      waiting = 0;
      unsigned before = left;
      for (unsigned t : order) {
        if (!alive[t]) continue;
        now = t;
        threadIdx.x = t % bx, threadIdx.y = t / bx;
        enter(first);
        if (!alive[t]) left--;
      }
      if (waiting && waiting != before) return 1;
    }
  }
  return 0;
}
}  // namespace serial

static inline void __syncthreads() { serial::barrier(); }
static inline void __threadfence() {}
static inline unsigned atomicAdd(unsigned* to, unsigned n) {
  unsigned old = *to;
  *to += n;
  return old;
}
