// libcuda.so.1 of the software device: the functions of CUDA's driver API that `kernels::device` calls.
//
// Owns: the checks that a driver makes (handles, sizes, limits of a launch, what a capture allows).
// Never does: accept more than a driver would. One device, one context; the image of a module is not looked at, the
// kernels are those compiled in.
//
// Signatures: CUDA 11.4's cuda.h, with handles as void* and results as int.
#include "driver.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

using namespace shim;

namespace {

constexpr unsigned SHARED_BYTES = 48 * 1024;
int context_token;
std::atomic<int> retained{0};
std::atomic<bool> initialized{false};
thread_local bool entered = false;
// A capture in thread-local mode forbids this thread what might disturb it.
thread_local Stream* capturing = nullptr;

struct Function {
    const Kernel* kernel;
    std::atomic<unsigned> shared_bytes_max{SHARED_BYTES};
};
struct Event {
    std::shared_ptr<Moment> moment;
};
struct Graph {
    std::vector<Work> work;
};
struct GraphExec {
    std::shared_ptr<const std::vector<Work>> work;
    uint64_t launches = 0;
};

std::map<std::string, Function>& functions() {
    static std::map<std::string, Function> all = [] {
        std::map<std::string, Function> result;
        for (unsigned i = 0; i < kernel_count; i++) result[kernels[i].name].kernel = &kernels[i];
        return result;
    }();
    return all;
}

struct Capability {
    int major = 9, minor = 0;
};
Capability capability() {
    Capability c;
    if (const char* text = std::getenv("TRIAGED_SHIM_CC")) std::sscanf(text, "%d.%d", &c.major, &c.minor);
    return c;
}

// Shared memory that a block may ask for (CUDA programming guide, "Technical Specifications per Compute Capability").
unsigned shared_bytes_limit() {
    const Capability c = capability();
    switch (c.major * 10 + c.minor) {
        case 70: case 72: return 96 * 1024;
        case 75: return 64 * 1024;
        case 80: case 87: return 163 * 1024;
        case 86: case 89: return 99 * 1024;
        default: return c.major >= 9 ? 227 * 1024 : SHARED_BYTES;
    }
}

int ready() {
    if (!initialized) return NOT_INITIALIZED;
    if (const int code = sticky()) return code;
    return entered && retained > 0 ? SUCCESS : INVALID_CONTEXT;
}

// For what a capture on this thread forbids.
int ready_outside_capture() {
    if (const int code = ready()) return code;
    if (!capturing) return SUCCESS;
    capturing->capture_invalid = true;
    return CAPTURE_UNSUPPORTED;
}

Stream* stream_of(void* handle) { return handle ? static_cast<std::shared_ptr<Stream>*>(handle)->get() : nullptr; }

// Puts work where the stream's work goes: its queue, or its capture.
int queue(void* handle, Work&& work) {
    Stream* stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    if (!stream->capture) {
        stream->push(std::move(work));
        return SUCCESS;
    }
    if (!work.held.empty() || work.kind == Work::RECORD || work.kind == Work::WAIT || work.kind == Work::GRAPH) {
        stream->capture_invalid = true;
        return CAPTURE_UNSUPPORTED;
    }
    stream->capture->push_back(std::move(work));
    return SUCCESS;
}

int copy(void* handle, void* to, const void* from, size_t bytes, bool pageable) {
    Work work{};
    work.kind = Work::COPY;
    work.to = to;
    work.from = from;
    work.bytes = bytes;
    if (pageable) {
        const unsigned char* bytes_of = static_cast<const unsigned char*>(from);
        work.held.assign(bytes_of, bytes_of + bytes);
    }
    return queue(handle, std::move(work));
}

void* address(uint64_t pointer) { return reinterpret_cast<void*>(pointer); }

const std::map<int, std::pair<const char*, const char*>>& texts() {
    static const std::map<int, std::pair<const char*, const char*>> all = {
        {0, {"CUDA_SUCCESS", "no error"}},
        {1, {"CUDA_ERROR_INVALID_VALUE", "invalid argument"}},
        {2, {"CUDA_ERROR_OUT_OF_MEMORY", "out of memory"}},
        {3, {"CUDA_ERROR_NOT_INITIALIZED", "initialization error"}},
        {46, {"CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"}},
        {100, {"CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"}},
        {101, {"CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"}},
        {201, {"CUDA_ERROR_INVALID_CONTEXT", "invalid device context"}},
        {214, {"CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"}},
        {400, {"CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"}},
        {500, {"CUDA_ERROR_NOT_FOUND", "named symbol not found"}},
        {600, {"CUDA_ERROR_NOT_READY", "device not ready"}},
        {700, {"CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"}},
        {701, {"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"}},
        {719, {"CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"}},
        {900, {"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"}},
        {901, {"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"}},
        {905, {"CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"}},
    };
    return all;
}

}  // namespace

