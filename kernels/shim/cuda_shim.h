// CUDA C++ for g++: enough of the language and of its built-ins to compile our kernels for the software device.
//
// Owns: the spelling. Vectors, half precision and matrix fragments have a header of their own; threads live in
// threads.cpp. Never does: anything that a kernel on a GPU could not (no host libraries, no allocation).
//
// A kernel's threads run one after the other on one host thread, as coroutines where they meet (__syncthreads,
// shuffles). So wrong indices, wrong sums and missing barriers show; data races within a barrier and timing don't.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

// Our f16 kernels use tensor cores from 7.0 on; nothing newer is asked of the shim.
#define __CUDA_ARCH__ 700

#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))
// A block runs on one host thread from its start to its end, so its shared memory is that thread's own.
#define __shared__ thread_local

// The build lists the kernels by preprocessing once with TRIAGED_SHIM_LIST and looking for these marks.
#ifdef TRIAGED_SHIM_LIST
#define __global__ TRIAGED_KERNEL
#define __launch_bounds__(...) TRIAGED_BOUNDS(__VA_ARGS__)
#else
#define __global__
#define __launch_bounds__(...)
#endif

#include "cuda_vectors.h"

namespace shim {

// What a thread sees of itself.
struct Position {
    uint3 thread;
    uint3 block;
    uint3 block_size;
    uint3 grid_size;
    int lane;
};

// Defined in position.cpp, in a library of its own.
extern __thread Position position __attribute__((tls_model("initial-exec"), visibility("default")));

// Barriers: return when all threads concerned have come. `line` is the place in the source, which must be the same
// for all. The warp's version gives each thread's word to all (until the warp's next meeting).
int meet_block(int line, int value);                                    // returns the sum of the values
const uint64_t* meet_warp(int line, unsigned mask, uint64_t word);      // by lane
inline int lane() { return position.lane; }
[[noreturn]] void fault(const char* what);

template <class T>
inline uint64_t to_word(T value) {
    static_assert(sizeof(T) <= 8, "shuffles move at most 8 bytes");
    uint64_t word = 0;
    std::memcpy(&word, &value, sizeof(T));
    return word;
}

template <class T>
inline T from_word(uint64_t word) {
    T value;
    std::memcpy(&value, &word, sizeof(T));
    return value;
}

// Reads another lane's value; `source` outside the lane's segment of `width` means the lane's own.
template <class T, class Source>
inline T shuffle(int line, unsigned mask, T value, int width, Source source) {
    const uint64_t* words = meet_warp(line, mask, to_word(value));
    const int own = lane(), first = own & ~(width - 1);
    const int other = source(own - first);
    const int from = other < 0 || other >= width ? own : first + other;
    if (!(mask >> from & 1)) fault("a shuffle reads a lane that its mask leaves out");
    return from_word<T>(words[from]);
}

template <class T>
inline T shuffle_index(int line, unsigned mask, T value, int from, int width = 32) {
    return shuffle(line, mask, value, width, [=](int) { return from & (width - 1); });
}
template <class T>
inline T shuffle_up(int line, unsigned mask, T value, unsigned by, int width = 32) {
    return shuffle(line, mask, value, width, [=](int i) { return i - static_cast<int>(by); });
}
template <class T>
inline T shuffle_down(int line, unsigned mask, T value, unsigned by, int width = 32) {
    return shuffle(line, mask, value, width, [=](int i) { return i + static_cast<int>(by); });
}
template <class T>
inline T shuffle_xor(int line, unsigned mask, T value, int with, int width = 32) {
    return shuffle(line, mask, value, width, [=](int i) { return i ^ with; });
}

inline unsigned ballot(int line, unsigned mask, int predicate) {
    const uint64_t* words = meet_warp(line, mask, predicate != 0);
    unsigned result = 0;
    for (int i = 0; i < 32; i++) {
        if (mask >> i & 1) result |= static_cast<unsigned>(words[i]) << i;
    }
    return result;
}

}  // namespace shim

#define threadIdx (shim::position.thread)
#define blockIdx (shim::position.block)
#define blockDim (shim::position.block_size)
#define gridDim (shim::position.grid_size)
constexpr int warpSize = 32;

