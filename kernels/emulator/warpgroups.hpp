// wgmma: products of a warp group, four warps, that read shared memory by themselves: part of runtime.cpp.
//
// Like a copy, a product has its effect at the wait: only then are its operands read and its sums changed. Until then nobody
// may write to the operands (`readers` in a cell) or change the sums (`Sums` remembers them). It reads by the async proxy, so
// what ordinary stores have written must be made visible by fence_proxy_async.
//
// An operand is rows of 64 bf16 numbers, 128 bytes, in the swizzle of TMA; 8 rows follow each other, and the descriptor says
// where the next 8 are. One product takes 16 numbers of each row, 32 bytes from where the descriptor points to. If the
// operand lies across it takes 16 rows, with a number for each of 64 rows of the matrix, and the descriptor says where the
// next 64 are. Rows of int8 numbers are 128 of them, of which a product takes 32, the same bytes; they cannot lie across.

struct Product {
    void* sums;
    bool int8;  // factors of 8 bits and sums of whole numbers, else bf16 and float
    int columns;
    bool from_registers;
    unsigned a[4];
    unsigned long long a_tile, b_tile;
    bool across_a, across_b;
    uint32_t where;
};

struct Sums {  // of a thread, with products that are still to be added
    int products = 0;
    vector<uint32_t> values;  // that they must have until the next product is added

    void remember(const Product& p) {
        const uint32_t* const bits = static_cast<const uint32_t*>(p.sums);
        values.assign(bits, bits + p.columns / 2);
    }
};

struct Warpgroup {  // what a thread has begun
    vector<Product> open;
    std::deque<vector<Product>> groups;
    std::unordered_map<void*, Sums> sums;
    bool fenced = false;
    size_t held = 0;  // how many sums a fence was for, and what was in them
    vector<std::pair<const void*, vector<uint32_t>>> at_fence;
    uint32_t operands = 0, last = 0;  // a digest of all, which the three other warps must share; the last product's place
};

static vector<Warpgroup> warpgroups;  // of each thread

unsigned long long wgmma_descriptor(const void* tile, int panel, const void* where) {
    const long long offset = static_cast<const char*>(tile) - dynamic_begin;
    if (offset < 0 || offset >= 1 << 18 || offset % 16 || panel < 0 || panel >= 1 << 18 || panel % 16) {
        report_note(BAD_OPERAND, place(where), "an operand of wgmma must be aligned dynamic shared memory");
        abandon();
    }
    if (offset & 0x380) {  // its base offset would not be 0
        report_note(BAD_OPERAND, place(where), "eight rows of an operand of wgmma must begin at a multiple of 1024 bytes");
        abandon();
    }
    return offset >> 4 | (unsigned long long)(panel >> 4) << 16 | 64ull << 32 | 1ull << 62;
}

// 16 bytes: of a row of the matrix, the first or second half of its numbers; if it lies across, of a place on the inner
// axis those for rows 8 i to 8 i + 7.
static char* piece(unsigned long long tile, bool across, int row, int i) {
    const long long panels = (tile >> 16 & 0x3fff) << 4, eights = (tile >> 32 & 0x3fff) << 4;
    const long long at = row / 8 * eights + row % 8 * 128 + (across ? i / 8 * panels + i % 8 * 16 : i * 16);
    return swizzled(dynamic_begin + ((tile & 0x3fff) << 4) + at, 128);
}

// Calls act(piece) for what a product reads of the operand's rows from `first` on.
template <class Act>
static void each_piece(unsigned long long tile, bool across, int first, int rows, Act act) {
    for (int row = across ? 0 : first; row < (across ? 16 : first + rows); row++)
        for (int i = across ? first / 8 : 0; i < (across ? (first + rows) / 8 : 2); i++) act(piece(tile, across, row, i));
}

