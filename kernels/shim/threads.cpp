// The threads of a block, as coroutines on one host thread.
//
// Owns: which thread runs next, and what a barrier waits for.
// Never does: start a host thread; blocks run one after the other, and streams bring their own host threads.
//
// A thread that meets no barrier runs to its end on the stack of the one before, so a kernel without barriers is a
// plain loop. A thread that waits keeps its stack, and the next thread gets another.
//
//   not started ──► running ──► finished
//                    ▲   │ barrier
//              ready │   ▼
//                   waiting
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "cuda_shim.h"
#include "shim.h"

thread_local __align__(128) unsigned char dynamic_shared[DYNAMIC_SHARED_BYTES_MAX + 128];

namespace shim {

namespace {

constexpr unsigned THREADS_MAX = 1024;
constexpr size_t STACK_BYTES = 128 * 1024;
constexpr uint64_t STACK_END = 0x5ac4f00d5ac4f00d;
constexpr unsigned char AFTER_SHARED = 0xc5;

std::atomic<bool> reversed{std::getenv("TRIAGED_SHIM_REVERSE") != nullptr};

// Saves the registers that a call keeps, and goes on where `load` was saved. System V ABI: rbx, rbp, r12 to r15.
#if defined(__x86_64__)
extern "C" void triaged_shim_switch(void** save, void* load);
asm(R"(
    .text
    .type triaged_shim_switch, @function
triaged_shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size triaged_shim_switch, .-triaged_shim_switch
)");
using Place = void*;
inline void switch_to(Place& save, Place& load) { triaged_shim_switch(&save, load); }
inline void prepare(Place& place, unsigned char* stack, size_t bytes, void (*entry)()) {
    // After `ret` into entry the stack is as after a call: 8 bytes off a multiple of 16.
    void** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t{15});
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    place = top;
}
#else
}  // namespace
}  // namespace shim
#include <ucontext.h>
namespace shim {
namespace {
using Place = ucontext_t;
inline void switch_to(Place& save, Place& load) { swapcontext(&save, &load); }
inline void prepare(Place& place, unsigned char* stack, size_t bytes, void (*entry)()) {
    getcontext(&place);
    place.uc_stack.ss_sp = stack;
    place.uc_stack.ss_size = bytes;
    place.uc_link = nullptr;
    makecontext(&place, entry, 0);
}
#endif

}  // namespace

struct Fiber {
    Place place;
    uint3 thread;
    unsigned linear;
};

// Who waits at a barrier of a warp, and with what.
struct Warp {
    unsigned waiting;
    unsigned masks[32];
    int lines[32];
    uint16_t fibers[32];
    uint64_t given[32];
    uint64_t released[32];
};

struct Runner {
    Fiber fibers[THREADS_MAX] = {};
    // Memory of a thread that has ended may be here: nobody waits yet.
    Warp warps[THREADS_MAX / 32] = {};
    uint16_t unused[THREADS_MAX], ready[THREADS_MAX], at_barrier[THREADS_MAX];
    unsigned unused_count = 0, created = 0, ready_head = 0, ready_count = 0;
    unsigned threads = 0, started = 0, finished = 0, waiting = 0;
    int barrier_line = 0, barrier_sum = 0, barrier_released = 0;
    uint3 next = {};
    unsigned current = 0;
    bool reverse = false;
    Place main = {};
    const Launch* launch = nullptr;
    void** arguments = nullptr;
    unsigned char* stacks;

    Runner() {
        void* memory = mmap(nullptr, THREADS_MAX * STACK_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) fault("no memory for stacks");
        stacks = static_cast<unsigned char*>(memory);
    }
    ~Runner() { munmap(stacks, THREADS_MAX * STACK_BYTES); }

