// Streams of the software device, and the faults it can be told to have.
//
// Owns: the order of work. Never does: check arguments (the driver's functions did).
#include <algorithm>
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

// TRIAGED_SHIM_FAIL=<launch number, from 1>:<CUresult>
const bool fail_from_environment = [] {
    if (const char* text = std::getenv("TRIAGED_SHIM_FAIL")) {
        char* rest = nullptr;
        const uint64_t launch = std::strtoull(text, &rest, 10);
        if (rest && *rest == ':') fail_after(launch, std::atoi(rest + 1));
    }
    return true;
}();

}  // namespace

int sticky() { return sticky_code; }

void fail_after(uint64_t count, int code) {
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

void Stream::finish() {
    const std::lock_guard running(run_mutex);
    for (;;) {
        Work work;
        {
            const std::lock_guard lock(queue_mutex);
            if (queue.empty()) return;
            work = std::move(queue.front());
            queue.pop_front();
        }
        shim::run(work);
    }
}

void Stream::finish(const Moment& moment) {
    // Another thread may be running this stream and wait, in its turn, for ours; it can't wait for what comes later
    // than this wait, so one of the two goes on.
    while (!moment.done) {
        const std::unique_lock running(run_mutex, std::try_to_lock);
        if (!running.owns_lock()) {
            std::this_thread::yield();
            continue;
        }
        Work work;
        {
            const std::lock_guard lock(queue_mutex);
            if (moment.done || queue.empty()) return;
            work = std::move(queue.front());
            queue.pop_front();
        }
        shim::run(work);
    }
}

void register_stream(const std::shared_ptr<Stream>& stream) {
    const std::lock_guard lock(streams_mutex);
    streams.erase(std::remove_if(streams.begin(), streams.end(), [](const auto& s) { return s.expired(); }), streams.end());
    streams.push_back(stream);
}

void finish_all() {
    std::vector<std::shared_ptr<Stream>> all;
    {
        const std::lock_guard lock(streams_mutex);
        for (const auto& stream : streams) {
            if (auto live = stream.lock()) all.push_back(std::move(live));
        }
    }
    for (const auto& stream : all) stream->finish();
}

}  // namespace shim
