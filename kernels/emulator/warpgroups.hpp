// wgmma: products of a warp group, four warps, that read shared memory by themselves: part of runtime.cpp.
//
// A group of products is the warp group's: whoever waits for it waits until all four warps have begun it, and then knows that
// none of them reads its operands any more. (So one thread may tell a producer that a stage is free.) The reads are those of
// an engine of the warp, whose steps are its products; the first warp to wait carries the group out for all. Without `strict`
// it also knows what they had loaded and stored themselves before.
//
// Like a copy, a product has its effect at the wait: only then are its operands read and its sums changed. Until then nobody
// may write to the operands (`readers` in a cell) or touch the sums (local variables, whose addresses `Sums` knows). It reads by
// the async proxy, so what ordinary stores have written must be made visible by fence_proxy_async.
//
// One product takes 32 bytes of each row of the operands' matrices, two pieces of 16: 16 numbers of 16 bits, 32 of 8, 8 of
// tf32. The descriptor says where the rows lie (in units of 16 bytes; bits 0-13: the first one) and how they are swizzled.
// With rows of W = 128, 64 or 32 bytes in the swizzle of that name (bits 62-63: 1, 2, 3), 8 rows follow each other, and the
// stride (bits 32-45) leads to the next 8. Without a swizzle (0) the two pieces are apart: W is 16, 8 rows are the first
// pieces, and the other number (bits 16-29, "leading") leads to the second ones.
//
// Numbers of 16 bits may also lie across: a row of W bytes has, for one place on the inner axis, the numbers for W / 2 rows of
// the matrix. The stride leads from 8 places to the next 8, "leading" to the next W / 2 rows; without a swizzle, the other
// way round.

struct Product : GroupProduct {
    unsigned* first;            // of the sums, if these are neighbours in memory, as in one array
    vector<unsigned*> apart;    // or else all of them
    unsigned from_registers[4];
    uint32_t where;

    int count() const { return columns / (sum_type == FP16 ? 4 : 2); }  // of sums, in registers
    unsigned* sum(int i) const { return first ? first + i : apart[i]; }
    const void* name() const { return sum(0); }
    void copy_sums(uint32_t* to) const {
        if (first) memcpy(to, first, count() * sizeof *to);
        for (int i = 0; i < count() && !first; i++) to[i] = *apart[i];
    }
    void set_sums(const uint32_t* from) const {
        if (first) memcpy(first, from, count() * sizeof *from);
        for (int i = 0; i < count() && !first; i++) *apart[i] = from[i];
    }
    bool has_sums(const uint32_t* values) const {
        if (first) return !memcmp(values, first, count() * sizeof *values);
        for (int i = 0; i < count(); i++)
            if (*apart[i] != values[i]) return false;
        return true;
    }
};

// What sums hold until the wait: NaN, as a float and as two of 16 bits.
static const vector<uint32_t> UNDECIDED(128, 0xfffefffe);

struct Sums {  // of a thread, with products that are still to be added
    int products = 0;
    Product of;             // the last of those with the most sums
    vector<uint32_t> next;  // what these will hold, by those that were carried out
    bool touched = false;   // which was reported

    void begin(const Product& p) {
        const size_t known = products++ ? next.size() : 0;
        if (!known) touched = false;
        if (known < size_t(p.count())) {
            vector<uint32_t> all(p.count());
            p.copy_sums(all.data());
            std::copy_n(next.begin(), known, all.begin());
            next.swap(all);
            p.set_sums(UNDECIDED.data());
        }
        if (next.size() == size_t(p.count())) of = p;
    }
    void end() {
        if (!--products) of.set_sums(next.data());
    }
};

struct Warpgroup {  // what a thread has begun
    vector<Product> open;
    std::deque<vector<Product>> groups;
    vector<uint32_t> ends, steps;  // of each group that was committed: the last step of the warp's engine, and of this thread
    size_t finished = 0, waited = 0;  // groups that were carried out, and for which this thread has waited
    std::unordered_map<const void*, Sums> sums;  // by the address of the first
    bool fenced = false;
    size_t held = 0;  // how many sums a fence was for, and what was in them
    vector<std::pair<const void*, vector<uint32_t>>> at_fence;
    uint32_t operands = 0, last = 0;  // a digest of all, which the three other warps must share; the last product's place
};

static vector<Warpgroup> warpgroups;  // of each thread