    void push_ready(unsigned fiber) {
        ready[(ready_head + ready_count++) % THREADS_MAX] = static_cast<uint16_t>(fiber);
    }
    unsigned pop_ready() {
        const unsigned fiber = ready[ready_head];
        ready_head = (ready_head + 1) % THREADS_MAX;
        ready_count--;
        return fiber;
    }
    unsigned unused_fiber();
    void enter(unsigned fiber) {
        current = fiber;
        position.thread = fibers[fiber].thread;
        position.lane = static_cast<int>(fibers[fiber].linear % 32);
    }
    void start_thread();
    void finish_thread();
    void wait();
    void release_barrier();
    bool release_warp(Warp& warp, unsigned mask);
    void run_block();
};

namespace {

thread_local std::unique_ptr<Runner> runner_owner;

// What every fiber does: one thread after the other, until another fiber has work that must come first.
void fiber_main() {
    for (;;) {
        runner->start_thread();
        runner->launch->kernel->call(runner->arguments);
        runner->finish_thread();
    }
}

}  // namespace

unsigned Runner::unused_fiber() {
    if (unused_count > 0) return unused[--unused_count];
    const unsigned fiber = created++;
    unsigned char* stack = stacks + fiber * STACK_BYTES;
    std::memcpy(stack, &STACK_END, sizeof(STACK_END));
    // Tops at different places of a page, or all stacks would share the same lines of the cache.
    prepare(fibers[fiber].place, stack, STACK_BYTES - fiber * 5 % 64 * 64, fiber_main);
    return fiber;
}

void Runner::start_thread() {
    Fiber& fiber = fibers[current];
    const unsigned linear = reverse ? threads - 1 - started : started;
    started++;
    fiber.thread = next;
    fiber.linear = linear;
    position.thread = next;
    position.lane = static_cast<int>(linear % 32);
    const dim3& size = launch->block;
    if (reverse) {
        if (next.x-- == 0) {
            next.x = size.x - 1;
            if (next.y-- == 0) {
                next.y = size.y - 1;
                next.z--;
            }
        }
    } else if (++next.x == size.x) {
        next.x = 0;
        if (++next.y == size.y) {
            next.y = 0;
            next.z++;
        }
    }
}

// Returns when this fiber has another thread to start.
void Runner::finish_thread() {
    uint64_t end;
    std::memcpy(&end, stacks + current * STACK_BYTES, sizeof(end));
    if (end != STACK_END) fault("a thread used more than 128 KiB of stack");
    finished++;
    if (waiting > 0 && waiting + finished == threads) release_barrier();
    if (ready_count == 0 && started < threads) return;
    const unsigned self = current;
    unused[unused_count++] = static_cast<uint16_t>(self);
    if (ready_count > 0) {
        enter(pop_ready());
        switch_to(fibers[self].place, fibers[current].place);
        return;
    }
    if (finished < threads) fault("threads wait for ever: some have ended, or wait at another barrier");
    switch_to(fibers[self].place, main);
}

// This fiber can't go on: runs others until it can.
void Runner::wait() {
    const unsigned self = current;
    if (ready_count > 0) {
        const unsigned fiber = pop_ready();
        if (fiber == self) return;
        enter(fiber);
    } else if (started < threads) {
        current = unused_fiber();
    } else {
        fault("threads wait for ever: some have ended, or wait at another barrier");
    }
    switch_to(fibers[self].place, fibers[current].place);
}

void Runner::release_barrier() {
    // In the order of the threads, whatever the order of their coming.
    static thread_local uint16_t by_thread[THREADS_MAX];
    std::memset(by_thread, 0xff, threads * sizeof(by_thread[0]));
    for (unsigned i = 0; i < waiting; i++) by_thread[fibers[at_barrier[i]].linear] = at_barrier[i];
    for (unsigned i = 0; i < threads; i++) {
        const unsigned fiber = by_thread[reverse ? threads - 1 - i : i];
        if (fiber != 0xffff) push_ready(fiber);
    }
    barrier_released = barrier_sum;
    barrier_sum = 0;
    waiting = 0;
}

bool Runner::release_warp(Warp& warp, unsigned mask) {
    if ((warp.waiting & mask) != mask) return false;
    int line = 0;
    for (unsigned i = 0; i < 32; i++) {
        if (!(mask >> i & 1)) continue;
        if (warp.masks[i] != mask) fault("lanes of a warp meet with different masks");
        if (line != 0 && warp.lines[i] != line) fault("lanes of a warp meet at different places of the source");
        line = warp.lines[i];
        warp.released[i] = warp.given[i];
    }
    for (unsigned i = 0; i < 32; i++) {
        const unsigned at = reverse ? 31 - i : i;
        if (mask >> at & 1) push_ready(warp.fibers[at]);
    }
    warp.waiting &= ~mask;
    return true;
}

void Runner::run_block() {
    started = finished = waiting = 0;
    barrier_sum = 0;
    const dim3& size = launch->block;
    next = reverse ? uint3{size.x - 1, size.y - 1, size.z - 1} : uint3{0, 0, 0};
    std::memset(dynamic_shared, 0xff, launch->shared_bytes);
    std::memset(dynamic_shared + launch->shared_bytes, AFTER_SHARED, 128);
    current = unused_fiber();
    switch_to(main, fibers[current].place);
    for (int i = 0; i < 128; i++) {
        if (dynamic_shared[launch->shared_bytes + i] != AFTER_SHARED) {
            fault("a block wrote past the end of its dynamic shared memory");
        }
    }
}

int meet_block(int line, int value) {
    Runner& r = *runner;
    if (r.waiting > 0 && r.barrier_line != line) {
        fault("threads of a block meet at different __syncthreads");
    }
    r.barrier_line = line;
    r.barrier_sum += value;
    r.at_barrier[r.waiting++] = static_cast<uint16_t>(r.current);
    if (r.waiting + r.finished == r.threads) r.release_barrier();
    r.wait();
    return r.barrier_released;
}

const uint64_t* meet_warp(int line, unsigned mask, uint64_t word) {
    Runner& r = *runner;
    const unsigned linear = r.fibers[r.current].linear, lane = linear % 32;
    Warp& warp = r.warps[linear / 32];
    // A warp at the end of a block may have fewer than 32 threads; its full mask means those.
    const unsigned left = r.threads - linear / 32 * 32;
    if (left < 32) mask &= (1u << left) - 1;
    if (!(mask >> lane & 1)) fault("a thread meets with a mask that leaves it out");
    warp.masks[lane] = mask;
    warp.lines[lane] = line;
    warp.given[lane] = word;
    warp.fibers[lane] = static_cast<uint16_t>(r.current);
    warp.waiting |= 1u << lane;
    r.release_warp(warp, mask);
    r.wait();
    return warp.released;
}

void set_reverse(bool reverse) { reversed = reverse; }

void run(const Launch& launch, void** arguments) {
    if (!runner) {
        runner_owner = std::make_unique<Runner>();
        runner = runner_owner.get();
    }
    Runner& r = *runner;
    r.launch = &launch;
    r.arguments = arguments;
    r.reverse = reversed;
    r.threads = launch.block.x * launch.block.y * launch.block.z;
    position.block_size = {launch.block.x, launch.block.y, launch.block.z};
    position.grid_size = {launch.grid.x, launch.grid.y, launch.grid.z};
    // Lanes that a last, short warp lacks give 0 to those that read them.
    std::memset(r.warps[(r.threads - 1) / 32].released, 0, sizeof(Warp::released));
    const uint64_t blocks = uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
    for (uint64_t i = 0; i < blocks; i++) {
        const uint64_t block = r.reverse ? blocks - 1 - i : i;
        const uint64_t plane = uint64_t{launch.grid.x} * launch.grid.y;
        position.block.x = static_cast<unsigned>(block % launch.grid.x);
        position.block.y = static_cast<unsigned>(block % plane / launch.grid.x);
        position.block.z = static_cast<unsigned>(block / plane);
        r.run_block();
    }
    r.launch = nullptr;
}

const char* where() {
    // Not on the stack: a signal's handler may have little of it.
    static thread_local char text[300];
    text[0] = 0;
    if (!runner || !runner->launch) return text;
    const Launch& launch = *runner->launch;
    std::snprintf(text, sizeof text, "kernel %s, block (%u, %u, %u) of (%u, %u, %u), thread (%u, %u, %u) of (%u, %u, %u)",
                  launch.kernel->name, position.block.x, position.block.y, position.block.z, launch.grid.x,
                  launch.grid.y, launch.grid.z, position.thread.x, position.thread.y, position.thread.z,
                  launch.block.x, launch.block.y, launch.block.z);
    return text;
}

void fault(const char* what) {
    static thread_local char text[700];
    const char* at = where();
    const int length = std::snprintf(text, sizeof text, "software device: %s%s%s\n", what, *at ? ": " : "", at);
    if (write(2, text, static_cast<size_t>(length)) < 0) std::abort();
    std::abort();
}

}  // namespace shim