#define API extern "C" __attribute__((visibility("default")))
#define CHECK(answer)                                \
    do {                                             \
        if (const int code = (answer)) return code;  \
    } while (false)

API int cuInit(unsigned flags) {
    if (flags != 0) return INVALID_VALUE;
    // TRIAGED_SHIM_LATE=<file>: no GPU before the file is there, as when the kernel's module is loaded late.
    const char* late = std::getenv("TRIAGED_SHIM_LATE");
    if (late && access(late, F_OK) != 0) return NO_DEVICE;
    initialized = true;
    watch_faults();
    return SUCCESS;
}
API int cuDriverGetVersion(int* version) {
    const char* text = std::getenv("TRIAGED_SHIM_DRIVER");
    *version = text ? std::atoi(text) : 12090;
    return SUCCESS;
}
API int cuGetErrorName(int code, const char** text) {
    const auto found = texts().find(code);
    *text = found == texts().end() ? nullptr : found->second.first;
    return *text ? SUCCESS : INVALID_VALUE;
}
API int cuGetErrorString(int code, const char** text) {
    const auto found = texts().find(code);
    *text = found == texts().end() ? nullptr : found->second.second;
    return *text ? SUCCESS : INVALID_VALUE;
}

API int cuDeviceGetCount(int* count) {
    *count = 1;
    return initialized ? SUCCESS : NOT_INITIALIZED;
}
API int cuDeviceGet(int* device, int ordinal) {
    *device = 0;
    return ordinal == 0 ? SUCCESS : INVALID_DEVICE;
}
API int cuDeviceGetName(char* name, int length, int) {
    const char* text = std::getenv("TRIAGED_SHIM_NAME");
    std::snprintf(name, static_cast<size_t>(length), "%s", text ? text : "software device");
    return SUCCESS;
}
API int cuDeviceGetUuid(unsigned char* uuid, int) {
    std::memcpy(uuid, "software device.", 16);
    return SUCCESS;
}
API int cuDeviceTotalMem_v2(size_t* bytes, int) {
    size_t free_bytes;
    memory_info(free_bytes, *bytes);
    return SUCCESS;
}
API int cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        case 1: *value = 1024; return SUCCESS;                               // threads a block
        case 8: *value = SHARED_BYTES; return SUCCESS;                       // shared memory a block
        case 10: *value = 32; return SUCCESS;                                // threads a warp
        case 16: *value = 2; return SUCCESS;                                 // multiprocessors
        case 18: *value = 0; return SUCCESS;                                 // integrated
        case 75: *value = capability().major; return SUCCESS;
        case 76: *value = capability().minor; return SUCCESS;
        case 97: *value = static_cast<int>(shared_bytes_limit()); return SUCCESS;  // shared memory, if asked for
        default: return INVALID_VALUE;
    }
}

API int cuDevicePrimaryCtxRetain(void** context, int device) {
    if (const int code = sticky()) return code;
    if (device != 0) return INVALID_DEVICE;
    retained++;
    *context = &context_token;
    return SUCCESS;
}
API int cuDevicePrimaryCtxRelease_v2(int) {
    if (retained == 0) return INVALID_CONTEXT;
    if (--retained == 0) wait_for_all();
    return SUCCESS;
}
API int cuDevicePrimaryCtxReset_v2(int device) {
    if (!initialized) return NOT_INITIALIZED;
    if (device != 0) return INVALID_DEVICE;
    if (hangs_for_good()) wait_while_hung();
    if (!recover()) return sticky();
    retained = 0;
    release_all();
    return SUCCESS;
}
API int cuCtxSetCurrent(void* context) {
    if (const int code = sticky()) return code;
    entered = context == &context_token;
    return entered || !context ? SUCCESS : INVALID_CONTEXT;
}
API int cuCtxSynchronize() {
    CHECK(ready_outside_capture());
    wait_for_all();
    check_guards();
    return SUCCESS;
}

API int cuMemGetInfo_v2(size_t* free_bytes, size_t* total_bytes) {
    CHECK(ready());
    memory_info(*free_bytes, *total_bytes);
    return SUCCESS;
}
API int cuMemAlloc_v2(uint64_t* pointer, size_t bytes) {
    CHECK(ready_outside_capture());
    if (bytes == 0) return INVALID_VALUE;
    void* data = allocate(bytes);
    *pointer = reinterpret_cast<uint64_t>(data);
    return data ? SUCCESS : OUT_OF_MEMORY;
}
API int cuMemFree_v2(uint64_t pointer) {
    CHECK(ready_outside_capture());
    wait_for_users(address(pointer), allocated_bytes(address(pointer)));
    return release(address(pointer)) ? SUCCESS : INVALID_VALUE;
}
API int cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
    CHECK(ready_outside_capture());
    *pointer = allocate_pinned(bytes);
    return *pointer ? SUCCESS : OUT_OF_MEMORY;
}
API int cuMemFreeHost(void* pointer) {
    CHECK(ready_outside_capture());
    wait_for_users(pointer, allocated_bytes(pointer));
    return release_pinned(pointer) ? SUCCESS : INVALID_VALUE;
}

