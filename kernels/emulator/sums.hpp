// Numbers of 16 and 19 bits, and sums of products as tensor cores add them up: part of runtime.cpp.

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

float from_bf16(unsigned short bits) { return float_of(uint32_t(bits) << 16); }

unsigned short to_bf16(float x) {
    const uint32_t bits = bits_of(x);
    return x != x ? 0x7fff : (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float from_fp16(unsigned short bits) {
    const uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = bits >> 10 & 31, mantissa = bits & 1023;
    if (exponent == 31) return float_of(sign | 0x7f800000 | mantissa << 13);
    if (exponent == 0) return float_of(sign | bits_of(float(mantissa) * 0x1p-24f));
    return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
}

unsigned short to_fp16(float x) {
    const uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000;
    const float size = fabsf(x);
    if (x != x) return 0x7fff;
    if (size >= 65520) return (unsigned short)(sign | 0x7c00);
    if (size < 0x1p-14f) return (unsigned short)(sign | uint32_t(size * 0x1p24f + 0x1p23f - 0x1p23f));  // rounds to even
    const uint32_t rounded = (bits & 0x7fffffff) + 0xfff + (bits >> 13 & 1);
    return (unsigned short)(sign | ((rounded >> 13) - (112 << 10)));
}

unsigned to_tf32(float x) {
    const uint32_t bits = bits_of(x);
    if ((bits & 0x7f800000) == 0x7f800000) return x != x ? 0x7fffffffu & ~0x1fffu : bits;
    return (bits + 0x1000) & ~0x1fffu;
}

// --- sums --------------------------------------------------------------------------------------------------------------
//
// A tensor core adds some products at a time to a sum c (Xie et al. 2025, arXiv 2511.10909, whose model has the bits of
// the cards; Khattak & Mikaitis 2025, arXiv 2512.07004; of the first ones Fasi et al. 2021, PeerJ Computer Science 7:e330):
//
//     e = max(exponents of all a_k b_k, and of c)
//     c <- float32(cut(c) + sum_k cut(a_k b_k)),  where cut leaves multiples of 2^(e - kept)
//
// The products are exact, and so is the sum of what is left. Both cut and float32 round towards 0, so what is lost of terms
// of one sign is lost to one side; a sum of half precision is rounded to the nearest. The exponent of a product is the
// sum of its factors' (3 is 1.5 x 2^1, so that of 3 x 3 is 2 and not 3), that of a subnormal number the smallest of its type.
//
//     sm_75, 80 to 89: kept = 24, products of 16 bytes of a row at a time (8 numbers of 16 bits)
//     from sm_90 on:   kept = 25, of 32 bytes
//
// Numbers of 8 bits have kept = 13 in wgmma and in the mma of sm_89, whose results have 13 bits of mantissa, too (also
// DeepSeek-V3, arXiv 2412.19437, section 3.5.2; SageAttention 2, arXiv 2411.10958, section 3.3).

static int kept = 25, bytes_at_a_time = 32, kept_of_fp8 = 0;  // of the card; 0: no mma takes fp8

extern "C" void emulator_add_as(int bits, int bytes, int bits_of_fp8) {
    kept = bits, bytes_at_a_time = bytes, kept_of_fp8 = bits_of_fp8;
}
bool card_multiplies_fp8() { return kept_of_fp8; }

static int bytes_of(Number n) {
    if (n == F64 || n == S64 || n == U64) return 8;
    if (n == TF32 || n == F32 || n == S32 || n == U32) return 4;
    return n == FP16 || n == BF16 ? 2 : 1;
}

template <Number TYPE>
static double number_of_8_bits(unsigned bits) {
    if (TYPE == E4M3 || TYPE == E5M2) return TYPE == E4M3 ? from_e4m3(bits & 255) : from_e5m2(bits);
    return TYPE == U8 ? double(bits & 255) : double((signed char)bits);
}

// 2^exponent of a number of this type, of Inf and NaN Inf. Products with a 0 have no part in the largest exponent, but for
// the one that all zeros have (see Adding).
static double power_of(double x, Number type) {
    const double smallest = type == E4M3 ? 0x1p-6 : type == FP16 || type == E5M2 ? 0x1p-14 : 0x1p-126;
    uint64_t bits;
    memcpy(&bits, &x, 8);
    bits &= 0x7ffull << 52;
    double power;
    memcpy(&power, &bits, 8);
    return x == 0 ? 0x1p-500 : std::max(power, smallest);
}

struct Adding {  // how products are added up
    int numbers;     // at a time
    double bits;     // 2^kept
    double of_zero;  // 2^exponent of 0
    Number sums;     // FP16 or F32
    int mantissa;    // bits of the result's

    Adding(Number factors, Number sums, bool warpgroup = false) : sums(sums) {
        const bool of_8_bits = bytes_of(factors) == 1;
        const int own = !of_8_bits ? kept : warpgroup ? 13 : kept_of_fp8;
        numbers = bytes_at_a_time / bytes_of(factors);
        bits = double(1 << own);
        of_zero = ldexp(1, (sums == FP16 ? 4 : -108) - kept);
        mantissa = sums == FP16 ? 10 : std::min(own, 23);
    }
    float rounded(double) const;
};

// Towards 0, with 23 bits of mantissa or fewer.
static float cut(double x, int mantissa) {
    if (fabs(x) >= 0x1p128) return x < 0 ? -INFINITY : INFINITY;
    const float near = float(x);
    return float_of((fabs(double(near)) > fabs(x) ? bits_of(near) - 1 : bits_of(near)) & ~0u << (23 - mantissa));
}

// To the nearest number of half precision, of two the even one.
static float half(double x) {
    const double size = fabs(x), magic = 1.5 * 0x1p42 * std::max(power_of(x, FP16), 0x1p-14);  // its last bit is the result's
    const double near = size >= 65520 ? INFINITY : (size + magic) - magic;
    return float(x < 0 ? -near : near);
}

float Adding::rounded(double x) const {
    if (x != x) return float_of(0x7fffffff);
    const float result = sums == FP16 ? half(x) : cut(x, mantissa);
    return result == 0 ? 0 : result;
}

// A row of A, or eight columns of B: its numbers, and 2^exponent of each.
struct Factor {
    const double *number, *power;
};

// Eight neighbours of a row: sum[j] += left[k] right[k][j] for all k < depth. Rows of `right` are WIDTH numbers apart.
template <int WIDTH>
static void add_eight(float (&sum)[8], const Factor& left, const Factor& right, int depth, const Adding& how) {
    for (int first = 0; first < depth; first += how.numbers) {
        const int last = std::min(depth, first + how.numbers);
        double largest[8], scale[8], total[8];
        for (int j = 0; j < 8; j++) largest[j] = std::max(power_of(sum[j], how.sums), how.of_zero);
        for (int k = first; k < last; k++)
            for (int j = 0; j < 8; j++) {
                const double power = left.power[k] * right.power[k * WIDTH + j];
                largest[j] = largest[j] > power ? largest[j] : power;
            }
        for (int j = 0; j < 8; j++) {
            scale[j] = how.bits / largest[j];
            total[j] = int(sum[j] * scale[j]);
        }
        for (int k = first; k < last; k++)
            for (int j = 0; j < 8; j++) total[j] += int(left.number[k] * right.number[k * WIDTH + j] * scale[j]);
        for (int j = 0; j < 8; j++) {
            double result = total[j] * (largest[j] / how.bits);
            if (largest[j] == INFINITY) {
                result = sum[j];
                for (int k = first; k < last; k++) result += left.number[k] * right.number[k * WIDTH + j];
            }
            sum[j] = how.rounded(result);
        }
    }
}

// Of whole numbers nothing is lost; they overflow as they do in 32 bits.
template <int WIDTH>
static void add_eight(int (&sum)[8], const Factor& left, const Factor& right, int depth, const Adding&) {
    double exact[8];
    for (int j = 0; j < 8; j++) exact[j] = sum[j];
    for (int k = 0; k < depth; k++)
        for (int j = 0; j < 8; j++) exact[j] += left.number[k] * right.number[k * WIDTH + j];
    for (int j = 0; j < 8; j++) sum[j] = int(uint32_t(int64_t(exact[j])));
}
