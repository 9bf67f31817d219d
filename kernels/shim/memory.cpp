// Device memory and page-locked memory of the software device.
//
// Owns: every allocation, between two guards: pages that can't be touched, and a pattern in what is left of the pages.
// Never does: hand out memory past the device's size; zero it (it is filled with NaNs, as far as that is cheap).
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <vector>

#include "shim.h"

namespace shim {

namespace {

constexpr size_t PAGE = 4096;
// Wide enough that an index wrong by some planes still hits it; addresses cost nothing.
constexpr size_t GUARD = 1024 * PAGE;
constexpr size_t ALIGNMENT = 256;
constexpr size_t UNIT = 512;
constexpr unsigned char PATTERN = 0xa7;
// Both f32 and f16 of these bytes are NaN: what is read before it was written spoils its result.
constexpr unsigned char UNWRITTEN = 0xff;
constexpr size_t UNWRITTEN_BYTES_MAX = size_t{64} << 20;
// Freed allocations whose addresses stay forbidden.
constexpr size_t FREED_MAX = 512;

struct Allocation {
    unsigned char* base;
    size_t mapped;
    unsigned char* data;
    size_t bytes;
    unsigned number;
    bool live;
};

std::mutex mutex;
std::map<uintptr_t, Allocation> allocations;  // by the base
std::deque<uintptr_t> freed;
std::map<uintptr_t, size_t> pinned;
size_t used = 0;
unsigned count = 0;

size_t total() {
    static const size_t bytes = [] {
        const char* text = std::getenv("TRIAGED_SHIM_MEMORY_MIB");
        return (text ? std::strtoull(text, nullptr, 10) : 8192) << 20;
    }();
    return bytes;
}

size_t pages(size_t bytes) { return (std::max<size_t>(bytes, 1) + PAGE - 1) / PAGE * PAGE; }

size_t counted(size_t bytes) { return (std::max<size_t>(bytes, 1) + UNIT - 1) / UNIT * UNIT; }

Allocation* find(uintptr_t address) {
    auto next = allocations.upper_bound(address);
    if (next == allocations.begin()) return nullptr;
    Allocation& candidate = std::prev(next)->second;
    return address < reinterpret_cast<uintptr_t>(candidate.base) + candidate.mapped ? &candidate : nullptr;
}

void describe(const Allocation& a, char* text, size_t size) {
    std::snprintf(text, size, "allocation %u of %zu bytes", a.number, a.bytes);
}

void check(const Allocation& a) {
    unsigned char* const first = a.base + GUARD;
    unsigned char* const last = a.base + a.mapped - GUARD;
    char name[80], text[200];
    describe(a, name, sizeof name);
    for (unsigned char* at = first; at < a.data; at++) {
        if (*at == PATTERN) continue;
        std::snprintf(text, sizeof text, "something wrote %zu bytes before %s", static_cast<size_t>(a.data - at), name);
        fault(text);
    }
    for (unsigned char* at = a.data + a.bytes; at < last; at++) {
        if (*at == PATTERN) continue;
        std::snprintf(text, sizeof text, "something wrote %zu bytes past the end of %s",
                      static_cast<size_t>(at - (a.data + a.bytes)), name);
        fault(text);
    }
}

// The checks of alignment that are compiled into kernels end in a trap: an illegal instruction, or a breakpoint.
constexpr int SIGNALS[] = {SIGSEGV, SIGILL, SIGTRAP};
struct sigaction before_us[3];

// Explains a touch of a guard; any other fault is left to whoever was there before. Little stack is left here.
void on_fault(int signal, siginfo_t* info, void* context) {
    static char name[80], text[240];
    if (signal != SIGSEGV && *where() != 0) fault("an access at an address that is no multiple of its alignment");
    const uintptr_t address = reinterpret_cast<uintptr_t>(info->si_addr);
    // The mutex may be held by this thread; the process ends in any case.
    const bool locked = mutex.try_lock();
    if (const Allocation* a = find(address)) {
        const uintptr_t data = reinterpret_cast<uintptr_t>(a->data);
        describe(*a, name, sizeof name);
        if (!a->live) {
            std::snprintf(text, sizeof text, "a touch of freed %s", name);
        } else if (address < data) {
            std::snprintf(text, sizeof text, "a touch %zu bytes before %s", static_cast<size_t>(data - address), name);
        } else {
            std::snprintf(text, sizeof text, "a touch %zu bytes past the end of %s",
                          static_cast<size_t>(address - data - a->bytes), name);
        }
        fault(text);
    }
    if (locked) mutex.unlock();
    if (*where() != 0) {
        std::snprintf(text, sizeof text, "a touch of address %#zx, which is no device memory", static_cast<size_t>(address));
        fault(text);
    }
    const struct sigaction& before = before_us[signal == SIGSEGV ? 0 : signal == SIGILL ? 1 : 2];
    if (before.sa_flags & SA_SIGINFO) {
        before.sa_sigaction(signal, info, context);
    } else {
        ::signal(signal, SIG_DFL);
    }
}

}  // namespace

void watch_faults() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction ours = {};
        ours.sa_sigaction = on_fault;
        ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
        for (int i = 0; i < 3; i++) sigaction(SIGNALS[i], &ours, &before_us[i]);
    });
}