// The pieces that the warp of the current thread reads for a product.
template <class Act>
static void each_piece(const Product& p, Act act) {
    if (!p.from_registers) each_piece(p.a_tile, p.across_a, current() / 32 % 4 * 16, 16, act);
    each_piece(p.b_tile, p.across_b, 0, p.columns, act);
}

static void each_cell(char* address, int change) {
    Region* r = find(address, false);
    if (!r || address + 16 > r->end) return;
    for (size_t i = (address - r->begin) / r->grain; i < (address + 16 - r->begin) / r->grain; i++)
        r->cells[i].readers += change;
}

static void check_sums(const Sums& sums, const Product& p) {
    if (memcmp(sums.values.data(), p.sums, p.columns / 2 * sizeof(uint32_t)))
        report_note(MISSING_WAIT, p.where, "the sums of this product were changed before the wait for it");
}

static void begin_for_all(void* const* handed_in) {  // the warp's lanes are together
    const Product& p = *static_cast<Product*>(handed_in[0]);
    for (int l = 1; l < 32; l++) {
        const Product& other = *static_cast<Product*>(handed_in[l]);
        if (other.b_tile != p.b_tile || other.a_tile != p.a_tile)
            report_note(BAD_OPERAND, p.where, "lanes of a warp name different operands for one wgmma");
    }
    async_proxy = true;
    each_piece(p, [&](char* address) {
        touch(address, 16, READ, p.where);
        each_cell(address, 1);
    });
    async_proxy = false;
}

// What the fence for these sums has seen, or a place for that.
static std::pair<const void*, vector<uint32_t>>& held_at_fence(Warpgroup& me, const void* sums) {
    for (size_t i = 0; i < me.held; i++)
        if (me.at_fence[i].first == sums) return me.at_fence[i];
    if (me.at_fence.size() == me.held) me.at_fence.emplace_back();
    me.at_fence[me.held].first = nullptr;
    return me.at_fence[me.held];
}

static void begin_product(Product p) {
    Warpgroup& me = warpgroups[current()];
    if (!me.fenced) report_note(MISSING_FENCE, p.where, "wgmma with no wgmma_fence since its sums were last touched");
    const auto& held = held_at_fence(me, p.sums);
    if (held.first && memcmp(held.second.data(), p.sums, p.columns / 2 * sizeof(uint32_t)))
        report_note(MISSING_FENCE, p.where, "the sums of this product were changed after the wgmma_fence for them");
    if (threads < current() / 128 * 128 + 128) {
        report_note(BAD_OPERAND, p.where, "wgmma is for four warps, and this group has only %d threads", threads % 128);
        abandon();
    }
    me.operands = (me.operands * 31 + uint32_t(p.a_tile)) * 31 + uint32_t(p.b_tile);
    me.last = p.where;
    Sums& mine = me.sums[p.sums];
    if (mine.products++) check_sums(mine, p);
    mine.remember(p);
    me.open.push_back(p);
    together(&p, begin_for_all, p.where);
}

void wgmma(float* sums, int columns, const unsigned* a, unsigned long long a_tile, unsigned long long b_tile,
           bool across_a, bool across_b, const void* where) {
    Product p{sums, false, columns, a != nullptr, {}, a_tile, b_tile, across_a, across_b, place(where)};
    if (a) std::copy(a, a + 4, p.a);
    begin_product(p);
}

void wgmma_s8(int* sums, int columns, unsigned long long a_tile, unsigned long long b_tile, const void* where) {
    begin_product({sums, true, columns, false, {}, a_tile, b_tile, false, false, place(where)});
}

void wgmma_fence(const void* sums, int count) {  // or of no sums in particular
    Warpgroup& me = warpgroups[current()];
    me.fenced = true;
    if (!sums) return;
    auto& held = held_at_fence(me, sums);
    me.held += !held.first;
    held.first = sums;
    held.second.assign(static_cast<const uint32_t*>(sums), static_cast<const uint32_t*>(sums) + count);
}