#define __syncthreads() (void)shim::meet_block(__LINE__, 0)
#define __syncthreads_count(predicate) shim::meet_block(__LINE__, (predicate) != 0)
#define __syncthreads_or(predicate) (shim::meet_block(__LINE__, (predicate) != 0) != 0)
#define __syncthreads_and(predicate) (shim::meet_block(__LINE__, (predicate) == 0) == 0)
#define __shfl_sync(...) shim::shuffle_index(__LINE__, __VA_ARGS__)
#define __shfl_up_sync(...) shim::shuffle_up(__LINE__, __VA_ARGS__)
#define __shfl_down_sync(...) shim::shuffle_down(__LINE__, __VA_ARGS__)
#define __shfl_xor_sync(...) shim::shuffle_xor(__LINE__, __VA_ARGS__)
#define __ballot_sync(mask, predicate) shim::ballot(__LINE__, mask, predicate)
#define __any_sync(mask, predicate) (shim::ballot(__LINE__, mask, predicate) != 0)
#define __all_sync(mask, predicate) (shim::ballot(__LINE__, mask, !(predicate)) == 0)
inline void shim_sync_warp(int line, unsigned mask = 0xffffffffu) { shim::meet_warp(line, mask, 0); }
#define __syncwarp(...) shim_sync_warp(__LINE__ __VA_OPT__(, ) __VA_ARGS__)
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() {}

// Dynamic shared memory has this one name in every kernel, and this size at most (compute capability 9.0).
constexpr unsigned DYNAMIC_SHARED_BYTES_MAX = 227 * 1024;
extern thread_local __align__(128) unsigned char dynamic_shared[DYNAMIC_SHARED_BYTES_MAX + 128];

// Reads with a hint for the cache, and streaming stores.
template <class T> inline T __ldg(const T* from) { return *from; }
template <class T> inline T __ldcg(const T* from) { return *from; }
template <class T> inline T __ldcs(const T* from) { return *from; }
template <class T> inline void __stcs(T* to, T value) { *to = value; }
template <class T> inline void __stcg(T* to, T value) { *to = value; }

// Atomics: streams of one device run on several host threads, so they are real ones. atomicAdd of a double came with
// compute capability 6.0 and is left out, because we build for 5.2.
#define SHIM_ATOMIC(name, type, expression)                                                             \
    inline type name(type* at, type value) {                                                            \
        type old = __atomic_load_n(at, __ATOMIC_RELAXED), next;                                          \
        do {                                                                                            \
            next = (expression);                                                                        \
        } while (!__atomic_compare_exchange_n(at, &old, next, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)); \
        return old;                                                                                     \
    }
#define SHIM_ATOMICS(type)                                          \
    SHIM_ATOMIC(atomicAdd, type, old + value)                       \
    SHIM_ATOMIC(atomicMax, type, old > value ? old : value)         \
    SHIM_ATOMIC(atomicMin, type, old < value ? old : value)         \
    SHIM_ATOMIC(atomicAnd, type, old & value)                       \
    SHIM_ATOMIC(atomicOr, type, old | value)                        \
    SHIM_ATOMIC(atomicXor, type, old ^ value)                       \
    SHIM_ATOMIC(atomicExch, type, value)                            \
    inline type atomicCAS(type* at, type expected, type desired) {  \
        __atomic_compare_exchange_n(at, &expected, desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED); \
        return expected;                                            \
    }
SHIM_ATOMICS(int)
SHIM_ATOMICS(unsigned)
SHIM_ATOMICS(unsigned long long)
inline int atomicSub(int* at, int value) { return atomicAdd(at, -value); }
inline unsigned atomicSub(unsigned* at, unsigned value) { return atomicAdd(at, 0u - value); }
inline float atomicAdd(float* at, float value) {
    unsigned* bits = reinterpret_cast<unsigned*>(at);
    unsigned old = __atomic_load_n(bits, __ATOMIC_RELAXED), next;
    do {
        next = shim::from_word<unsigned>(shim::to_word(shim::from_word<float>(old) + value));
    } while (!__atomic_compare_exchange_n(bits, &old, next, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return shim::from_word<float>(old);
}

#include "cuda_math.h"
#include "cuda_half.h"
#include "cuda_wmma.h"
