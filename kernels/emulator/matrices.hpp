// ldmatrix and mma.sync: part of runtime.cpp.
//
// All 32 lanes of a warp hand in where their registers are; the last one to come does the work of all. Where an element of
// a matrix lies is written here from the figures of the PTX manual and not from the comments in lib/ptx.cuh.

static void together(void* mine, Together body, uint32_t where) {
    const int warp = current() / 32, here = std::min(32, threads - warp * 32);
    if (here < 32) {
        report_note(BAD_LANE, where, "an instruction for 32 lanes in a warp that has %d", here);
        abandon();
    }
    meet(~0u, where, &mine, sizeof mine, false, false, body);
}

// --- ldmatrix ----------------------------------------------------------------------------------------------------------

struct Load {
    unsigned* result;
    int count;
    bool trans;
    char* row;
    uint32_t where;
};

static void load_for_all(void* const* handed_in) {
    Load* lane[32];
    for (int i = 0; i < 32; i++) lane[i] = static_cast<Load*>(handed_in[i]);
    Lane* const warp = self - current() % 32;
    for (int m = 0; m < lane[0]->count; m++) {
        char* rows[8];
        for (int r = 0; r < 8; r++) {
            self = warp + 8 * m + r;
            rows[r] = lane[8 * m + r]->row;
            const uint32_t where = lane[8 * m + r]->where;
            if (!in_shared(rows[r])) {
                const Region* near = find(rows[r], true);
                if (near && near->shared) report_access(OUT_OF_RANGE, where, *near, READ, rows[r], 16);
                else report_note(BAD_OPERAND, where, "ldmatrix reads a row that is not in shared memory");
                abandon();
            }
            if (reinterpret_cast<uintptr_t>(rows[r]) % 16) {
                report_note(MISALIGNED, where, "a row of ldmatrix must begin at a multiple of 16 bytes, and does %d after one",
                            int(reinterpret_cast<uintptr_t>(rows[r]) % 16));
                abandon();
            }
        }
        count_banks(lane[0]->where, rows);
        for (int i = 0; i < 32; i++) {
            self = warp + i;
            const int r = i / 4, c = i % 4;
            const uint32_t where = lane[i]->where;
            if (!lane[0]->trans) {
                touch(rows[r] + 4 * c, 4, READ, where);
                memcpy(&lane[i]->result[m], rows[r] + 4 * c, 4);
            } else {
                unsigned short above, below;
                memcpy(&above, rows[2 * c] + 2 * r, 2);
                memcpy(&below, rows[2 * c + 1] + 2 * r, 2);
                // Two lanes get a part of the same 4 bytes; one of them stands for both, so that the shadow stays coarse.
                touch(rows[2 * c + r % 2] + 2 * (r & ~1), 4, READ, where);
                lane[i]->result[m] = above | unsigned(below) << 16;
            }
        }
    }
}

void load_matrices(unsigned* result, int count, bool trans, const void* row, const void* where) {
    Load mine{result, count, trans, static_cast<char*>(const_cast<void*>(row)), place(where)};
    together(&mine, load_for_all, mine.where);
}

static void store_for_all(void* const* handed_in) {
    Load* lane[32];
    for (int i = 0; i < 32; i++) lane[i] = static_cast<Load*>(handed_in[i]);
    Lane* const warp = self - current() % 32;
    for (int m = 0; m < lane[0]->count; m++) {
        char* rows[8];
        for (int r = 0; r < 8; r++) rows[r] = lane[8 * m + r]->row;
        count_banks(lane[0]->where, rows);
        for (int i = 0; i < 32; i++) {
            char* const row = lane[8 * m + i / 4]->row;
            self = warp + i;
            if (reinterpret_cast<uintptr_t>(row) % 16 || !in_shared(row)) {
                report_note(in_shared(row) ? MISALIGNED : BAD_OPERAND, lane[i]->where,
                            "a row of stmatrix must be 16 aligned bytes of shared memory");
                abandon();
            }
            touch(row + i % 4 * 4, 4, WRITE, lane[i]->where);
            unsigned pair = lane[i]->result[m];
            if (lane[0]->trans)  // numbers i / 4 of the rows that two lanes would have stored
                for (int half = 0; half < 2; half++) {
                    const unsigned from = lane[i % 4 * 8 + half * 4 + i / 8]->result[m];
                    memcpy(reinterpret_cast<char*>(&pair) + 2 * half, reinterpret_cast<const char*>(&from) + i / 4 % 2 * 2, 2);
                }
            memcpy(row + i % 4 * 4, &pair, 4);
        }
    }
}