API int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) {
    CHECK(ready());
    if (!contains(address(to), bytes)) return INVALID_VALUE;
    return copy(stream, address(to), from, bytes, !is_pinned(from, bytes));
}
API int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) {
    CHECK(ready());
    if (!contains(address(from), bytes)) return INVALID_VALUE;
    CHECK(copy(stream, to, address(from), bytes, false));
    // Into pageable memory the copy is complete on return.
    Stream* live = stream_of(stream);
    if (!is_pinned(to, bytes) && !live->capture) wait_for(*live);
    return SUCCESS;
}
API int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* stream) {
    CHECK(ready());
    if (!contains(address(from), bytes) || !contains(address(to), bytes)) return INVALID_VALUE;
    if (to < from + bytes && from < to + bytes) return INVALID_VALUE;
    return copy(stream, address(to), address(from), bytes, false);
}
API int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void* stream) {
    CHECK(ready());
    if (!contains(address(to), bytes)) return INVALID_VALUE;
    Work work{};
    work.kind = Work::FILL;
    work.to = address(to);
    work.words[0] = value;
    work.bytes = bytes;
    return queue(stream, std::move(work));
}

API int cuStreamCreate(void** stream, unsigned) {
    CHECK(ready());
    auto made = std::make_shared<Stream>();
    register_stream(made);
    *stream = new std::shared_ptr<Stream>(std::move(made));
    return SUCCESS;
}
API int cuStreamDestroy_v2(void* stream) {
    if (!stream) return INVALID_HANDLE;
    // A driver returns at once and lets the work end; here it is run, unless it never ends.
    if (!sticky()) stream_of(stream)->finish();
    if (capturing == stream_of(stream)) capturing = nullptr;
    delete static_cast<std::shared_ptr<Stream>*>(stream);
    return sticky();
}
// Work that nobody waits for is not run: asking is waiting, unless the device hangs.
API int cuStreamQuery(void* stream) {
    CHECK(ready());
    Stream* live = stream_of(stream);
    if (!live) return INVALID_HANDLE;
    if (live->capture) {
        live->capture_invalid = true;
        return CAPTURE_UNSUPPORTED;
    }
    if (!live->finish()) return NOT_READY;
    check_guards();
    return sticky();
}
API int cuStreamSynchronize(void* stream) {
    for (;;) {
        const int code = cuStreamQuery(stream);
        if (code != NOT_READY) return code;
        wait_while_hung();
    }
}
API int cuStreamWaitEvent(void* stream, void* event, unsigned) {
    CHECK(ready());
    if (!event) return INVALID_HANDLE;
    Work work{};
    work.kind = Work::WAIT;
    work.moment = static_cast<Event*>(event)->moment;
    if (!work.moment) return SUCCESS;  // never recorded
    if (stream_of(stream)->capture) return CAPTURE_ISOLATION;
    return queue(stream, std::move(work));
}

API int cuStreamBeginCapture_v2(void* stream, int) {
    CHECK(ready_outside_capture());
    Stream* live = stream_of(stream);
    if (!live) return INVALID_HANDLE;
    if (live->capture) return CAPTURE_UNSUPPORTED;
    live->capture = std::make_unique<std::vector<Work>>();
    live->capture_invalid = false;
    capturing = live;
    return SUCCESS;
}
API int cuStreamEndCapture(void* stream, void** graph) {
    *graph = nullptr;
    CHECK(ready());
    Stream* live = stream_of(stream);
    if (!live || !live->capture) return INVALID_VALUE;
    auto work = std::move(live->capture);
    if (capturing == live) capturing = nullptr;
    if (live->capture_invalid) return CAPTURE_INVALIDATED;
    *graph = new Graph{std::move(*work)};
    return SUCCESS;
}
API int cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long) {
    CHECK(ready_outside_capture());
    auto made = std::make_unique<GraphExec>();
    made->work = std::make_shared<const std::vector<Work>>(static_cast<Graph*>(graph)->work);
    for (const Work& work : *made->work) made->launches += work.kind == Work::LAUNCH;
    *exec = made.release();
    return SUCCESS;
}
API int cuGraphDestroy(void* graph) {
    delete static_cast<Graph*>(graph);
    return SUCCESS;
}
API int cuGraphExecDestroy(void* exec) {
    delete static_cast<GraphExec*>(exec);
    return SUCCESS;
}
API int cuGraphLaunch(void* exec, void* stream) {
    CHECK(ready());
    const GraphExec* graph = static_cast<GraphExec*>(exec);
    if (!graph) return INVALID_HANDLE;
    CHECK(count_launches(graph->launches));
    Work work{};
    work.kind = Work::GRAPH;
    work.graph = graph->work;
    return queue(stream, std::move(work));
}