void wgmma_commit() {
    Warpgroup& me = warpgroups[current()];
    me.groups.push_back(std::move(me.open));
    me.open.clear();
}

// The operand's rows from `first` on as out[place on the inner axis][row].
static void read_operand(unsigned long long tile, bool across, int first, int rows, double out[32][256]) {
    for (int i = 0; i < 2 * rows; i++) {
        const int row = across ? i % 16 : first + i / 2, eight = across ? first / 8 + i / 16 : i % 2;
        unsigned short bits[8];
        memcpy(bits, piece(tile, across, row, eight), sizeof bits);
        for (int e = 0; e < 8; e++)
            (across ? out[row][i / 16 * 8 + e] : out[eight * 8 + e][i / 2]) = from_bf16(bits[e]);
    }
}

static void read_bytes(unsigned long long tile, int first, int rows, double out[32][256]) {
    for (int row = 0; row < rows; row++)
        for (int half = 0; half < 2; half++) {
            const char* const from = piece(tile, false, first + row, half);
            for (int e = 0; e < 16; e++) out[16 * half + e][row] = (signed char)from[e];
        }
}

// The warp's 16 rows of sums. a[place on the inner axis][row], b[place][column].
template <class Sum>
static void add_products(Product* const* lane, const double a[32][256], const double b[32][256], int depth) {
    for (int row = 0; row < 16; row++) {
        double left[32];
        for (int k = 0; k < depth; k++) left[k] = a[k][row];
        for (int j = 0; j < lane[0]->columns / 8; j++) {
            Sum sum[8];
            auto d = [&](int column) -> Sum& {
                return static_cast<Sum*>(lane[row % 8 * 4 + column / 2]->sums)[j * 4 + row / 8 * 2 + column % 2];
            };
            for (int column = 0; column < 8; column++) sum[column] = d(column);
            add_eight<256>(sum, left, b[0] + 8 * j, depth);
            for (int column = 0; column < 8; column++) d(column) = sum[column];
        }
    }
}

static void finish_for_all(void* const* handed_in) {
    Product* lane[32];
    for (int l = 0; l < 32; l++) lane[l] = static_cast<Product*>(handed_in[l]);
    const Product& p = *lane[0];
    static double a[32][256], b[32][256];
    if (p.int8) read_bytes(p.a_tile, current() / 32 % 4 * 16, 16, a);
    else if (!p.from_registers) read_operand(p.a_tile, p.across_a, current() / 32 % 4 * 16, 16, a);
    else
        for (int row = 0; row < 16; row++)
            for (int k = 0; k < 16; k++)
                a[k][row] = from_bf16((unsigned short)(lane[row % 8 * 4 + k % 8 / 2]->a[row / 8 + k / 8 * 2] >> 16 * (k % 2)));
    if (p.int8) read_bytes(p.b_tile, 0, p.columns, b);
    else read_operand(p.b_tile, p.across_b, 0, p.columns, b);
    Warpgroup* const warp = &warpgroups[current() / 32 * 32];
    for (int l = 0; l < 32; l++) check_sums(warp[l].sums[lane[l]->sums], *lane[l]);
    if (p.int8) add_products<int>(lane, a, b, 32);
    else add_products<float>(lane, a, b, 16);
    for (int l = 0; l < 32; l++) {
        Sums& sums = warp[l].sums[lane[l]->sums];
        sums.remember(*lane[l]);
        sums.products--;
    }
    each_piece(p, [](char* address) { each_cell(address, -1); });
}

void wgmma_wait(int groups, const void* where) {
    Warpgroup& me = warpgroups[current()];
    me.fenced = false;
    me.held = 0;
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
    const int first = current() / 128 * 128;
    for (int other = first + current() % 32; other < std::min(threads, first + 128); other += 32)
        if (fibers[other].state == DONE && warpgroups[other].operands != me.operands)
            report_note(BAD_OPERAND, std::max(me.last, warpgroups[other].last), "not begun by all four warps of a group");
}
