// What the driver's functions share: answers, streams, and the work queued on them.
#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "shim.h"

namespace shim {

// Of CUresult (CUDA driver API, "Data types used by CUDA driver").
enum Answer : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    LAUNCH_OUT_OF_RESOURCES = 701,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_ISOLATION = 905,
};

// A moment in a stream, for all copies of the handle.
struct Moment {
    std::atomic<bool> done{false};
    std::chrono::steady_clock::time_point time;
    std::weak_ptr<struct Stream> stream;
};

struct Work {
    enum Kind { LAUNCH, COPY, FILL, RECORD, WAIT, GRAPH } kind;
    Launch launch;
    uint64_t words[32];                 // arguments of a launch
    void* to;
    const void* from;
    size_t bytes;
    std::vector<unsigned char> held;    // a copy of pageable memory, as the driver takes one
    std::shared_ptr<Moment> moment;
    std::shared_ptr<const std::vector<Work>> graph;
};

// A stream runs nothing until somebody waits for it: so the host sees too early reads, and too early reuse of memory.
struct Stream : std::enable_shared_from_this<Stream> {
    std::mutex queue_mutex, run_mutex;
    std::deque<Work> queue;
    // While capturing.
    std::unique_ptr<std::vector<Work>> capture;
    bool capture_invalid = false;

    // What a thread runs just now.
    const Work* running = nullptr;

    void push(Work&& work);
    // Runs what is queued; false if the device hangs.
    bool finish();
    // Until `moment` has come.
    bool finish(const Moment& moment);
    // Whether queued or running work uses memory.
    bool uses(const void* data, size_t bytes);
};

void register_stream(const std::shared_ptr<Stream>& stream);
// Waits for streams as a driver's function does that waits: for ever if the device hangs.
void wait_for(Stream& stream);
void wait_for_all();
// For the work that uses memory: that is all of it that anybody can see a driver wait for.
void wait_for_users(const void* data, size_t bytes);
void run(const Work& work);

// Faults to order: TRIAGED_SHIM_FAIL, or the test itself.
enum Fault : int {
    HANG = -1,           // launches never end, and functions that wait never return
    HANG_FOR_GOOD = -2,  // so does a reset
    UNAVAILABLE = 46,    // no reset helps
};
int sticky();
bool hangs_for_good();
void wait_while_hung();
int count_launches(uint64_t launches);   // the answer of this launch
void fail_after(uint64_t launches, int code);
// A reset of the context: what was queued is forgotten, and the fault that was ordered. False if it does not help.
bool recover();
uint64_t launches_counted();

}  // namespace shim
