// TMA's copies the other way, from shared to global memory: part of runtime.cpp.
//
// A thread starts such copies, commits them as a group, and waits until at most so many of its groups are under way. That is
// when they are carried out here, the latest moment: until then nobody may write to their source (`readers` in a cell). They
// read by the async proxy: what ordinary stores have written needs a fence_proxy_async first. A thread must have waited before
// it returns, since its block's shared memory may then be another's.
//
// A reduction (cp.reduce.async.bulk) is such a copy that adds to what is there, or the like: number by number, an atomic operation.
//
// After a wait for the reading alone (".read") all has been copied here, so that a read of the result is found only by its
// values, if at all.

struct Store {
    TensorMap map;
    char* source;
    int at[5];
    uint32_t where;
    Reduction how;
    Number number;  // of a reduction
};

struct Stores {  // of a thread
    vector<Store> open;
    std::deque<vector<Store>> groups;
};

static std::unordered_map<int, Stores> stores;  // by the thread's number in the cluster

// Calls act(offset in the box, address in the array, bytes) for what of the box lies in the array.
template <class Act>
static void each_part(const Store& s, Act act) {
    const int no_offset[] = {0, 0};
    const long long first = std::max(s.at[0], 0), end = std::min<long long>(s.at[0] + (long long)s.map.box[0], s.map.sizes[0]);
    each_row(s.map, s.at, no_offset, [&](size_t offset, char* row) {
        if (row && first < end)
            act(offset + (first - s.at[0]) * s.map.item_bytes, row + first * s.map.item_bytes, size_t(end - first) * s.map.item_bytes);
    });
}

static void each_piece(const Store& s, int change) {
    for (size_t i = 0; i < box_bytes(s.map); i += 16) each_cell(s.source + i, change);
}

static void check_reduction(const Store& s) {
    const bool whole = s.number == S32 || s.number == U32 || s.number == S64 || s.number == U64;
    const bool half = s.number == FP16 || s.number == BF16, real = half || s.number == F32 || s.number == F64;
    if (s.how == COPIED || whole || (real && s.how == ADD) || (half && s.how < AND)) return;
    report_note(BAD_OPERAND, s.where, real ? "a reduction that there is not for these numbers" :
                "a reduction, and the map does not say of which numbers: as in TensorMap(..., numbers=\"float32\")");
    abandon();
}

static void start_store(const Store& s) {
    const unsigned align = alignment_of(s.map);
    if (!in_shared(s.source) || reinterpret_cast<uintptr_t>(s.source) % align) {
        report_note(in_shared(s.source) ? MISALIGNED : BAD_OPERAND, s.where,
                    "the source of this copy must be shared memory at a multiple of %u bytes", align);
        abandon();
    }
    check_reduction(s);
    async_proxy = true;
    each_part(s, [&](size_t offset, char* to, size_t bytes) {
        for (size_t i = 0, step = s.map.swizzle ? s.map.item_bytes : bytes; i < bytes; i += step)
            touch_or_stop(swizzled(s.source + offset + i, s.map.swizzle), step, READ, s.where);
        touch_or_stop(to, bytes, s.how == COPIED ? WRITE : ATOMIC, s.where);
    });
    async_proxy = false;
    each_piece(s, 1);
    stores[in_cluster(current())].open.push_back(s);
}

template <class T>
static T reduced(T a, T b, Reduction how) {
    switch (how) {
        case ADD: return a + b;
        case MIN: return b < a ? b : a;
        case MAX: return a < b ? b : a;
        default: break;
    }
    if constexpr (std::is_unsigned<T>::value) return how == AND ? a & b : how == OR ? a | b : a ^ b;
    return b;  // never reached: check_reduction
}

template <class T>
static void reduce_at(char* to, const char* from, Reduction how) {
    T a, b;
    memcpy(&a, to, sizeof a);
    memcpy(&b, from, sizeof b);
    a = reduced(a, b, how);
    memcpy(to, &a, sizeof a);
}

static void reduce_half(char* to, const char* from, const Store& s) {
    unsigned short a, b;
    memcpy(&a, to, 2);
    memcpy(&b, from, 2);
    if (s.number == BF16) a = to_bf16(reduced(from_bf16(a), from_bf16(b), s.how));
    else a = to_fp16(reduced(from_fp16(a), from_fp16(b), s.how));
    memcpy(to, &a, 2);
}

// Bits and sums of whole numbers do not depend on the sign.
static void reduce_number(char* to, const char* from, const Store& s) {
    const bool order = s.how == MIN || s.how == MAX;
    switch (s.number) {
        case F32: return reduce_at<float>(to, from, s.how);
        case F64: return reduce_at<double>(to, from, s.how);
        case S32: return order ? reduce_at<int>(to, from, s.how) : reduce_at<unsigned>(to, from, s.how);
        case U32: return reduce_at<unsigned>(to, from, s.how);
        case S64: return order ? reduce_at<long long>(to, from, s.how) : reduce_at<unsigned long long>(to, from, s.how);
        case U64: return reduce_at<unsigned long long>(to, from, s.how);
        default: return reduce_half(to, from, s);
    }
}

static void finish_store(const Store& s) {
    each_part(s, [&](size_t offset, char* to, size_t bytes) {
        const size_t step = s.how == COPIED ? s.map.item_bytes : bytes_of(s.number);
        for (size_t i = 0; i < bytes; i += step) {
            const char* const from = swizzled(s.source + offset + i, s.map.swizzle);
            if (s.how == COPIED) memcpy(to + i, from, step);
            else reduce_number(to + i, from, s);
        }
    });
    each_piece(s, -1);
}

void bulk_store(const TensorMap* map, const void* shared, int axes, const int* at, const void* return_address, Reduction how) {
    const uint32_t where = place(return_address);
    check_map_of_tiles(map, axes, where);
    Store s{*map, static_cast<char*>(const_cast<void*>(shared)), {}, where, how, Number(map->number)};
    std::copy(at, at + axes, s.at);
    start_store(s);
}

void bulk_store_bytes(void* global, const void* shared, int bytes, const void* return_address, Reduction how, Number of) {
    const uint32_t where = place(return_address);
    start_store({map_of_bytes(global, shared, bytes, where), static_cast<char*>(const_cast<void*>(shared)), {}, where, how, of});
}

void commit_stores() {
    Stores& mine = stores[in_cluster(current())];
    mine.groups.push_back(std::move(mine.open));
    mine.open.clear();
}

void wait_for_stores(int groups) {
    Stores& mine = stores[in_cluster(current())];
    while (mine.groups.size() > size_t(groups)) {
        for (const Store& s : mine.groups.front()) finish_store(s);
        mine.groups.pop_front();
    }
}

static void check_stores_at_exit() {
    if (stores.empty()) return;
    commit_stores();
    for (const vector<Store>& group : stores[in_cluster(current())].groups)
        for (const Store& s : group) report_note(MISSING_WAIT, s.where, "nobody waits for this copy before the thread returns");
    wait_for_stores(0);
}