API int cuModuleLoadData(void** module, const void* image) {
    CHECK(ready_outside_capture());
    *module = &context_token;
    return image ? SUCCESS : INVALID_VALUE;
}
API int cuModuleUnload(void*) { return SUCCESS; }
API int cuModuleGetFunction(void** function, void*, const char* name) {
    CHECK(ready());
    const auto found = functions().find(name);
    if (found == functions().end()) return NOT_FOUND;
    *function = &found->second;
    return SUCCESS;
}
API int cuFuncSetAttribute(void* function, int attribute, int value) {
    CHECK(ready());
    // 8: dynamic shared memory at most
    if (attribute != 8 || value < 0 || static_cast<unsigned>(value) > shared_bytes_limit()) return INVALID_VALUE;
    static_cast<Function*>(function)->shared_bytes_max = static_cast<unsigned>(value);
    return SUCCESS;
}

API int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                       unsigned shared_bytes, void* stream, void** parameters, void** extra) {
    CHECK(ready());
    const Function* found = static_cast<Function*>(function);
    if (!found) return INVALID_HANDLE;
    // CUDA programming guide, "Technical Specifications per Compute Capability".
    if (gx == 0 || gy == 0 || gz == 0 || gx > 0x7fffffff || gy > 65535 || gz > 65535) return INVALID_VALUE;
    if (bx == 0 || by == 0 || bz == 0 || bx > 1024 || by > 1024 || bz > 64) return INVALID_VALUE;
    if (uint64_t{bx} * by * bz > 1024 || extra) return INVALID_VALUE;
    if (shared_bytes > found->shared_bytes_max) return INVALID_VALUE;
    if (bx * by * bz > found->kernel->threads_max) return LAUNCH_OUT_OF_RESOURCES;
    Work work{};
    work.kind = Work::LAUNCH;
    work.launch = {found->kernel, {gx, gy, gz}, {bx, by, bz}, shared_bytes};
    const char* signature = found->kernel->signature;
    for (size_t i = 0; signature[i] != 0; i++) {
        if (i == 32 || !parameters || !parameters[i]) return INVALID_VALUE;
        const bool narrow = std::strchr("iuf", signature[i]) != nullptr;
        std::memcpy(&work.words[i], parameters[i], narrow ? 4 : 8);
    }
    Stream* live = stream_of(stream);
    if (live && !live->capture) CHECK(count_launches(1));
    return queue(stream, std::move(work));
}

API int cuEventCreate(void** event, unsigned) {
    CHECK(ready());
    *event = new Event;
    return SUCCESS;
}
API int cuEventDestroy_v2(void* event) {
    delete static_cast<Event*>(event);
    return SUCCESS;
}
API int cuEventRecord(void* event, void* stream) {
    CHECK(ready());
    Work work{};
    work.kind = Work::RECORD;
    work.moment = std::make_shared<Moment>();
    work.moment->stream = *static_cast<std::shared_ptr<Stream>*>(stream);
    static_cast<Event*>(event)->moment = work.moment;
    return queue(stream, std::move(work));
}
API int cuEventQuery(void* event) {
    CHECK(ready());
    const auto moment = static_cast<Event*>(event)->moment;
    if (!moment) return SUCCESS;
    if (const auto stream = moment->stream.lock()) {
        if (!stream->finish(*moment)) return NOT_READY;
    }
    return sticky();
}
API int cuEventElapsedTime(float* elapsed_ms, void* start, void* end) {
    CHECK(ready());
    const auto first = static_cast<Event*>(start)->moment, last = static_cast<Event*>(end)->moment;
    if (!first || !last) return INVALID_HANDLE;
    if (!first->done || !last->done) return NOT_READY;
    *elapsed_ms = std::chrono::duration<float, std::milli>(last->time - first->time).count();
    return SUCCESS;
}

// For tests only; a driver has no such functions.

// The kinds of a kernel's parameters, or null: see Kernel::signature.
API const char* triaged_shim_signature(const char* kernel) {
    const auto found = functions().find(kernel);
    return found == functions().end() ? nullptr : found->second.kernel->signature;
}
// The launch that is `launches` after the last one fails with `code`; with code 0 the device is well again.
API void triaged_shim_fail(uint64_t launches, int code) { fail_after(launches, code); }
API uint64_t triaged_shim_launches() { return launches_counted(); }
API void triaged_shim_reverse(int reverse) { set_reverse(reverse != 0); }
