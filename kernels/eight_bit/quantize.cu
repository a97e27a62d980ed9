// Quantization with a scale for each channel, and back (definition: __init__.py): scale = max |x| / largest of the format.
//
// x (m, n), with channels along rows or columns. The largest absolute value of each row or column gives its scale (a
// maximum is the same in any order, NaN wins), then every number is divided by its channel's and rounded. The
// quotient is IEEE's, so codes and scales are NumPy's bit for bit.
//
// fp8 is done by hand, on the bits of the float, because it then runs everywhere (sm_89 and later have an instruction for
// it): add to the mantissa what rounds its last kept bit to even, cut off the rest, move the exponent's bias. Below the
// smallest normal number the code is simply a count of the smallest steps.
//
// All of it waits for memory, so the passes that go from number to number move four neighbours by one instruction.
#include "eight_bit/bytes.cuh"
#include "lib/fours.cuh"

__device__ float larger(float a, float b) { return a > b || a != a ? a : b; }  // NaN beats everything

__device__ float scale_of(float largest, float limit) {
    const float scale = largest / limit;
    return scale == 0 ? 1 : scale;
}

// One block of one warp for each row.
extern "C" __global__ void row_scales(const float* x, float* scale, int n, float limit) {
    const long long row = blockIdx.x;
    float largest = 0;
    for (int j = threadIdx.x; j < n; j += 32) largest = larger(largest, fabsf(x[row * n + j]));
#pragma unroll
    for (int bit = 16; bit; bit /= 2) largest = larger(largest, __shfl_xor_sync(0xffffffffu, largest, bit));
    if (threadIdx.x == 0) scale[row] = scale_of(largest, limit);
}

// The largest value of each column in each part of the rows. A block of 32 columns by 8 rows for each part of 32 columns:
// whole columns would be too few blocks to keep a card's memory busy.
extern "C" __global__ void __launch_bounds__(256)
    column_sizes(const float* x, float* sizes, long long m, int n, long long part) {
    __shared__ float tile[8][32];
    const int column = threadIdx.x % 32, line = threadIdx.x / 32;
    const long long j = blockIdx.x * 32LL + column, begin = blockIdx.y * part, end = min(m, begin + part);
    float largest = 0;
    if (j < n)
        for (long long i = begin + line; i < end; i += 8) largest = larger(largest, fabsf(x[i * n + j]));
    tile[line][column] = largest;
    __syncthreads();
    if (line || j >= n) return;
    for (int i = 1; i < 8; i++) largest = larger(largest, tile[i][column]);
    sizes[blockIdx.y * (long long)n + j] = largest;
}

// A thread for each column.
extern "C" __global__ void column_scales(const float* sizes, float* scale, int n, int parts, float limit) {
    const long long j = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (j >= n) return;
    float largest = 0;
    for (int part = 0; part < parts; part++) largest = larger(largest, sizes[part * (long long)n + j]);
    scale[j] = scale_of(largest, limit);
}

__device__ unsigned bits_of(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}

__device__ float float_of(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

// The nearest pattern with `mantissa` bits and this bias; `most` is that of the largest finite number.
__device__ unsigned char encode(float x, int mantissa, int bias, unsigned most) {
    const unsigned sign = bits_of(x) >> 31 << 7, size = bits_of(x) & 0x7fffffffu;
    if (x != x) return 0x7f;  // whatever its sign: a division keeps a NaN's on some processors
    if (size < unsigned(128 - bias) << 23)  // below the smallest normal number
        return sign | unsigned(rintf(float_of(size) * float_of(unsigned(126 + bias + mantissa) << 23)));
    const int cut = 23 - mantissa;
    const unsigned rounded = size + (1u << (cut - 1)) - 1 + (size >> cut & 1);
    return sign | min((rounded >> cut) - (unsigned(127 - bias) << mantissa), most);
}

// What a thread has: four neighbouring numbers of a row, or the `left` ones at its end.
struct Fours {
    long long row, at;
    int column, left;
};

__device__ bool fours_of(long long m, int n, Fours* f) {
    const long long across = (n + 3ll) / 4, thread = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (thread >= m * across) return false;
    f->row = thread / across;
    f->column = 4 * int(thread % across);
    f->left = n - f->column;
    f->at = f->row * n + f->column;
    return true;
}

__device__ Four scales_of(const float* scale, const Fours& f, bool rows) {
    if (!rows) return load_four(scale, f.column, f.left);
    const float own = scale[f.row];
    return {{own, own, own, own}};
}

// codes = code(x / scale). `words`: every four codes of a row are an aligned word.
template <class F>
__device__ void encode_all(const float* x, const float* scale, signed char* codes, long long m, int n, bool rows,
                           bool words, F code) {
    Fours f;
    if (!fours_of(m, n, &f)) return;
    const Four numbers = load_four(x, f.at, f.left), scales = scales_of(scale, f, rows);
    unsigned word = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) word |= unsigned((unsigned char)code(numbers.v[i] / scales.v[i])) << 8 * i;
    if (words) *reinterpret_cast<unsigned*>(codes + f.at) = word;
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (!words && i < f.left) codes[f.at + i] = word >> 8 * i;
}

// x = value(codes) scale.
template <class F>
__device__ void decode_all(const signed char* codes, const float* scale, float* x, long long m, int n, bool rows,
                           bool words, F value) {
    Fours f;
    if (!fours_of(m, n, &f)) return;
    const Four scales = scales_of(scale, f, rows);
    const signed char* const from = codes + f.at;
    const unsigned word = words ? *reinterpret_cast<const unsigned*>(from) : word_of(from, 1, f.left);
    Four numbers;
#pragma unroll
    for (int i = 0; i < 4; i++) numbers.v[i] = value((signed char)(word >> 8 * i)) * scales.v[i];
    store_four(x, f.at, f.left, numbers);
}

extern "C" __global__ void to_int8(const float* x, const float* scale, signed char* codes, long long m, int n,
                                   bool rows, bool words) {
    encode_all(x, scale, codes, m, n, rows, words, [](float quotient) {
        const float whole = rintf(quotient);
        return whole != whole ? 0 : int(fminf(fmaxf(whole, -127), 127));
    });
}

extern "C" __global__ void from_int8(const signed char* codes, const float* scale, float* x, long long m, int n,
                                     bool rows, bool words) {
    decode_all(codes, scale, x, m, n, rows, words, [](signed char code) { return code; });
}

// mantissa, bias and most (the largest number's pattern) are 3, 7, 0x7e for e4m3 and 2, 15, 0x7b for e5m2.
extern "C" __global__ void to_fp8(const float* x, const float* scale, unsigned char* codes, long long m, int n,
                                  bool rows, bool words, int mantissa, int bias, unsigned most) {
    encode_all(x, scale, reinterpret_cast<signed char*>(codes), m, n, rows, words,
               [=](float quotient) { return encode(quotient, mantissa, bias, most); });
}

extern "C" __global__ void from_fp8(const unsigned char* codes, const float* scale, float* x, long long m, int n,
                                    bool rows, bool words, int mantissa) {
    decode_all(reinterpret_cast<const signed char*>(codes), scale, x, m, n, rows, words, [=](unsigned char code) {
        return mantissa == e4m3::MANTISSA ? to_float(e4m3{code}) : to_float(e5m2{code});
    });
}
