// A small libnvinfer of each major version, for tests of the binding: -DMAJOR=8, 10 or 11, -DVERSION=what getInferLibVersion says.
//
// The classes are declared as in NVIDIA's headers (NvInferImpl.h 8.6, 10.7 and 11.4), method after method, so that the compiler lays out the tables
// of virtual functions. Methods that the binding must not call end the process. What is called is written to a log that the test reads.
// Its network: lungs = 4 slice - 2; lesions = 8 slice - 4, features[c] = (c + 1) slice. Its device memory is the test's: plain addresses.
// fake_fail names one step that fails: builder, config, parse, build, runtime, deserialize, context, shape, enqueue.

#include <dlfcn.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

#if MAJOR == 8
using Size = int32_t;
#else
using Size = int64_t;
#endif
struct Dims {
    int32_t nbDims;
    Size d[8];
};

std::mutex logLock;
std::string logText;

void record(std::string const& line) {
    std::lock_guard<std::mutex> hold(logLock);
    logText += line + "\n";
}

[[noreturn]] void unused(char const* name) {
    std::fprintf(stderr, "fake TensorRT: %s was called\n", name);
    std::abort();
}
// A method that the binding does not use: it has a place in the table, and must not be called.
#define U(name) \
    virtual void name() { unused(#name); }

std::string failing;
// Bytes that a context needs.
std::atomic<int64_t> engineMemory{4096};

bool fails(char const* step) {
    std::lock_guard<std::mutex> hold(logLock);
    return failing == step;
}

std::string text(Dims const& dims) {
    std::string out;
    for (int i = 0; i < dims.nbDims; ++i) out += (i ? "x" : "") + std::to_string(dims.d[i]);
    return out;
}

// What the binding implements.
struct InterfaceInfo {
    char const* kind;
    int32_t major;
    int32_t minor;
};
class IVersionedInterface {
public:
    virtual int32_t getAPILanguage() const noexcept = 0;
    virtual InterfaceInfo getInterfaceInfo() const noexcept = 0;
    virtual ~IVersionedInterface() noexcept = default;
};

#if MAJOR >= 11
class ILogger : public IVersionedInterface {
public:
    virtual void log(int32_t severity, char const* message) noexcept = 0;
};
#else
class ILogger {
public:
    virtual void log(int32_t severity, char const* message) noexcept = 0;
    virtual ~ILogger() = default;
};
#endif

#if MAJOR >= 10
class IErrorRecorder : public IVersionedInterface {
public:
#else
class IErrorRecorder {
public:
    virtual ~IErrorRecorder() noexcept = default;
#endif
    virtual int32_t getNbErrors() const noexcept = 0;
    virtual int32_t getErrorCode(int32_t index) const noexcept = 0;
    virtual char const* getErrorDesc(int32_t index) const noexcept = 0;
    virtual bool hasOverflowed() const noexcept = 0;
    virtual void clear() noexcept = 0;
    virtual bool reportError(int32_t code, char const* text) noexcept = 0;
    virtual int32_t incRefCount() noexcept = 0;
    virtual int32_t decRefCount() noexcept = 0;
};

ILogger* theLogger;

void open(void* logger) {
    theLogger = static_cast<ILogger*>(logger);
#if MAJOR >= 11
    if (std::strcmp(theLogger->getInterfaceInfo().kind, "ILogger") != 0 || theLogger->getAPILanguage() != 0) unused("a logger of another kind");
#endif
    theLogger->log(3, "the fake speaks");
    theLogger->log(2, "the fake warns");
}

// Keeps a recorder as TensorRT does: a reference counted, errors reported and read back.
struct Recorded {
    IErrorRecorder* recorder = nullptr;
    void set(IErrorRecorder* given) {
#if MAJOR >= 10
        if (std::strcmp(given->getInterfaceInfo().kind, "IErrorRecorder") != 0) unused("a recorder of another kind");
#endif
        recorder = given;
        if (recorder->incRefCount() < 2) unused("a recorder without references");
        recorder->clear();
        if (recorder->getNbErrors() != 0 || recorder->hasOverflowed()) unused("a recorder that does not forget");
    }
    void* fail(char const* step) {
        std::string said = std::string("the fake fails at ") + step;
        if (recorder) {
            if (recorder->reportError(7, said.c_str())) unused("an error that ends the process");
            if (said != recorder->getErrorDesc(0) || recorder->getErrorCode(0) != 7) unused("a recorder that does not keep");
        } else {
            theLogger->log(1, said.c_str());
        }
        return nullptr;
    }
    ~Recorded() {
        if (recorder) recorder->decRefCount();
    }
};

class VRoot {
public:
    virtual ~VRoot() noexcept = default;
};

// A public object: its table, then the implementation.
template <class V>
class Public {
public:
    Public(char const* name, V* impl) : mImpl(impl), mName(name) {}
    virtual ~Public() noexcept {
        delete mImpl;
        record(std::string("delete ") + mName);
    }
    V* mImpl;
    char const* mName;
};

class VHostMemory : public VRoot {
public:
    explicit VHostMemory(std::string bytes) : mBytes(std::move(bytes)) {}
    virtual void* data() const noexcept { return const_cast<char*>(mBytes.data()); }
    virtual std::size_t size() const noexcept { return mBytes.size(); }
    U(type)
    std::string mBytes;
};
void* host(std::string bytes) { return new Public<VHostMemory>("memory", new VHostMemory(std::move(bytes))); }

// A plan is a text: "fake MAJOR NETWORK PROFILES MIN OPT MAX".
struct Plan {
    bool multitask = false;
    int profiles = 0;
    Dims range[3] = {};
};

std::string write(Plan const& plan) {
    std::string out = "fake " + std::to_string(MAJOR) + (plan.multitask ? " multitask " : " lungs ") + std::to_string(plan.profiles);
    for (auto const& dims : plan.range) {
        for (int i = 0; i < 4; ++i) out += " " + std::to_string(dims.d[i]);
    }
    return out;
}

bool read(void const* blob, std::size_t size, Plan& plan) {
    std::string bytes(static_cast<char const*>(blob), size);
    char name[16];
    int major, used;
    if (std::sscanf(bytes.c_str(), "fake %d %15s %d%n", &major, name, &plan.profiles, &used) != 3 || major != MAJOR) return false;
    plan.multitask = std::strcmp(name, "multitask") == 0;
    char const* at = bytes.c_str() + used;
    for (auto& dims : plan.range) {
        dims.nbDims = 4;
        for (int i = 0; i < 4; ++i) {
            char* end;
            dims.d[i] = static_cast<Size>(std::strtol(at, &end, 10));
            if (end == at) return false;
            at = end;
        }
    }
    return true;
}

struct Tensor {
    std::string name;
    bool input;
    Size channels;
};
std::vector<Tensor> tensors(Plan const& plan) {
    if (plan.multitask) return {{"slice", true, 1}, {"features", false, 8}, {"lesions", false, 1}};
    return {{"slice", true, 1}, {"lungs", false, 1}};
}

#include "fake_runtime.h"
#include "fake_builder.h"

} // namespace

EXPORT char const* fake_log() {
    std::lock_guard<std::mutex> hold(logLock);
    static std::string copy;
    copy = logText;
    logText.clear();
    return copy.c_str();
}

EXPORT void fake_fail(char const* step) {
    std::lock_guard<std::mutex> hold(logLock);
    failing = step;
}

EXPORT void fake_memory(int64_t bytes) { engineMemory = bytes; }

EXPORT int32_t getInferLibVersion() { return VERSION; }

#ifndef NO_RUNTIME
EXPORT void* createInferRuntime_INTERNAL(void* logger, int32_t version) {
    if (version != VERSION) unused("createInferRuntime with another version");
    open(logger);
    if (fails("runtime")) return Recorded().fail("runtime");
    return new Public<VRuntime>("runtime", new VRuntime);
}
#endif

#ifndef NO_BUILDER
EXPORT void* createInferBuilder_INTERNAL(void* logger, int32_t version) {
    if (version != VERSION) unused("createInferBuilder with another version");
    open(logger);
    if (fails("builder")) return Recorded().fail("builder");
    return new Public<VBuilder>("builder", new VBuilder);
}
#endif

// The parser is another library with NVIDIA; here the test gives the same file both names.
EXPORT int getNvOnnxParserVersion() { return VERSION + 1; }
EXPORT void* createNvOnnxParser_INTERNAL(void* network, void* logger, int version) {
    if (version != VERSION + 1 || logger != theLogger) unused("createNvOnnxParser with another version or logger");
    return new IParser(static_cast<Public<VNetworkDefinition>*>(network)->mImpl);
}