void store_matrices(void* row, const unsigned* values, int count, bool trans, const void* where) {
    Load mine{const_cast<unsigned*>(values), count, trans, static_cast<char*>(row), place(where)};
    together(&mine, store_for_all, mine.where);
}

// --- numbers of 16 and 19 bits -----------------------------------------------------------------------------------------

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

// --- mma.sync ----------------------------------------------------------------------------------------------------------

struct Multiply {
    void* d;  // 4 sums, float or int
    const unsigned* a;
    unsigned b[2];
    uint32_t where;
};

// Sums of floats as Hopper has them, as far as is known (Khattak & Mikaitis 2025, arXiv 2512.07004; of cards before,
// Fasi et al. 2021, PeerJ Computer Science 7:e330). The products of one instruction, which are exact, and the sum that
// they are added to are cut off, towards 0, 25 bits below the leading bit of the largest of them: added to 1, -2^-26
// is lost. What is left is added exactly, and the result cut off to float32, towards 0 again. So what is lost of terms
// of one sign is lost to one side. An A100 loses more: it cuts 24 bits below, and has 16 products as two sums of 8.
//
// wgmma of numbers of 8 bits loses far more (DeepSeek-V3, arXiv 2412.19437, section 3.5.2; SageAttention 2, arXiv 2411.10958,
// section 3.3): its terms are cut off 13 bits below the leading bit of the largest, and the result to 13 bits of mantissa.
#define KEPT 25  // bits below the leading one; an int holds the sum of 31 such numbers
#define KEPT_OF_FP8 13

// With 23 bits of mantissa, or `bits` of them.
static float cut(double sum, int bits = 23) {
    const float x = float(sum);
    if (x - x != 0) return x;
    return float_of((fabs(double(x)) > fabs(sum) ? bits_of(x) - 1 : bits_of(x)) & ~0u << (23 - bits));
}

// 2^(kept - e) for a number whose leading bit is 2^e, or with sign = -1 its inverse; e is from -272 to 256 here.
static double scale_for(double largest, int kept, int sign) {
    uint64_t bits;
    memcpy(&bits, &largest, 8);
    const int exponent = int(bits >> 52) - 1023;
    bits = uint64_t(1023 + sign * (kept - exponent)) << 52;
    memcpy(&largest, &bits, 8);
    return largest;
}

// Eight neighbours of a row: sum[j] += left[k] right[k][j] for all k < depth. Rows of `right` are WIDTH numbers apart.
template <int WIDTH, int BITS = KEPT>
static void add_eight(float (&sum)[8], const double* left, const double* right, int depth) {
    double exact[8], largest[8], scale[8];
    for (int j = 0; j < 8; j++) exact[j] = sum[j], largest[j] = fabs(exact[j]);
    for (int k = 0; k < depth; k++)
        for (int j = 0; j < 8; j++) {
            const double product = left[k] * right[k * WIDTH + j], size = fabs(product);
            exact[j] += product;
            largest[j] = largest[j] > size ? largest[j] : size;
        }
    int total[8];
    for (int j = 0; j < 8; j++) {
        scale[j] = scale_for(largest[j], BITS, 1);
        total[j] = int(sum[j] * scale[j]);
    }
    for (int k = 0; k < depth; k++)
        for (int j = 0; j < 8; j++) total[j] += int(left[k] * right[k * WIDTH + j] * scale[j]);
    for (int j = 0; j < 8; j++)  // nothing is cut off of zeros, Inf and NaN
        sum[j] = cut(largest[j] > 0 && exact[j] - exact[j] == 0 ? total[j] * scale_for(largest[j], BITS, -1) : exact[j], std::min(BITS, 23));
}

// Of whole numbers nothing is lost; they overflow as they do in 32 bits.
template <int WIDTH, int = KEPT>
static void add_eight(int (&sum)[8], const double* left, const double* right, int depth) {
    double exact[8];
    for (int j = 0; j < 8; j++) exact[j] = sum[j];
    for (int k = 0; k < depth; k++)
        for (int j = 0; j < 8; j++) exact[j] += left[k] * right[k * WIDTH + j];
    for (int j = 0; j < 8; j++) sum[j] = int(uint32_t(int64_t(exact[j])));
}

