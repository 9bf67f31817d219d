// Streams of the software device, and the faults it can be told to have.
//
// Owns: the order of work. Never does: check arguments (the driver's functions did).
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "driver.h"

namespace shim {

namespace {

// Bounds the memory of a queue that nobody waits for.
constexpr size_t QUEUE_MAX = 4096;

std::mutex streams_mutex;
std::vector<std::weak_ptr<Stream>> streams;

std::atomic<uint64_t> launches{0};
std::atomic<uint64_t> fail_at{UINT64_MAX};
std::atomic<int> fail_code{0}, sticky_code{0};
std::atomic<bool> hung{false};

std::vector<std::shared_ptr<Stream>> all_streams() {
    std::vector<std::shared_ptr<Stream>> all;
    const std::lock_guard lock(streams_mutex);
    for (const auto& stream : streams) {
        if (auto live = stream.lock()) all.push_back(std::move(live));
    }
    return all;
}

void forget_queues() {
    for (const auto& stream : all_streams()) {
        const std::lock_guard lock(stream->queue_mutex);
        stream->queue.clear();
    }
}

bool uses_memory(const Work& work, uintptr_t first, size_t bytes) {
    const auto inside = [&](uintptr_t address) { return address >= first && address - first < bytes; };
    const auto meets = [&](const void* at) {
        const uintptr_t start = reinterpret_cast<uintptr_t>(at);
        return inside(start) || (start < first && first - start < work.bytes);
    };
    switch (work.kind) {
        case Work::LAUNCH:
            for (size_t i = 0; work.launch.kernel->signature[i] != 0; i++) {
                if (work.launch.kernel->signature[i] == 'p' && inside(work.words[i])) return true;
            }
            return false;
        case Work::COPY: return meets(work.to) || (work.held.empty() && meets(work.from));
        case Work::FILL: return meets(work.to);
        case Work::GRAPH:
            return std::any_of(work.graph->begin(), work.graph->end(),
                               [&](const Work& piece) { return uses_memory(piece, first, bytes); });
        default: return false;
    }
}

// TRIAGED_SHIM_FAIL=<launch number, from 1>:<CUresult, or Fault>
const bool fail_from_environment = [] {
    if (const char* text = std::getenv("TRIAGED_SHIM_FAIL")) {
        char* rest = nullptr;
        const uint64_t launch = std::strtoull(text, &rest, 10);
        if (rest && *rest == ':') fail_after(launch, std::atoi(rest + 1));
    }
    return true;
}();

// TRIAGED_SHIM_COUNT=<file>: the number of launches is written there at the end, for who wants one of them to fail.
__attribute__((destructor)) void tell_launches() {
    const char* path = std::getenv("TRIAGED_SHIM_COUNT");
    if (!path) return;
    if (FILE* file = std::fopen(path, "w")) {
        std::fprintf(file, "%llu\n", static_cast<unsigned long long>(launches.load()));
        std::fclose(file);
    }
}

}  // namespace

int sticky() { return sticky_code; }

bool hangs_for_good() { return hung && fail_code == HANG_FOR_GOOD; }

void wait_while_hung() {
    while (hung) std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

bool recover() {
    if (sticky_code == UNAVAILABLE) return false;
    fail_after(0, 0);
    return true;
}

void fail_after(uint64_t count, int code) {
    // What a device that hung was told before is not done when it is well again.
    if (hung || sticky_code != 0) forget_queues();
    hung = false;
    sticky_code = 0;
    fail_code = code;
    fail_at = code == 0 ? UINT64_MAX : launches + count;
}

uint64_t launches_counted() { return launches; }

int count_launches(uint64_t count) {
    const uint64_t before = launches.fetch_add(count);
    if (before + count < fail_at) return SUCCESS;
    const int code = fail_code;
    if (before >= fail_at || code == SUCCESS) return sticky_code;
    if (code == HANG || code == HANG_FOR_GOOD) {
        hung = true;
        return SUCCESS;
    }
    // Out of memory is an answer to one call; all else ends the context.
    if (code == OUT_OF_MEMORY) {
        fail_at = UINT64_MAX;
    } else {
        sticky_code = code;
    }
    return code;
}

void run(const Work& work) {
    switch (work.kind) {
        case Work::LAUNCH: {
            void* arguments[32];
            for (int i = 0; i < 32; i++) arguments[i] = const_cast<uint64_t*>(&work.words[i]);
            run(work.launch, arguments);
            break;
        }
        case Work::COPY:
            std::memcpy(work.to, work.held.empty() ? work.from : work.held.data(), work.bytes);
            break;
        case Work::FILL:
            std::memset(work.to, static_cast<int>(work.words[0]), work.bytes);
            break;
        case Work::RECORD:
            work.moment->time = std::chrono::steady_clock::now();
            work.moment->done = true;
            break;
        case Work::WAIT:
            // If the device hangs here, what follows is not run either.
            if (const auto stream = work.moment->stream.lock()) stream->finish(*work.moment);
            break;
        case Work::GRAPH:
            for (const Work& piece : *work.graph) run(piece);
            break;
    }
}

void Stream::push(Work&& work) {
    size_t length;
    {
        const std::lock_guard lock(queue_mutex);
        queue.push_back(std::move(work));
        length = queue.size();
    }
    if (length >= QUEUE_MAX) finish();
}

bool Stream::finish() {
    const std::lock_guard one(run_mutex);
    for (;;) {
        Work work;
        {
            const std::lock_guard lock(queue_mutex);
            if (hung) return false;
            if (queue.empty()) return true;
            work = std::move(queue.front());
            queue.pop_front();
            running = &work;
        }
        shim::run(work);
        const std::lock_guard lock(queue_mutex);
        running = nullptr;
    }
}

bool Stream::finish(const Moment& moment) {
    // Another thread may be running this stream and wait, in its turn, for ours; it can't wait for what comes later
    // than this wait, so one of the two goes on.
    while (!moment.done) {
        if (hung) return false;
        const std::unique_lock one(run_mutex, std::try_to_lock);
        if (!one.owns_lock()) {
            std::this_thread::yield();
            continue;
        }
        Work work;
        {
            const std::lock_guard lock(queue_mutex);
            if (moment.done || queue.empty()) return moment.done;
            work = std::move(queue.front());
            queue.pop_front();
            running = &work;
        }
        shim::run(work);
        const std::lock_guard lock(queue_mutex);
        running = nullptr;
    }
    return true;
}

bool Stream::uses(const void* data, size_t bytes) {
    const uintptr_t first = reinterpret_cast<uintptr_t>(data);
    const std::lock_guard lock(queue_mutex);
    const auto user = [&](const Work& work) { return uses_memory(work, first, bytes); };
    return (running && user(*running)) || std::any_of(queue.begin(), queue.end(), user);
}

void wait_for(Stream& stream) {
    while (!stream.finish()) wait_while_hung();
}

void wait_for_all() {
    wait_while_hung();
    for (const auto& stream : all_streams()) wait_for(*stream);
}

void wait_for_users(const void* data, size_t bytes) {
    wait_while_hung();
    for (const auto& stream : all_streams()) {
        if (stream->uses(data, bytes)) wait_for(*stream);
    }
}

void register_stream(const std::shared_ptr<Stream>& stream) {
    const std::lock_guard lock(streams_mutex);
    streams.erase(std::remove_if(streams.begin(), streams.end(), [](const auto& s) { return s.expired(); }), streams.end());
    streams.push_back(stream);
}

}  // namespace shim