void* allocate(size_t bytes) {
    const std::lock_guard lock(mutex);
    if (counted(bytes) > total() - used) return nullptr;
    // The end lies at a guard as near as the alignment allows.
    const size_t pages = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const size_t inner = std::max(PAGE, (pages + PAGE - 1) / PAGE * PAGE), mapped = inner + 2 * GUARD;
    void* memory = mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    unsigned char* base = static_cast<unsigned char*>(memory);
    if (mprotect(base + GUARD, inner, PROT_READ | PROT_WRITE) != 0) {
        munmap(memory, mapped);
        return nullptr;
    }
    unsigned char* data = base + GUARD + inner - pages;
    std::memset(base + GUARD, PATTERN, inner - pages);
    std::memset(data, UNWRITTEN, std::min(bytes, UNWRITTEN_BYTES_MAX));
    std::memset(data + bytes, PATTERN, pages - bytes);
    used += counted(bytes);
    allocations[reinterpret_cast<uintptr_t>(base)] = {base, mapped, data, bytes, ++count, true};
    return data;
}

namespace {

// With the mutex held.
void take_back(Allocation* a) {
    // The addresses stay taken for a while, so that a use after the end is seen.
    mmap(a->base, a->mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    a->live = false;
    used -= counted(a->bytes);
    freed.push_back(reinterpret_cast<uintptr_t>(a->base));
    if (freed.size() > FREED_MAX) {
        const auto oldest = allocations.find(freed.front());
        munmap(oldest->second.base, oldest->second.mapped);
        allocations.erase(oldest);
        freed.pop_front();
    }
}

}  // namespace

bool release(void* data) {
    const std::lock_guard lock(mutex);
    Allocation* a = find(reinterpret_cast<uintptr_t>(data));
    if (!a || a->data != data || !a->live) return false;
    check(*a);
    take_back(a);
    return true;
}

// As a reset does: device memory and page-locked memory, which nobody may touch any more.
void release_all() {
    const std::lock_guard lock(mutex);
    std::vector<Allocation*> live;
    for (auto& [base, a] : allocations) {
        if (a.live) live.push_back(&a);
    }
    // Taking one back may erase the oldest that was freed: a live one only after it was taken back itself.
    for (Allocation* a : live) take_back(a);
    for (const auto& [address, bytes] : pinned) mprotect(reinterpret_cast<void*>(address), pages(bytes), PROT_NONE);
    pinned.clear();
}

size_t allocated_bytes(const void* data) {
    const std::lock_guard lock(mutex);
    const uintptr_t at = reinterpret_cast<uintptr_t>(data);
    if (const auto found = pinned.find(at); found != pinned.end()) return found->second;
    const Allocation* a = find(at);
    return a && a->live ? a->bytes : 0;
}

bool contains(const void* data, size_t bytes) {
    const std::lock_guard lock(mutex);
    const uintptr_t at = reinterpret_cast<uintptr_t>(data);
    const Allocation* a = find(at);
    if (!a || !a->live) return false;
    const uintptr_t first = reinterpret_cast<uintptr_t>(a->data);
    return at >= first && bytes <= a->bytes && at - first <= a->bytes - bytes;
}

void check_guards() {
    const std::lock_guard lock(mutex);
    for (const auto& [base, allocation] : allocations) {
        if (allocation.live) check(allocation);
    }
}

void memory_info(size_t& free_bytes, size_t& total_bytes) {
    const std::lock_guard lock(mutex);
    total_bytes = total();
    free_bytes = total() - used;
}

void* allocate_pinned(size_t bytes) {
    void* memory = nullptr;
    if (posix_memalign(&memory, PAGE, pages(bytes)) != 0) return nullptr;
    const std::lock_guard lock(mutex);
    pinned[reinterpret_cast<uintptr_t>(memory)] = bytes;
    return memory;
}

bool release_pinned(void* data) {
    const std::lock_guard lock(mutex);
    if (pinned.erase(reinterpret_cast<uintptr_t>(data)) == 0) return false;
    std::free(data);
    return true;
}

bool is_pinned(const void* data, size_t bytes) {
    const std::lock_guard lock(mutex);
    const uintptr_t at = reinterpret_cast<uintptr_t>(data);
    auto next = pinned.upper_bound(at);
    if (next == pinned.begin()) return false;
    const auto& [base, size] = *std::prev(next);
    return at + bytes <= base + size;
}

}  // namespace shim