template <class Sum>
static void multiply_for_all(Multiply* const* lane, const double (&a)[16][32], const double (&b)[32][8], int depth) {
    for (int i = 0; i < 16; i++) {
        Sum sum[8];
        auto d = [&](int j) -> Sum& { return static_cast<Sum*>(lane[i % 8 * 4 + j / 2]->d)[i / 8 * 2 + j % 2]; };
        for (int j = 0; j < 8; j++) sum[j] = d(j);
        add_eight<8>(sum, a[i], b[0], depth);
        for (int j = 0; j < 8; j++) d(j) = sum[j];
    }
}

template <float (*value)(unsigned short)>
static void multiply_16(void* const* handed_in) {
    Multiply* lane[32];
    double a[16][32], b[32][8];
    for (int l = 0; l < 32; l++) {
        lane[l] = static_cast<Multiply*>(handed_in[l]);
        const int group = l / 4, in_group = l % 4;
        for (int e = 0; e < 8; e++) {  // the manual's a0 ... a7, two in a register
            const int row = e < 2 || (e >= 4 && e < 6) ? group : group + 8;
            const int column = in_group * 2 + (e & 1) + (e >= 4 ? 8 : 0);
            a[row][column] = value((unsigned short)(lane[l]->a[e / 2] >> 16 * (e & 1)));
        }
        for (int e = 0; e < 4; e++)    // and b0 ... b3
            b[in_group * 2 + (e & 1) + (e >= 2 ? 8 : 0)][group] = value((unsigned short)(lane[l]->b[e / 2] >> 16 * (e & 1)));
    }
    multiply_for_all<float>(lane, a, b, 16);
}

static void multiply_tf32(void* const* handed_in) {
    Multiply* lane[32];
    double a[16][32], b[32][8];
    unsigned lost = 0;
    for (int l = 0; l < 32; l++) {
        lane[l] = static_cast<Multiply*>(handed_in[l]);
        const int group = l / 4, in_group = l % 4;
        for (int e = 0; e < 4; e++) {
            a[e & 1 ? group + 8 : group][e >= 2 ? in_group + 4 : in_group] = float_of(lane[l]->a[e] & ~0x1fffu);
            lost |= lane[l]->a[e] & 0x1fff;
        }
        for (int e = 0; e < 2; e++) {
            b[in_group + 4 * e][group] = float_of(lane[l]->b[e] & ~0x1fffu);
            lost |= lane[l]->b[e] & 0x1fff;
        }
    }
    if (lost) report_note(BAD_OPERAND, lane[0]->where, "an operand is not a tf32 number: the GPU would cut off its last 13 bits");
    multiply_for_all<float>(lane, a, b, 8);
}

static void multiply_s8(void* const* handed_in) {
    Multiply* lane[32];
    double a[16][32], b[32][8];
    for (int l = 0; l < 32; l++) {
        lane[l] = static_cast<Multiply*>(handed_in[l]);
        const int group = l / 4, in_group = l % 4;
        for (int e = 0; e < 16; e++) {  // the manual's a0 ... a15, four in a register
            const int row = e < 4 || (e >= 8 && e < 12) ? group : group + 8;
            const int column = in_group * 4 + (e & 3) + (e >= 8 ? 16 : 0);
            a[row][column] = (signed char)(lane[l]->a[e / 4] >> 8 * (e & 3));
        }
        for (int e = 0; e < 8; e++)     // and b0 ... b7
            b[in_group * 4 + (e & 3) + (e >= 4 ? 16 : 0)][group] = (signed char)(lane[l]->b[e / 4] >> 8 * (e & 3));
    }
    multiply_for_all<int>(lane, a, b, 32);
}

static void multiply(void* d, const unsigned* a, unsigned b0, unsigned b1, const void* where, Together body) {
    Multiply mine{d, a, {b0, b1}, place(where)};
    together(&mine, body, mine.where);
}

void mma_bf16(float* d, const unsigned* a, unsigned b0, unsigned b1, const void* where) {
    multiply(d, a, b0, b1, where, multiply_16<from_bf16>);
}

void mma_fp16(float* d, const unsigned* a, unsigned b0, unsigned b1, const void* where) {
    multiply(d, a, b0, b1, where, multiply_16<from_fp16>);
}

void mma_tf32(float* d, const unsigned* a, unsigned b0, unsigned b1, const void* where) {
    multiply(d, a, b0, b1, where, multiply_tf32);
}

void mma_s8(int* d, const unsigned* a, unsigned b0, unsigned b1, const void* where) {
    multiply(d, a, b0, b1, where, multiply_s8);
}