unsigned long long wgmma_descriptor(const void* tile, int panel, const void* where) {
    const bool aligned = reinterpret_cast<uintptr_t>(tile) % 16 == 0 && panel % 16 == 0;
    if (!in_shared(static_cast<const char*>(tile)) || !aligned || panel < 0 || panel >= 1 << 18) {
        report_note(BAD_OPERAND, place(where), "an operand of wgmma must be shared memory at a multiple of 16 bytes");
        abandon();
    }
    return shared_address(tile) >> 4 | (unsigned long long)(panel >> 4) << 16 | 64ull << 32 | 1ull << 62;
}

struct Tile {  // what a descriptor says
    char* first;
    unsigned width, leading, stride;
    unsigned shift;  // a row of the tile has 1 << shift pieces
    bool across;

    Tile(unsigned long long bits, bool lies_across) : across(lies_across) {
        first = static_cast<char*>(shared_pointer(unsigned(bits & 0x3fff) << 4));
        leading = unsigned(bits >> 16 & 0x3fff) << 4;
        stride = unsigned(bits >> 32 & 0x3fff) << 4;
        shift = bits >> 62 ? 4 - unsigned(bits >> 62) : 0;
        width = 16 << shift;
        if (across && !shift) std::swap(leading, stride);
    }

    // 16 bytes: of a row of the matrix the first or second piece; if it lies across, of a place on the inner axis the numbers
    // for rows 8 i to 8 i + 7.
    char* piece(unsigned row, unsigned i) const {
        const unsigned beyond = across || !shift ? i >> shift : 0;  // of pieces that lie together
        const unsigned in_row = (i - (beyond << shift)) * 16;
        return swizzled(first + row / 8 * stride + row % 8 * width + beyond * leading + in_row, shift ? width : 0);
    }
};

// Calls act(piece) for what a product reads of the operand's rows from `first` on.
template <class Act>
static void each_piece(const Tile& tile, int first, int rows, Act act) {
    for (int row = tile.across ? 0 : first; row < (tile.across ? 16 : first + rows); row++)
        for (int i = tile.across ? first / 8 : 0; i < (tile.across ? (first + rows) / 8 : 2); i++) act(tile.piece(row, i));
}

// The pieces that the warp of the current thread reads for a product.
template <class Act>
static void each_piece(const Product& p, Act act) {
    if (!p.a) each_piece(Tile(p.a_tile, p.across_a), current() / 32 % 4 * 16, 16, act);
    each_piece(Tile(p.b_tile, p.across_b), 0, p.columns, act);
}

static void check_descriptor(unsigned long long bits, uint32_t where) {
    const unsigned width = bits >> 62 ? 256u >> (bits >> 62) : 16, inside = (bits << 4) % (8 * width) & ~127u;
    if (inside || bits >> 49 & 7)  // rows would begin there in the middle of the swizzle
        report_note(BAD_OPERAND, where, "eight rows of an operand of wgmma must begin at a multiple of %u bytes, with the base "
                    "offset 0", 8 * width);
}

static void each_cell(char* address, int change) {
    Region* r = find(address, false);
    if (!r || address + 16 > r->end) return;
    for (size_t i = (address - r->begin) / r->grain; i < (address + 16 - r->begin) / r->grain; i++)
        r->cells[i].readers += change;
}

// A thread with products under way touches a variable of its own.
__attribute__((noinline)) static void touch_sums(const char* address, size_t bytes, Access kind, uint32_t where) {
    for (auto& [name, sums] : warpgroups[current()].sums)
        for (int i = 0; sums.products && i < (sums.of.first ? 1 : sums.of.count()); i++) {
            const char* const begin = reinterpret_cast<const char*>(sums.of.sum(i));
            const size_t held = (sums.of.first ? sums.of.count() : 1) * sizeof(unsigned);
            if (address >= begin + held || address + bytes <= begin) continue;
            sums.touched = true;
            Finding* const f = report(MISSING_WAIT, where, sums.of.where, "its sums");
            if (!f) continue;
            f->access = kind;
            f->offset = address - begin + i * sizeof(unsigned);
            f->bytes = bytes;
            f->other_access = READ;
        }
}

static void check_sums(const Sums& sums, const Product& p) {  // whatever changed them: clang++ does not tell of all accesses
    if (sums.products && !sums.touched && !sums.of.has_sums(UNDECIDED.data()))
        report_note(MISSING_WAIT, p.where, "the sums of this product were changed before the wait for it");
}

