// nvcuda::wmma (include/mma.h): part of runtime.cpp. How fragments hold a matrix is said at WarpProduct in device.cuh.

struct Placed {  // what a lane says of a matrix in memory
    const void* first;
    size_t stride;
    uint32_t where;
};

static void same_for_all(void* const* handed_in) {
    const Placed& first = *static_cast<Placed*>(handed_in[0]);
    for (int i = 1; i < 32; i++) {
        const Placed& other = *static_cast<Placed*>(handed_in[i]);
        if (other.first == first.first && other.stride == first.stride) continue;
        report_note(BAD_OPERAND, other.where, "lane %d names another matrix than lane 0", i);
        abandon();
    }
}

// All lanes name one matrix. CUDA's guide wants it to begin at a multiple of 32 bytes and its rows to be a multiple of
// 16 apart, PTX's manual multiples of what a lane's fragment has: what is wrong by both is found.
void matrix_in_memory(const void* first, size_t stride, size_t fragment_bytes, const void* return_address) {
    Placed mine{first, stride, place(return_address)};
    together(&mine, same_for_all, mine.where);
    const size_t whole = std::min<size_t>(fragment_bytes, 32), apart = std::min<size_t>(fragment_bytes, 16);
    if (const size_t off = reinterpret_cast<uintptr_t>(first) % whole) {
        report_note(MISALIGNED, mine.where, "a matrix must begin at a multiple of %d bytes, and does %d after one",
                    int(whole), int(off));
        abandon();
    }
    if (stride % apart) {
        report_note(BAD_OPERAND, mine.where, "rows or columns must be a multiple of %d bytes apart, not %ld",
                    int(apart), long(stride));
        abandon();
    }
}

static double number(const void* x, int i, Number of) {
    switch (of) {
        case FP16: return from_fp16(static_cast<const unsigned short*>(x)[i]);
        case BF16: return from_bf16(static_cast<const unsigned short*>(x)[i]);
        case F64: return static_cast<const double*>(x)[i];
        case S8: return static_cast<const signed char*>(x)[i];
        case U8: return static_cast<const unsigned char*>(x)[i];
        case S32: return static_cast<const int*>(x)[i];
        default: return static_cast<const float*>(x)[i];
    }
}

struct Multiplication : WarpProduct {
    uint32_t where;
};

static void multiply_fragments_for_all(void* const* handed_in) {
    const Multiplication* lane[32];
    for (int l = 0; l < 32; l++) lane[l] = static_cast<Multiplication*>(handed_in[l]);
    const Multiplication& o = *lane[0];
    double a[32][16], b[16][32];
    for (int i = 0; i < o.m * o.k; i++) a[i / o.k][i % o.k] = number(lane[i % 32]->a, i / 32, o.factors);
    for (int i = 0; i < o.k * o.n; i++) b[i / o.n][i % o.n] = number(lane[i % 32]->b, i / 32, o.factors);
    if (o.factors == TF32) {
        uint32_t lost = 0;
        for (int i = 0; i < o.m * o.k; i++) lost |= bits_of(float(a[i / o.k][i % o.k]));
        for (int i = 0; i < o.k * o.n; i++) lost |= bits_of(float(b[i / o.n][i % o.n]));
        if (lost & 0x1fff)
            report_note(BAD_OPERAND, o.where, "an operand is not a tf32 number: it must come from __float_to_tf32");
    }
    const Adding how(o.factors, o.before == FP16 ? o.after : F32);
    double a_powers[32][16], b_powers[16][32];
    for (int i = 0; i < o.m * o.k; i++) a_powers[i / o.k][i % o.k] = power_of(a[i / o.k][i % o.k], o.factors);
    for (int i = 0; i < o.k * o.n; i++) b_powers[i / o.n][i % o.n] = power_of(b[i / o.n][i % o.n], o.factors);
    for (int i = 0; i < o.m * o.n; i += 8) {  // eight neighbours of a row
        const auto c = [&](int j) { return number(lane[(i + j) % 32]->c, (i + j) / 32, o.before); };
        const auto d = [&](auto type, int j) -> decltype(type)& {
            return static_cast<decltype(type)*>(lane[(i + j) % 32]->d)[(i + j) / 32];
        };
        const double* const left = a[i / o.n];
        const double* const right = &b[0][i % o.n];
        if (o.after == F64) {
            for (int j = 0; j < 8; j++) {
                double sum = c(j);
                for (int k = 0; k < o.k; k++) sum = fma(left[k], right[k * 32 + j], sum);
                d(0.0, j) = sum;
            }
        } else if (o.after == S32) {
            for (int j = 0; j < 8; j++) {
                int64_t sum = int64_t(c(j));
                for (int k = 0; k < o.k; k++) sum += int64_t(left[k] * right[k * 32 + j]);
                if (o.saturate) sum = std::min<int64_t>(std::max<int64_t>(sum, INT32_MIN), INT32_MAX);
                d(0, j) = int(uint32_t(sum));
            }
        } else {
            float sum[8];
            for (int j = 0; j < 8; j++) sum[j] = float(c(j));
            add_eight<32>(sum, {left, a_powers[i / o.n]}, {right, &b_powers[0][i % o.n]}, o.k, how);
            for (int j = 0; j < 8; j++)
                if (o.after == FP16) d((unsigned short)0, j) = to_fp16(sum[j]);
                else d(0.0f, j) = sum[j];
        }
    }
}

void multiply_fragments(const WarpProduct& product, const void* where) {
    Multiplication mine{product, place(where)};
    together(&mine, multiply_fragments_for_all, mine.where);
}
