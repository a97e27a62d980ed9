// CUDA's <mma.h>: products of matrices that the lanes of a warp have in fragments, nvcuda::wmma.
//
// Which elements a lane has is nobody's business: here numbers lane, lane + 32, ... of the matrix, row by row. (Of half
// it has each twice, so as many as on a GPU.) It loads and stores them like any others, one by one. What a fragment
// holds before it is loaded or filled is no number. Matrices of 1 and of 4 bits are not here.
#pragma once
#include "emulator/device.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace nvcuda {
namespace wmma {

struct row_major;
struct col_major;
struct matrix_a;
struct matrix_b;
struct accumulator;
enum layout_t { mem_row_major, mem_col_major };

namespace precision {
struct tf32;
}
inline float __float_to_tf32(float x) { return __uint_as_float(emulator::to_tf32(x)); }

namespace details {

template <class T>
constexpr emulator::Number number = emulator::NONE;
template <> constexpr emulator::Number number<__half> = emulator::FP16;
template <> constexpr emulator::Number number<__nv_bfloat16> = emulator::BF16;
template <> constexpr emulator::Number number<precision::tf32> = emulator::TF32;
template <> constexpr emulator::Number number<float> = emulator::F32;
template <> constexpr emulator::Number number<double> = emulator::F64;
template <> constexpr emulator::Number number<signed char> = emulator::S8;
template <> constexpr emulator::Number number<unsigned char> = emulator::U8;
template <> constexpr emulator::Number number<int> = emulator::S32;

// Of A and B are made FP16, BF16, TF32, F64, S8 and U8, of sums FP16, F32, F64 and S32.
constexpr bool is_shape(emulator::Number of, bool sum, int m, int n, int k) {
    const bool wide = k == 16 && ((m == 16 && n == 16) || (m == 32 && n == 8) || (m == 8 && n == 32));
    const bool of_tf32 = m == 16 && n == 16 && k == 8, of_double = m == 8 && n == 8 && k == 4;
    if (of == emulator::NONE) return false;
    if (of == emulator::F64) return of_double;
    if (of == emulator::F32) return sum && (wide || of_tf32);
    if (of == emulator::S32) return sum && wide;
    if (of == emulator::TF32) return !sum && of_tf32;
    return wide && (!sum || of == emulator::FP16);
}
constexpr bool is_sum(emulator::Number of, emulator::Number sum) {
    if (of == emulator::F64) return sum == emulator::F64;
    if (of == emulator::S8 || of == emulator::U8) return sum == emulator::S32;
    return sum == emulator::F32 || (of == emulator::FP16 && sum == emulator::FP16);
}

template <class T>
struct Stored {
    typedef T type;
};
template <>
struct Stored<precision::tf32> {
    typedef float type;
};

template <class Use, int M, int N, int K>
struct Size;
template <int M, int N, int K>
struct Size<matrix_a, M, N, K> {
    enum { rows = M, columns = K, sum = false };
};
template <int M, int N, int K>
struct Size<matrix_b, M, N, K> {
    enum { rows = K, columns = N, sum = false };
};
template <int M, int N, int K>
struct Size<accumulator, M, N, K> {
    enum { rows = M, columns = N, sum = true };
};

template <class Layout>
constexpr bool by_rows = false;
template <>
constexpr bool by_rows<row_major> = true;

// act(index in the fragment, place in memory) for each element that a lane has.
template <class Fragment, class Act>
EMULATOR_HERE void each_element(const Fragment&, bool by_rows, unsigned stride, Act act) {
    const int lane = emulator::self->lane;
    for (int e = 0; e < Fragment::emulator_own; e++) {
        const unsigned i = 32 * e + lane, row = i / Fragment::emulator_columns, column = i % Fragment::emulator_columns;
        act(e, by_rows ? row * size_t(stride) + column : column * size_t(stride) + row);
    }
}

EMULATOR_FUNCTION void check_matrix(const void* first, size_t stride, size_t fragment_bytes) {
    emulator::matrix_in_memory(first, stride, fragment_bytes, EMULATOR_WHERE);
}

EMULATOR_FUNCTION void multiply(const emulator::WarpProduct& product) {
    emulator::multiply_fragments(product, EMULATOR_WHERE);
}

}  // namespace details

template <class Use, int M, int N, int K, class T, class Layout = void>
class __attribute__((aligned(8))) fragment {
    typedef details::Size<Use, M, N, K> Size;
    static_assert(details::is_shape(details::number<T>, Size::sum, M, N, K), "wmma has no such matrices of this type");

public:
    enum { emulator_own = Size::rows * Size::columns / 32, emulator_columns = Size::columns };
    enum { num_elements = details::number<T> == emulator::FP16 && !Size::sum ? 16 : emulator_own };
    enum { num_storage_elements = num_elements };
    typedef T element_type;
    typedef typename details::Stored<T>::type storage_element_type;
    storage_element_type x[num_elements];
    __attribute__((no_sanitize("thread"))) fragment() { __builtin_memset(this, 0xff, sizeof *this); }
};

template <class Use, int M, int N, int K, class T, class Layout>
EMULATOR_HERE void fill_fragment(fragment<Use, M, N, K, T, Layout>& f, const typename details::Stored<T>::type& value) {
    for (int e = 0; e < f.num_elements; e++) f.x[e] = value;
}

template <class Use, int M, int N, int K, class T, class Layout>
EMULATOR_HERE void load_matrix_sync(fragment<Use, M, N, K, T, Layout>& f, const typename details::Stored<T>::type* from,
                                    unsigned stride) {
    static_assert(!details::Size<Use, M, N, K>::sum, "of an accumulator the layout must be said");
    details::check_matrix(from, stride * sizeof *from, sizeof f.x);
    details::each_element(f, details::by_rows<Layout>, stride, [&](int e, size_t i) { f.x[e] = from[i]; });
    for (int e = f.emulator_own; e < f.num_elements; e++) f.x[e] = f.x[e % f.emulator_own];
}

template <int M, int N, int K, class T>
EMULATOR_HERE void load_matrix_sync(fragment<accumulator, M, N, K, T>& f, const T* from, unsigned stride,
                                    layout_t layout) {
    details::check_matrix(from, stride * sizeof *from, sizeof f.x);
    details::each_element(f, layout == mem_row_major, stride, [&](int e, size_t i) { f.x[e] = from[i]; });
}

template <int M, int N, int K, class T>
EMULATOR_HERE void store_matrix_sync(T* to, const fragment<accumulator, M, N, K, T>& f, unsigned stride,
                                     layout_t layout) {
    details::check_matrix(to, stride * sizeof *to, sizeof f.x);
    details::each_element(f, layout == mem_row_major, stride, [&](int e, size_t i) { to[i] = f.x[e]; });
}

// D = A B + C
template <int M, int N, int K, class T, class ByA, class ByB, class D, class C>
EMULATOR_HERE void mma_sync(fragment<accumulator, M, N, K, D>& d, const fragment<matrix_a, M, N, K, T, ByA>& a,
                            const fragment<matrix_b, M, N, K, T, ByB>& b, const fragment<accumulator, M, N, K, C>& c,
                            bool saturate = false) {
    constexpr emulator::Number of = details::number<T>, before = details::number<C>, after = details::number<D>;
    static_assert(details::is_sum(of, before) && details::is_sum(of, after), "wmma has no such sums of these products");
    details::multiply({M, N, K, of, before, after, a.x, b.x, c.x, d.x, saturate});
}

}  // namespace wmma
}  // namespace nvcuda
