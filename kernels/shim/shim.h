// The software device's own parts, one to the other. Kernels see cuda_shim.h only.
#pragma once

#include <cstdint>

#include "cuda_vectors.h"

namespace shim {

// A kernel as the table in the kernels' translation unit lists it.
struct Kernel {
    const char* name;
    // Runs one thread; the position says which.
    void (*call)(void** arguments);
    // One letter an argument: p address, i int, u unsigned, U 64 bits, f float, d double.
    const char* signature;
    // From __launch_bounds__, or 1024.
    unsigned threads_max;
};
extern const Kernel kernels[];
extern const unsigned kernel_count;

struct Launch {
    const Kernel* kernel;
    dim3 grid, block;
    unsigned shared_bytes;
};

// position.cpp: the state of threads.cpp on this host thread.
extern __thread struct Runner* runner __attribute__((tls_model("initial-exec"), visibility("default")));

// threads.cpp: runs all blocks of a launch, one after the other, on this host thread.
void run(const Launch& launch, void** arguments);
// Threads and blocks from the last to the first: what depends on their order comes out differently.
void set_reverse(bool reverse);
// Where this host thread is in a kernel, for messages; empty outside of one.
const char* where();
// Ends the process with a message that names the kernel.
[[noreturn]] void fault(const char* what);

// memory.cpp: device memory between guard pages.
void* allocate(size_t bytes);                        // null if the device is full
bool release(void* data);                            // false if it is no allocation
void release_all();                                  // what a reset of the context takes, page-locked memory included
size_t allocated_bytes(const void* data);            // of the allocation that starts there, or 0
bool contains(const void* data, size_t bytes);       // inside one live allocation
void check_guards();                                 // faults if a kernel wrote beside an allocation
void memory_info(size_t& free_bytes, size_t& total_bytes);
void watch_faults();                                 // explains a touch of a guard page, and misaligned accesses
void* allocate_pinned(size_t bytes);
bool release_pinned(void* data);
bool is_pinned(const void* data, size_t bytes);

}  // namespace shim
