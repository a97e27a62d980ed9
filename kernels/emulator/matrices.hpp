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

// --- mma.sync ----------------------------------------------------------------------------------------------------------

struct Multiply {
    void* d;  // 4 sums, float or int
    const unsigned* a;
    unsigned b[2];
    uint32_t where;
};

// The warp's 16 rows of sums. a[row][place on the inner axis], b[place][column].
template <class Sum>
static void multiply_for_all(Multiply* const* lane, const double (&a)[16][32], const double (&b)[32][8], int depth, Number type,
                             Number sums) {
    const Adding how(type, sums);
    double b_powers[32][8];
    for (int k = 0; k < depth; k++)
        for (int j = 0; j < 8; j++) b_powers[k][j] = power_of(b[k][j], type);
    for (int i = 0; i < 16; i++) {
        Sum sum[8];
        double powers[32];
        for (int k = 0; k < depth; k++) powers[k] = power_of(a[i][k], type);
        auto d = [&](int j) -> Sum& { return static_cast<Sum*>(lane[i % 8 * 4 + j / 2]->d)[i / 8 * 2 + j % 2]; };
        for (int j = 0; j < 8; j++) sum[j] = d(j);
        add_eight<8>(sum, {a[i], powers}, {b[0], b_powers[0]}, depth, how);
        for (int j = 0; j < 8; j++) d(j) = sum[j];
    }
}

template <Number TYPE, Number SUMS>
static void multiply_16(void* const* handed_in) {
    const auto value = TYPE == BF16 ? from_bf16 : from_fp16;
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
    multiply_for_all<float>(lane, a, b, 16, TYPE, SUMS);
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
    multiply_for_all<float>(lane, a, b, 8, TF32, F32);
}

template <class Sum, Number TYPE>
static void multiply_8(void* const* handed_in) {
    Multiply* lane[32];
    double a[16][32], b[32][8];
    for (int l = 0; l < 32; l++) {
        lane[l] = static_cast<Multiply*>(handed_in[l]);
        const int group = l / 4, in_group = l % 4;
        for (int e = 0; e < 16; e++) {  // the manual's a0 ... a15, four in a register
            const int row = e < 4 || (e >= 8 && e < 12) ? group : group + 8;
            const int column = in_group * 4 + (e & 3) + (e >= 8 ? 16 : 0);
            a[row][column] = number_of_8_bits<TYPE>(lane[l]->a[e / 4] >> 8 * (e & 3));
        }
        for (int e = 0; e < 8; e++)     // and b0 ... b7
            b[in_group * 4 + (e & 3) + (e >= 4 ? 16 : 0)][group] = number_of_8_bits<TYPE>(lane[l]->b[e / 4] >> 8 * (e & 3));
    }
    multiply_for_all<Sum>(lane, a, b, 32, TYPE, F32);
}

static void multiply(void* d, const unsigned* a, unsigned b0, unsigned b1, const void* where, Together body) {
    Multiply mine{d, a, {b0, b1}, place(where)};
    together(&mine, body, mine.where);
}

void mma_bf16(float* d, const unsigned* a, unsigned b0, unsigned b1, const void* where) {
    multiply(d, a, b0, b1, where, multiply_16<BF16, F32>);
}

void mma_fp16(float* d, const unsigned* a, unsigned b0, unsigned b1, const void* where) {
    multiply(d, a, b0, b1, where, multiply_16<FP16, F32>);
}

void mma_fp16_to_halves(float* d, const unsigned* a, unsigned b0, unsigned b1, const void* where) {
    multiply(d, a, b0, b1, where, multiply_16<FP16, FP16>);
}

void mma_tf32(float* d, const unsigned* a, unsigned b0, unsigned b1, const void* where) {
    multiply(d, a, b0, b1, where, multiply_tf32);
}

void mma_e4m3(float* d, const unsigned* a, unsigned b0, unsigned b1, const void* where) {
    multiply(d, a, b0, b1, where, multiply_8<float, E4M3>);
}

void mma_e5m2(float* d, const unsigned* a, unsigned b0, unsigned b1, const void* where) {
    multiply(d, a, b0, b1, where, multiply_8<float, E5M2>);
}

void mma_s8(int* d, const unsigned* a, unsigned b0, unsigned b1, const void* where) {
    multiply(d, a, b0, b1, where, multiply_8<int, S8>);
}
