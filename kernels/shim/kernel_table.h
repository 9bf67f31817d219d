// The table of kernels, at the end of the kernels' translation unit: calls by the types of their parameters.
#pragma once

#include <utility>

#include "shim.h"

namespace shim {

template <class T>
constexpr char letter() {
    if constexpr (__is_same(T, int)) return 'i';
    else if constexpr (__is_same(T, unsigned)) return 'u';
    else if constexpr (__is_same(T, float)) return 'f';
    else if constexpr (__is_same(T, double)) return 'd';
    else {
        static_assert(sizeof(T) == 8, "a parameter is an address, int, unsigned, 64-bit integer, float or double");
        return static_cast<T>(-1) < static_cast<T>(0) || static_cast<T>(-1) > static_cast<T>(0) ? 'U' : '?';
    }
}
template <class T>
struct Letter {
    static constexpr char value = letter<T>();
};
template <class T>
struct Letter<T*> {
    static constexpr char value = 'p';
};

template <auto kernel, class... Parameters>
struct Caller {
    static constexpr char signature[] = {Letter<Parameters>::value..., '\0'};

    template <size_t... I>
    static void apply(void** arguments, std::index_sequence<I...>) {
        (void)arguments;
        kernel(*static_cast<Parameters*>(arguments[I])...);
    }
    static void call(void** arguments) { apply(arguments, std::index_sequence_for<Parameters...>{}); }
};

template <auto kernel, class... Parameters>
constexpr Kernel entry(const char* name, unsigned threads_max, void (*)(Parameters...)) {
    using C = Caller<kernel, Parameters...>;
    return {name, C::call, C::signature, threads_max};
}

// Of __launch_bounds__(threads, blocks...).
constexpr unsigned bounds(unsigned threads = 1024, unsigned = 0) { return threads; }

}  // namespace shim

#define SHIM_KERNEL(name, ...) shim::entry<name>(#name, shim::bounds(__VA_ARGS__), name),
