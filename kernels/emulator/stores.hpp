// TMA's copies the other way, from shared to global memory: part of runtime.cpp.
//
// A thread starts such copies, commits them as a group, and waits until at most so many of its groups are under way. That is
// when they are carried out here, the latest moment: until then nobody may write to their source (`readers` in a cell). They
// read by the async proxy: what ordinary stores have written needs a fence_proxy_async first. A thread must have waited before
// it returns, since its block's shared memory may then be another's.
//
// After a wait for the reading alone (".read") all has been copied here, so that a read of the result is found only by its
// values, if at all.

struct Store {
    TensorMap map;
    char* source;
    int at[5];
    uint32_t where;
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

static void start_store(const Store& s) {
    const unsigned align = s.map.swizzle && strict ? 8 * s.map.swizzle : s.map.of_bytes ? 16 : 128;
    if (!in_shared(s.source) || reinterpret_cast<uintptr_t>(s.source) % align) {
        report_note(in_shared(s.source) ? MISALIGNED : BAD_OPERAND, s.where,
                    "the source of this copy must be shared memory at a multiple of %u bytes", align);
        abandon();
    }
    async_proxy = true;
    each_part(s, [&](size_t offset, char* to, size_t bytes) {
        for (size_t i = 0, step = s.map.swizzle ? s.map.item_bytes : bytes; i < bytes; i += step)
            touch(swizzled(s.source + offset + i, s.map.swizzle), step, READ, s.where);
        touch(to, bytes, WRITE, s.where);
    });
    async_proxy = false;
    each_piece(s, 1);
    stores[in_cluster(current())].open.push_back(s);
}

static void finish_store(const Store& s) {
    each_part(s, [&](size_t offset, char* to, size_t bytes) {
        for (size_t i = 0; i < bytes; i += s.map.item_bytes)
            memcpy(to + i, swizzled(s.source + offset + i, s.map.swizzle), s.map.item_bytes);
    });
    each_piece(s, -1);
}

void bulk_store(const TensorMap* map, const void* shared, int axes, const int* at, const void* return_address) {
    Store s{*map, static_cast<char*>(const_cast<void*>(shared)), {}, place(return_address)};
    if (int(map->rank) != axes || map->of_windows) {
        report_note(BAD_OPERAND, s.where, "a copy of a tile with %d coordinates of %s with %u axes", axes,
                    map->of_windows ? "a map of windows" : "an array", map->rank);
        abandon();
    }
    std::copy(at, at + axes, s.at);
    start_store(s);
}

void bulk_store_bytes(void* global, const void* shared, int bytes, const void* return_address) {
    const uint32_t where = place(return_address);
    start_store({map_of_bytes(global, shared, bytes, where), static_cast<char*>(const_cast<void*>(shared)), {}, where});
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
