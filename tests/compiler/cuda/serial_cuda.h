// CUDA's kernels on a CPU, one thread after the other: a fiber for each thread of a block, which
// goes on to the next barrier. The order of the threads between barriers is a permutation.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmath>
#define __global__
#define __device__ static
#define __forceinline__ inline
struct Index {
  unsigned x = 1, y = 1, z = 1;
};
extern Index threadIdx, blockIdx, blockDim, gridDim;
static inline int min(int a, int b) { return a < b ? a : b; }

namespace serial {
void barrier();
// Returns 1 if some threads of a block wait at a barrier that others never reach. With a seed,
// several blocks run at once, a few threads of the one after a few of the other. The kernel's shared
// memory is a section of its own, so that each block can have its own values.
int launch(void (*f)(char**), char** given, unsigned gx, unsigned gy, unsigned bx, unsigned by,
           unsigned seed, bool waits, char* shared, size_t size);
}  // namespace serial

static inline void __syncthreads() { serial::barrier(); }
static inline void __threadfence() {}
static inline unsigned atomicAdd(unsigned* to, unsigned n) {
  unsigned old = *to;
  *to += n;
  return old;
}

#ifdef SERIAL_RUNTIME  // compiled once, for all kernels
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <vector>
Index threadIdx, blockIdx, blockDim, gridDim;

namespace serial {
static std::vector<ucontext_t> fibers;
static ucontext_t home;
static std::vector<char> alive;
static char* stacks;
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
void barrier() {
  waiting++;
  leave();
}

// A block that has begun; `shared` is its shared memory while another block runs.
struct Block {
  unsigned number, slot, left = 0, next = 0, before = 0, waiting = 0;
  bool first = true;
  std::vector<unsigned> order;
  std::vector<char> shared;
};
__attribute__((no_sanitize("address"))) static void copy(char* to, const char* from, size_t n) {
  volatile char* end = to + n;
  for (volatile char* at = to; at != end; at++) *at = *from++;
}

int launch(void (*f)(char**), char** given, unsigned gx, unsigned gy, unsigned bx,
                  unsigned by, unsigned seed, bool waits, char* shared, size_t size) {
  const size_t stack = 65536, most = 1024;
  const unsigned threads = bx * by, together = seed ? most / 256 : 1;
  body = f, arguments = given;
  gridDim.x = gx, gridDim.y = gy, blockDim.x = bx, blockDim.y = by;
  unsigned long long state = seed * 6364136223846793005ull + 1442695040888963407ull;
  auto draw = [&](unsigned n) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (unsigned)((state >> 33) % n);
  };
  auto shuffle = [&](std::vector<unsigned>& numbers) {
    for (size_t i = numbers.size() - 1; seed && i > 0; i--) std::swap(numbers[i], numbers[draw(i + 1)]);
  };
  std::vector<unsigned> blocks(gx * gy), order(threads);
  for (unsigned b = 0; b < gx * gy; b++) blocks[b] = b;
  for (unsigned t = 0; t < threads; t++) order[t] = t;
  shuffle(blocks);
  if (!waits) {
    for (unsigned b : blocks) {
      blockIdx.x = b % gx, blockIdx.y = b / gx;
      shuffle(order);
      for (unsigned t : order) {
        threadIdx.x = t % bx, threadIdx.y = t / bx;
        f(given);
      }
    }
    return 0;
  }
  if (!stacks) stacks = (char*)malloc(stack * most);
  fibers.resize(most), places.resize(most), alive.resize(most);
  ucontext_t here;
  getcontext(&here);
  std::vector<Block> running;
  size_t begun = 0;
  unsigned chosen = 0;
  unsigned inside = ~0u;  // the slot of the block whose shared memory is in place
  std::vector<unsigned> free;
  for (unsigned slot = 0; slot < together; slot++) free.push_back(slot);
  while (begun < blocks.size() || !running.empty()) {
    while (begun < blocks.size() && !free.empty()) {
      Block block;
      block.number = blocks[begun++], block.slot = free.back(), block.left = threads;
      free.pop_back();
      block.order = order;
      block.shared.assign(size, seed % 2 ? -1 : 0);  // it has no values at first
      block.before = threads;
      shuffle(block.order);
      for (unsigned t = 0; t < threads; t++) {
        const unsigned at = block.slot * 256 + t;
        fibers[at] = here, alive[at] = 1;
        fibers[at].uc_stack.ss_sp = stacks + stack * at;
        fibers[at].uc_stack.ss_size = stack;
        fibers[at].uc_link = &home;
        makecontext(&fibers[at], run, 0);
      }
      running.push_back(block);
    }
    if (chosen >= running.size() || draw(8) == 0) chosen = draw(running.size());
    Block& block = running[chosen];
    if (inside != block.slot) {
      for (Block& other : running)
        if (other.slot == inside) copy(other.shared.data(), shared, size);
      copy(shared, block.shared.data(), size);
      inside = block.slot;
    }
    blockIdx.x = block.number % gx, blockIdx.y = block.number / gx;
    waiting = block.waiting;
    for (unsigned count = running.size() > 1 ? 1 + draw(64) : threads; count; count--) {
      const unsigned t = block.order[block.next];
      now = block.slot * 256 + t;
      if (alive[now]) {
        threadIdx.x = t % bx, threadIdx.y = t / bx;
        enter(block.first);
        if (!alive[now]) block.left--;
      }
      if (++block.next < threads) continue;
      if (waiting && waiting != block.before) return 1;
      block.next = 0, block.before = block.left, waiting = 0, block.first = false;
      shuffle(block.order);
      if (!block.left) break;
    }
    block.waiting = waiting;
    if (!block.left) {
      free.push_back(block.slot);
      inside = ~0u;
      running.erase(running.begin() + chosen);
    }
  }
  return 0;
}
}  // namespace serial
#endif