static void begin_for_all(void* const* handed_in) {  // the warp's lanes are together
    const Product& p = *static_cast<Product*>(handed_in[0]);
    for (int l = 1; l < 32; l++) {
        const Product& other = *static_cast<Product*>(handed_in[l]);
        if (other.b_tile != p.b_tile || other.a_tile != p.a_tile)
            report_note(BAD_OPERAND, p.where, "lanes of a warp name different operands for one wgmma");
    }
    if (!p.a) check_descriptor(p.a_tile, p.where);
    check_descriptor(p.b_tile, p.where);
    async_proxy = by_product = true;
    engine_clock[engine_of_warp(current() / 32)]++;
    each_piece(p, [&](char* address) {
        touch(address, 16, READ, p.where);
        each_cell(address, 1);
    });
    async_proxy = by_product = false;
}

// What the fence for these sums has seen, or a place for that.
static std::pair<const void*, vector<uint32_t>>& held_at_fence(Warpgroup& me, const void* sums) {
    for (size_t i = 0; i < me.held; i++)
        if (me.at_fence[i].first == sums) return me.at_fence[i];
    if (me.at_fence.size() == me.held) me.at_fence.emplace_back();
    me.at_fence[me.held].first = nullptr;
    return me.at_fence[me.held];
}

static void begin_product(Product& p) {
    Warpgroup& me = warpgroups[current()];
    if (!me.fenced) report_note(MISSING_FENCE, p.where, "wgmma with no wgmma_fence since its sums were last touched");
    Sums& mine = me.sums[p.name()];
    const auto& held = held_at_fence(me, p.name());
    if (held.first && !mine.products && !p.has_sums(held.second.data()))
        report_note(MISSING_FENCE, p.where, "the sums of this product were changed after the wgmma_fence for them");
    if (threads < current() / 128 * 128 + 128) {
        report_note(BAD_OPERAND, p.where, "wgmma is for four warps, and this group has only %d threads", threads % 128);
        abandon();
    }
    me.operands = (me.operands * 31 + uint32_t(p.a_tile)) * 31 + uint32_t(p.b_tile);
    me.last = p.where;
    check_sums(mine, p);
    mine.begin(p);
    me.open.push_back(p);
    fibers[current()].products++;
    together(&p, begin_for_all, p.where);
}

// The products of lib/ptx90.cuh, with sums in one array; `a` is null if its tile is in memory.
static void begin_product(void* sums, int columns, Number left, Number right, Number sum, const unsigned* a,
                          unsigned long long a_tile, unsigned long long b_tile, bool across_a, bool across_b, const void* where) {
    Product p{{left, right, sum, columns, nullptr, a, a_tile, b_tile, across_a, across_b, true, false},
              static_cast<unsigned*>(sums), {}, {}, place(where)};
    if (a) std::copy(a, a + 4, p.from_registers);
    begin_product(p);
}

void wgmma(float* sums, int columns, const unsigned* a, unsigned long long a_tile, unsigned long long b_tile,
           bool across_a, bool across_b, const void* where) {
    begin_product(sums, columns, BF16, BF16, F32, a, a_tile, b_tile, across_a, across_b, where);
}

void wgmma_s8(int* sums, int columns, unsigned long long a_tile, unsigned long long b_tile, const void* where) {
    begin_product(sums, columns, S8, S8, S32, nullptr, a_tile, b_tile, false, false, where);
}

void wgmma_fp8(float* sums, int columns, int a_mantissa, int b_mantissa, unsigned long long a_tile, unsigned long long b_tile,
               const void* where) {
    const auto form = [](int mantissa) { return mantissa == 3 ? E4M3 : E5M2; };
    begin_product(sums, columns, form(a_mantissa), form(b_mantissa), F32, nullptr, a_tile, b_tile, false, false, where);
}

