// nvcuda::wmma: matrix fragments of one warp, half × half + float.
//
// On a GPU the 32 lanes hold parts of a fragment; here lane 0 holds all of it and does the work, and the other lanes
// pass. So what a kernel writes to shared memory and then loads as a fragment needs a barrier between, as on a GPU,
// and single elements (`x[i]`, `num_elements`) may only be treated all alike.
#pragma once

namespace nvcuda::wmma {

struct row_major {};
struct col_major {};
struct matrix_a {};
struct matrix_b {};
struct accumulator {};
enum layout_t { mem_row_major, mem_col_major };

namespace detail {

template <class Use, int m, int n, int k> struct Shape;
template <int m, int n, int k> struct Shape<matrix_a, m, n, k> { static constexpr int rows = m, columns = k; };
template <int m, int n, int k> struct Shape<matrix_b, m, n, k> { static constexpr int rows = k, columns = n; };
template <int m, int n, int k> struct Shape<accumulator, m, n, k> { static constexpr int rows = m, columns = n; };

// PTX ISA, wmma.load: the address is a multiple of 32 bytes, the stride a multiple of 16 bytes (8 halves, 4 floats).
inline void check_place(const void* at, unsigned stride, size_t size) {
    if (reinterpret_cast<uintptr_t>(at) % 32 != 0) shim::fault("a matrix fragment at an address that is no multiple of 32");
    if (stride * size % 16 != 0) shim::fault("a matrix fragment with a stride that is no multiple of 16 bytes");
}

}  // namespace detail

// Elements row by row, in f32: a half is exact in it.
template <class Use, int m, int n, int k, class T, class Layout = void>
struct fragment {
    static_assert((m == 16 && n == 16 && k == 16) || (m == 32 && n == 8 && k == 16) || (m == 8 && n == 32 && k == 16),
                  "shapes of f16 fragments");
    using shape = detail::Shape<Use, m, n, k>;
    static constexpr int num_elements = shape::rows * shape::columns;
    alignas(64) float x[num_elements];
};

template <class Use, int m, int n, int k, class T, class Layout, class V>
inline void fill_fragment(fragment<Use, m, n, k, T, Layout>& to, const V& value) {
    if (shim::lane() != 0) return;
    for (float& x : to.x) x = static_cast<float>(value);
}

template <class Use, int m, int n, int k, class Layout>
inline void load_matrix_sync(fragment<Use, m, n, k, __half, Layout>& to, const __half* from, unsigned stride) {
    using shape = detail::Shape<Use, m, n, k>;
    if (shim::lane() != 0) return;
    detail::check_place(from, stride, sizeof(__half));
    if constexpr (__is_same(Layout, row_major)) {
        for (int r = 0; r < shape::rows; r++) shim::widen(from + r * stride, to.x + r * shape::columns, shape::columns);
    } else {
        static_assert(__is_same(Layout, col_major), "a or b needs a layout");
        for (int c = 0; c < shape::columns; c++) {
            float column[shape::rows];
            shim::widen(from + c * stride, column, shape::rows);
            for (int r = 0; r < shape::rows; r++) to.x[r * shape::columns + c] = column[r];
        }
    }
}

template <int m, int n, int k, class T>
inline void load_matrix_sync(fragment<accumulator, m, n, k, T>& to, const T* from, unsigned stride, layout_t layout) {
    if (shim::lane() != 0) return;
    detail::check_place(from, stride, sizeof(T));
    const unsigned down = layout == mem_row_major ? stride : 1, across = layout == mem_row_major ? 1 : stride;
    for (int r = 0; r < m; r++)
        for (int c = 0; c < n; c++) to.x[r * n + c] = from[r * down + c * across];
}

template <int m, int n, int k, class T>
inline void store_matrix_sync(T* to, const fragment<accumulator, m, n, k, T>& from, unsigned stride, layout_t layout) {
    if (shim::lane() != 0) return;
    detail::check_place(to, stride, sizeof(T));
    if (layout == mem_row_major) {
        for (int r = 0; r < m; r++)
            for (int c = 0; c < n; c++) to[r * stride + c] = from.x[r * n + c];
    } else {
        for (int c = 0; c < n; c++)
            for (int r = 0; r < m; r++) to[c * stride + r] = from.x[r * n + c];
    }
}

// d = a b + c with f32 sums in the order of k. Tensor cores sum in another order and keep a few bits less.
template <int m, int n, int k, class LayoutA, class LayoutB>
inline void mma_sync(fragment<accumulator, m, n, k, float>& d, const fragment<matrix_a, m, n, k, __half, LayoutA>& a,
                     const fragment<matrix_b, m, n, k, __half, LayoutB>& b,
                     const fragment<accumulator, m, n, k, float>& c) {
    if (shim::lane() != 0) return;
    for (int row = 0; row < m; row++) {
        float sums[n];
        for (int column = 0; column < n; column++) sums[column] = c.x[row * n + column];
        for (int i = 0; i < k; i++) {
            const float factor = a.x[row * k + i];
            for (int column = 0; column < n; column++) {
                sums[column] = __builtin_fmaf(factor, b.x[i * n + column], sums[column]);
            }
        }
        for (int column = 0; column < n; column++) d.x[row * n + column] = sums[column];
    }
}

}  // namespace nvcuda::wmma
