// wgmma: products of a warp group, four warps, that read shared memory by themselves: part of runtime.cpp.
//
// Like a copy, a product has its effect at the wait: only then are its operands read and its sums changed. Until then nobody
// may write to the operands (`readers` in a cell). It reads by the async proxy, so what ordinary stores have written must
// be made visible by fence_proxy_async.
//
// An operand is rows of 64 bf16 numbers, 128 bytes, in the swizzle of TMA; 8 rows follow each other, then the next 8. One
// product takes 16 numbers of each row, 32 bytes from where the descriptor points to.

struct Product {
    float* sums;
    int columns;
    bool from_registers;
    unsigned a[4];
    unsigned long long a_tile, b_tile;
    uint32_t where;
};

struct Warpgroup {  // what a thread has begun
    vector<Product> open;
    std::deque<vector<Product>> groups;
    bool fenced = false;
};

static vector<Warpgroup> warpgroups;  // of each thread

unsigned long long wgmma_descriptor(const void* tile, const void* where) {
    const long long offset = static_cast<const char*>(tile) - dynamic_begin;
    if (offset < 0 || offset >= 1 << 18 || offset % 16) {
        report_note(BAD_OPERAND, place(where), "an operand of wgmma must be aligned dynamic shared memory");
        abandon();
    }
    return offset >> 4 | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

static char* piece(unsigned long long tile, int row, int half) {  // 8 numbers of a row
    return swizzled(dynamic_begin + ((tile & 0x3fff) << 4) + row / 8 * 1024 + row % 8 * 128 + half * 16, 128);
}

// The pieces that the warp of the current thread reads for a product.
template <class Act>
static void each_piece(const Product& p, Act act) {
    const int first = current() / 32 % 4 * 16;
    for (int half = 0; half < 2; half++) {
        for (int row = 0; row < 16 && !p.from_registers; row++) act(piece(p.a_tile, first + row, half));
        for (int row = 0; row < p.columns; row++) act(piece(p.b_tile, row, half));
    }
}

static void each_cell(char* address, int change) {
    Region* r = find(address, false);
    if (!r || address + 16 > r->end) return;
    for (size_t i = (address - r->begin) / r->grain; i < (address + 16 - r->begin) / r->grain; i++)
        r->cells[i].readers += change;
}

static void begin_for_all(void* const* handed_in) {  // the warp's lanes are together
    const Product& p = *static_cast<Product*>(handed_in[0]);
    async_proxy = true;
    each_piece(p, [&](char* address) {
        touch(address, 16, READ, p.where);
        each_cell(address, 1);
    });
    async_proxy = false;
}

void wgmma(float* sums, int columns, const unsigned* a, unsigned long long a_tile, unsigned long long b_tile,
           const void* where) {
    Warpgroup& me = warpgroups[current()];
    Product p{sums, columns, a != nullptr, {}, a_tile, b_tile, place(where)};
    if (a) std::copy(a, a + 4, p.a);
    if (!me.fenced) report_note(MISSING_FENCE, p.where, "wgmma with no wgmma_fence since its sums were last touched");
    me.open.push_back(p);
    together(&p, begin_for_all, p.where);
}

void wgmma_fence() { warpgroups[current()].fenced = true; }

void wgmma_commit() {
    Warpgroup& me = warpgroups[current()];
    me.groups.push_back(std::move(me.open));
    me.open.clear();
}

static float bf16_at(const char* address) {
    unsigned short bits;
    memcpy(&bits, address, 2);
    return from_bf16(bits);
}

static void finish_for_all(void* const* handed_in) {
    Product* lane[32];
    for (int l = 0; l < 32; l++) lane[l] = static_cast<Product*>(handed_in[l]);
    const int first = current() / 32 % 4 * 16;
    double a[16][16];
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++) {
            const unsigned* registers = lane[row % 8 * 4 + k % 8 / 2]->a;
            a[row][k] = lane[0]->from_registers
                            ? from_bf16((unsigned short)(registers[row / 8 + k / 8 * 2] >> 16 * (k % 2)))
                            : bf16_at(piece(lane[0]->a_tile, first + row, k / 8) + k % 8 * 2);
        }
    for (int column = 0; column < lane[0]->columns; column++) {
        double b[16];
        for (int k = 0; k < 16; k++) b[k] = bf16_at(piece(lane[0]->b_tile, column, k / 8) + k % 8 * 2);
        for (int row = 0; row < 16; row++) {
            float& d = lane[row % 8 * 4 + column % 8 / 2]->sums[column / 8 * 4 + row / 8 * 2 + column % 2];
            double sum = d;
            for (int k = 0; k < 16; k++) sum += a[row][k] * b[k];
            d = cut(sum);
        }
    }
    each_piece(*lane[0], [](char* address) { each_cell(address, -1); });
}

void wgmma_wait(int groups, const void* where) {
    Warpgroup& me = warpgroups[current()];
    me.fenced = false;
    while (me.groups.size() > size_t(groups)) {
        for (Product& p : me.groups.front()) together(&p, finish_for_all, place(where));
        me.groups.pop_front();
    }
}

static void check_products_at_exit() {
    Warpgroup& me = warpgroups[current()];
    me.groups.push_back(me.open);
    for (const vector<Product>& group : me.groups)
        for (const Product& p : group)
            report_note(MISSING_WAIT, p.where, "nobody waits for this product before the thread returns");
}