void wgmma(const GroupProduct& product, const void* where) {
    Product p{product, product.sums[0], {}, {}, place(where)};
    for (int i = 1; i < p.count(); i++)
        if (product.sums[i] != p.first + i) p.apart.assign(product.sums, product.sums + p.count());
    if (!p.apart.empty()) p.first = nullptr;
    if (p.a) std::copy(p.a, p.a + 4, p.from_registers);
    begin_product(p);
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

static void wake_waiting_warps() {  // this thread's part of their groups is there, or never will be
    for (int other = current() / 128 * 128 + current() % 32; other < threads && other / 128 == current() / 128; other += 32)
        if (fibers[other].state == AT_PRODUCT) wake(other);
}

void wgmma_commit() {
    Warpgroup& me = warpgroups[current()];
    me.groups.push_back(std::move(me.open));
    me.open.clear();
    me.ends.push_back(engine_clock[engine_of_warp(current() / 32)]);
    me.steps.push_back(fibers[current()].clock[in_cluster(current())]++);
    wake_waiting_warps();
}

// Until the other warps have begun the group, too, after which the thread knows that their products have read.
static void wait_for_other_warps(size_t group, uint32_t where) {
    Clock& clock = fibers[current()].clock;
    const int first = current() / 128 * 128;
    for (int other = first + current() % 32; other < std::min(threads, first + 128); other += 32) {
        while (warpgroups[other].ends.size() <= group && fibers[other].state != DONE) {
            fibers[current()].state = AT_PRODUCT;
            fibers[current()].where = where;
            wait_for_scheduler();
        }
        if (warpgroups[other].ends.size() <= group) continue;
        uint32_t& known = clock[members + engine_of_warp(other / 32)];
        known = std::max(known, warpgroups[other].ends[group]);
    }
}

// On current GPUs a warp's loads and stores are ahead of its products (DeepGEMM, and CUTLASS with A in registers, rely on it).
static void learn_what_came_before(size_t group) {
    Clock& clock = fibers[current()].clock;
    for (int first = current() / 128 * 128, t = first; t < std::min(threads, first + 128) && !strict; t++)
        if (warpgroups[t].steps.size() > group) clock[in_cluster(t)] = std::max(clock[in_cluster(t)], warpgroups[t].steps[group]);
}

template <Number TYPE>
static double number_at(const void* at) {
    unsigned bits = 0;
    memcpy(&bits, at, bytes_of(TYPE));
    if (bytes_of(TYPE) == 1) return number_of_8_bits<TYPE>(bits);
    if (TYPE == TF32) return float_of(bits & ~0x1fffu);  // the lower bits are not looked at
    return TYPE == BF16 ? from_bf16(bits) : from_fp16(bits);
}

// The operand's rows from `first` on as out[place on the inner axis][row].
template <Number TYPE>
static void read_tile(const Tile& tile, int first, int rows, double out[32][256]) {
    const int bytes = bytes_of(TYPE), numbers = 16 / bytes;
    for (int i = 0; i < 2 * rows; i++) {
        const int row = tile.across ? i % 16 : first + i / 2, piece = tile.across ? first / 8 + i / 16 : i % 2;
        const char* const from = tile.piece(row, piece);
        for (int e = 0; e < numbers; e++)
            (tile.across ? out[row][i / 16 * 8 + e] : out[piece * numbers + e][i / 2]) = number_at<TYPE>(from + e * bytes);
    }
}

// The same of A in registers: those of mma.sync.
template <Number TYPE>
static void read_registers(Product* const* lane, double out[32][256]) {
    const int bytes = bytes_of(TYPE), numbers = 4 / bytes;  // of a register
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 32 / bytes; k++) {
            const Product& p = *lane[row % 8 * 4 + k / numbers % 4];
            const unsigned& r = p.from_registers[row / 8 + k / (4 * numbers) * 2];
            out[k][row] = number_at<TYPE>(reinterpret_cast<const char*>(&r) + k % numbers * bytes);
        }
}

template <Number TYPE>
static void read_operand(Product* const* lane, bool is_a, double out[32][256]) {
    const Product& p = *lane[0];
    if (!is_a) read_tile<TYPE>(Tile(p.b_tile, p.across_b), 0, p.columns, out);
    else if (p.a) read_registers<TYPE>(lane, out);
    else read_tile<TYPE>(Tile(p.a_tile, p.across_a), current() / 32 % 4 * 16, 16, out);
}

static void read_operand(Product* const* lane, bool is_a, double out[32][256]) {
    switch (is_a ? lane[0]->a_type : lane[0]->b_type) {
        case FP16: return read_operand<FP16>(lane, is_a, out);
        case BF16: return read_operand<BF16>(lane, is_a, out);
        case TF32: return read_operand<TF32>(lane, is_a, out);
        case E4M3: return read_operand<E4M3>(lane, is_a, out);
        case E5M2: return read_operand<E5M2>(lane, is_a, out);
        case U8: return read_operand<U8>(lane, is_a, out);
        default: return read_operand<S8>(lane, is_a, out);
    }
}

// Of a lane's sums those number i and, with `next`, the one beside it: its numbers in 8 columns, of 32 bits each, or 16.
template <class Sum>
struct SumsOf32 {
    typedef Sum Number;
    static Sum get(const uint32_t* sums, int i, int next) {
        Sum x;
        memcpy(&x, &sums[2 * i + next], 4);
        return x;
    }
    static void put(uint32_t* sums, int i, int next, Sum x) { memcpy(&sums[2 * i + next], &x, 4); }
};
struct SumsOf16 {
    typedef float Number;
    static float get(const uint32_t* sums, int i, int next) { return from_fp16(sums[i] >> 16 * next); }
    static void put(uint32_t* sums, int i, int next, float x) {
        const unsigned short bits = to_fp16(x);
        memcpy(reinterpret_cast<char*>(&sums[i]) + 2 * next, &bits, 2);
    }
};

// The warp's 16 rows of sums. a[place on the inner axis][row], b[place][column].
template <class Sums>
static void add_products(const Product& p, uint32_t* const* sums, const double a[32][256], const double b[32][256], int depth) {
    const Adding how(p.a_type, p.sum_type, true);
    static double b_powers[32][256];
    for (int k = 0; k < depth; k++)
        for (int j = 0; j < p.columns; j++) b_powers[k][j] = power_of(b[k][j], p.b_type);
    for (int row = 0; row < 16; row++) {
        double left[32], powers[32];
        for (int k = 0; k < depth; k++) {
            left[k] = p.minus ? -a[k][row] : a[k][row];
            powers[k] = power_of(left[k], p.a_type);
        }
        for (int j = 0; j < p.columns / 8; j++) {
            typename Sums::Number sum[8] = {};
            const auto owner = [&](int column) { return sums[row % 8 * 4 + column / 2]; };
            for (int column = 0; column < 8 && p.add; column++) sum[column] = Sums::get(owner(column), j * 2 + row / 8, column % 2);
            add_eight<256>(sum, {left, powers}, {b[0] + 8 * j, b_powers[0] + 8 * j}, depth, how);
            for (int column = 0; column < 8; column++) Sums::put(owner(column), j * 2 + row / 8, column % 2, sum[column]);
        }
    }
}

static void finish_product(Product* const* lane) {  // of a warp, whose thread is the current one
    const Product& p = *lane[0];
    const int depth = 32 / bytes_of(p.a_type);
    static double a[32][256], b[32][256];
    read_operand(lane, true, a);
    read_operand(lane, false, b);
    uint32_t* sums[32];
    for (int l = 0; l < 32; l++) sums[l] = warpgroups[current() / 32 * 32 + l].sums[lane[l]->name()].next.data();
    if (p.sum_type == S32) add_products<SumsOf32<int>>(p, sums, a, b, depth);
    else if (p.sum_type == FP16) add_products<SumsOf16>(p, sums, a, b, depth);
    else add_products<SumsOf32<float>>(p, sums, a, b, depth);
    each_piece(p, [](char* address) { each_cell(address, -1); });
}

static void finish_group(void* const* handed_in) {  // the lanes of a warp are together, and hand in its number
    const size_t group = *static_cast<const size_t*>(handed_in[0]);
    Lane* const me = self;
    for (int first = current() / 128 * 128, t = first; t < std::min(threads, first + 128); t += 32) {
        Warpgroup* const warp = &warpgroups[t];
        self = &lanes[t];
        if (warp->finished > group || warp->ends.size() <= group) continue;
        for (size_t i = 0; i < warp->groups[group - warp->waited].size(); i++) {
            Product* lane[32];
            for (int l = 0; l < 32; l++) lane[l] = &warp[l].groups[group - warp[l].waited][i];
            finish_product(lane);
        }
        for (int l = 0; l < 32; l++) warp[l].finished = group + 1;
    }
    self = me;
}

void wgmma_wait(int groups, const void* return_address) {
    const uint32_t where = place(return_address);
    Warpgroup& me = warpgroups[current()];
    me.fenced = false;
    me.held = 0;
    while (me.groups.size() > size_t(groups)) {
        size_t group = me.waited;
        wait_for_other_warps(group, where);
        together(&group, finish_group, where);
        learn_what_came_before(group);
        for (const Product& p : me.groups.front()) {
            Sums& sums = me.sums[p.name()];
            check_sums(sums, p);
            sums.end();
            fibers[current()].products--;
        }
        me.groups.pop_front();
        me.waited++;
    }
}

static void check_products_at_exit() {
    Warpgroup& me = warpgroups[current()];
    wake_waiting_warps();
    me.groups.push_back(me.open);
    for (const vector<Product>& group : me.groups)
        for (const Product& p : group)
            report_note(MISSING_WAIT, p.where, "nobody waits for this product before the thread returns");
    const int first = current() / 128 * 128;
    for (int other = first + current() % 32; other < std::min(threads, first + 128); other += 32)
        if (fibers[other].state == DONE && warpgroups[other].operands != me.operands)
            report_note(BAD_OPERAND, std::max(me.last, warpgroups[other].last), "not begun by all four warps of a group");
}
