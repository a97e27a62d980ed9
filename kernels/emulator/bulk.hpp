// TMA: copies of whole tiles between global and shared memory: part of runtime.cpp.
//
// One thread starts the copy of a box out of an array whose shape, strides and box a TensorMap describes; an engine of its
// own (the "async proxy") carries it out and then tells an mbarrier how many bytes have come. Here that happens as late as it
// can: when no thread can go on without it. What lies outside of the array is 0. With the swizzle of 128 bytes, the 16-byte
// pieces of a row of 128 bytes are exchanged: piece p of row r goes to piece p ^ r % 8. With 64 bytes, of which two rows
// make 128, it is p ^ r / 2 % 4, and with 32 p ^ r / 4 % 2: bits 7 to 9 of the address decide, wherever the tile begins.
//
// What ordinary stores have written, the engine need not see before a fence.proxy.async of a thread that knows of them.
//
// A copy to several blocks of a cluster (multicast) is one copy for each, of which any may arrive before the others.

struct Bulk {
    uint32_t copy;    // its entry in `copies`, which marks the cells of the target
    char* target;
    TensorMap map;
    int at[5], offset[2];
    const void* barrier;
    Clock known;      // to whoever started it
    int block_rank;   // of the block to which it goes
    int from_rank = -1;  // of the block from whose shared memory it comes
};

static vector<Bulk> bulks;  // on their way

static char* swizzled(char* address, unsigned swizzle) {
    const uintptr_t a = reinterpret_cast<uintptr_t>(address);
    return reinterpret_cast<char*>(a ^ (a >> 7 & (swizzle ? swizzle / 16 - 1 : 0)) << 4);
}

// Windows of images begin at every step[]-th column and row between two corners. A copy of them goes through the windows of
// a row, then of the next row, then of the next image, whatever the steps, and brings the pixel `offset` from each start.
template <class Act>
static void each_window(const TensorMap& map, const int* at, const int* offset, Act act) {
    long long place[] = {at[1], at[2], at[3]};  // column, row, image
    for (unsigned pixel = 0; pixel < map.box[1]; pixel++) {
        char* address = static_cast<char*>(map.data);
        bool inside = true;
        for (int a = 0; a < 3; a++) {
            const long long i = place[a] + (a < 2 ? offset[a] : 0);
            inside &= i >= 0 && i < (long long)map.sizes[a + 1];
            address += i * (long long)map.strides[a + 1];
        }
        act(size_t(pixel) * map.box[0] * map.item_bytes, inside ? address : nullptr);
        for (int a = 0; a < 2; a++) {
            place[a] += map.step[a];
            if (place[a] < (long long)map.sizes[a + 1] + map.upper[a]) break;
            place[a] = map.lower[a];
            if (a == 1) place[2]++;
        }
    }
}

// Calls act(offset of an element's run in the box, its address in the array or null) for each run along the first axis.
template <class Act>
static void each_row(const TensorMap& map, const int* at, const int* offset, Act act) {
    if (map.of_windows) return each_window(map, at, offset, act);
    int rows = 1;
    for (unsigned a = 1; a < map.rank; a++) rows *= map.box[a];
    for (int row = 0; row < rows; row++) {
        int rest = row;
        bool inside = true;
        char* address = static_cast<char*>(map.data);
        for (unsigned a = 1; a < map.rank; a++) {
            const long long i = at[a] + rest % int(map.box[a]);
            rest /= int(map.box[a]);
            inside &= i >= 0 && i < (long long)map.sizes[a];
            address += i * (long long)map.strides[a];
        }
        act(size_t(row) * map.box[0] * map.item_bytes, inside ? address : nullptr);
    }
}

static size_t box_bytes(const TensorMap& map) {
    size_t bytes = map.item_bytes;
    for (unsigned a = 0; a < map.rank; a++) bytes *= map.box[a];
    return bytes;
}

static void each_cell(char* address, int change);  // in warpgroups.hpp
static void bring_in(int rank);  // these five are in clusters.hpp
static char* parked_place(int rank, const char* address);
static Region& touch_in_block(int rank, Region& mine, const char* here, size_t bytes, Access kind, uint32_t where);
static void remember_visit(int rank, size_t slot, const Event& visit);
static void report_absence(const Event& visit, int rank, const char* what);

// What TMA reads or writes must be there, since it will be.
static void touch_or_stop(const char* address, size_t bytes, Access kind, uint32_t where) {
    if (touch(address, bytes, kind, where) || is_constant(address)) return;
    const char* const own = stack_of(in_cluster(current()));
    if (address >= own && address < own + STACK) report_note(BAD_OPERAND, where, "TMA does not reach a thread's own variables");
    abandon();
}

// Of the tile in shared memory. Hardware takes any multiple of 128, but then rows begin in the middle of the swizzle's pattern.
static unsigned alignment_of(const TensorMap& map) {
    return map.swizzle && strict ? 8 * map.swizzle : map.of_bytes ? 16 : 128;
}

// To the blocks whose ranks are bits of `ranks`.
static void start_bulk(void* shared, const TensorMap* map, void* barrier, unsigned ranks, const int* at, const int* offset,
                       uint32_t where) {
    char* const target = static_cast<char*>(shared);
    const unsigned align = alignment_of(*map);
    if (reinterpret_cast<uintptr_t>(target) % align) {
        report_note(MISALIGNED, where, "the target of this copy must be a multiple of %u bytes in shared memory", align);
        abandon();
    }
    if (!ranks || ranks >> cluster_blocks) {
        report_note(BAD_OPERAND, where, "a copy to the blocks %#x of a cluster of %d blocks", ranks, cluster_blocks);
        abandon();
    }
    Region* const mine = find(target, false);
    if (!mine) {
        touch(target, box_bytes(*map), WRITE, where);  // which says what is there instead
        abandon();
    }
    if (!mine->shared) {
        report_note(BAD_OPERAND, where, "the target of this copy is not in shared memory");
        abandon();
    }
    async_proxy = true;
    each_row(*map, at, offset, [&](size_t, char* row) {
        if (!row) return;
        const long long first = std::max(at[0], 0), end = std::min<long long>(at[0] + (long long)map->box[0], map->sizes[0]);
        if (first < end) touch_or_stop(row + first * map->item_bytes, (end - first) * map->item_bytes, READ, where);
    });
    async_proxy = false;
    Clock& known = fibers[current()].clock;
    for (int rank = 0; rank < cluster_blocks; rank++) {
        if (!(ranks >> rank & 1)) continue;
        async_proxy = true;
        Region& theirs = touch_in_block(rank, *mine, target, box_bytes(*map), WRITE, where);
        async_proxy = false;
        Barrier& b = barrier_at(barrier, where, rank);
        if (!b.fenced) report_note(MISSING_FENCE, where, "an mbarrier that was made without fence_mbarrier_init after it");
        char* const there = theirs.begin + (target - mine->begin);
        const uint32_t copy = new_copy();
        copies[copy] = {there, nullptr, int(box_bytes(*map)), 0, event(where, BULK), &theirs, {}};
        mark(copies[copy], copy + 1);
        copies[copy].region = mine;  // when that block is in place
        Bulk bulk{copy, there, *map, {}, {offset[0], offset[1]}, b.address, known, rank};
        std::copy(at, at + map->rank, bulk.at);
        bulks.push_back(bulk);
    }
    known[in_cluster(current())]++;
}

static void check_map(const TensorMap* map, uint32_t where) {
    const char* const address = reinterpret_cast<const char*>(map);
    const Region* const region = find(address, true);
    if (region && (address < region->begin || address + sizeof *map > region->end)) {
        report_access(OUT_OF_RANGE, where, *region, READ, address, sizeof *map);
        abandon();
    }
    if (map && map->rank >= 1 && map->rank <= 5 && map->data) return;
    report_note(BAD_OPERAND, where, "there is no map of TMA (TensorMap) at the address that this copy is given");
    abandon();
}

static void check_map_of_tiles(const TensorMap* map, int axes, uint32_t where) {
    check_map(map, where);
    if (int(map->rank) == axes && !map->of_windows) return;
    report_note(BAD_OPERAND, where, "a copy of a tile with %d coordinates of %s with %u axes", axes,
                map->of_windows ? "a map of windows" : "an array", map->rank);
    abandon();
}

void bulk_load(void* shared, const TensorMap* map, void* barrier, unsigned ranks, int axes, const int* at,
               const void* return_address) {
    const uint32_t where = place(return_address);
    check_map_of_tiles(map, axes, where);
    const int no_offset[] = {0, 0};
    start_bulk(shared, map, barrier, ranks, at, no_offset, where);
}

// What the manual does not allow, or does not say the result of: a start that is no window's, an offset of more than 8 bits.
void bulk_load_windows(void* shared, const TensorMap* map, void* barrier, const int* at, const int* offset,
                       const void* return_address) {
    const uint32_t where = place(return_address);
    check_map(map, where);
    if (!map->of_windows) {
        report_note(BAD_OPERAND, where, "a copy of windows by a map of tiles");
        abandon();
    }
    for (int a = 0; a < 2; a++) {
        const int from_first = at[a + 1] - map->lower[a];
        if (from_first < 0 || from_first % map->step[a] || at[a + 1] >= (long long)map->sizes[a + 1] + map->upper[a]) {
            report_note(BAD_OPERAND, where, "no window begins at %s %d", a ? "row" : "column", at[a + 1]);
            abandon();
        }
        if (offset[a] < 0 || offset[a] > 255) {
            report_note(BAD_OPERAND, where, "an offset of %d within the window: it must be 0 to 255", offset[a]);
            abandon();
        }
    }
    if (at[3] < 0 || at[3] >= (long long)map->sizes[3]) {
        report_note(BAD_OPERAND, where, "no window begins in image %d", at[3]);
        abandon();
    }
    start_bulk(shared, map, barrier, 1 << block_rank, at, offset, where);
}

// A copy of so many bytes, without a map: 16 of them are an item here.
static TensorMap map_of_bytes(const void* global, const void* shared, int bytes, uint32_t where) {
    if (!global) touch(nullptr, bytes, READ, where);
    if ((reinterpret_cast<uintptr_t>(global) | reinterpret_cast<uintptr_t>(shared) | bytes) % 16 || bytes <= 0) {
        report_note(MISALIGNED, where, "a bulk copy is of a multiple of 16 bytes, from and to multiples of 16");
        abandon();
    }
    TensorMap map = {const_cast<void*>(global), 1, 16, NONE, 0, {unsigned(bytes / 16)}, {unsigned(bytes / 16)}, {16}, {}, {}, {}, 0, 1};
    return map;
}

void bulk_load_bytes(void* shared, const void* global, int bytes, void* barrier, unsigned ranks, const void* return_address) {
    const uint32_t where = place(return_address);
    const TensorMap map = map_of_bytes(global, shared, bytes, where);
    const int begin[] = {0, 0};
    start_bulk(shared, &map, barrier, ranks, begin, begin, where);
}

// From this block's shared memory to that of the block of that rank, whose mbarrier it arrives at.
void bulk_send_bytes(void* theirs, int rank, const void* shared, int bytes, void* barrier, const void* return_address) {
    const uint32_t where = place(return_address);
    const TensorMap map = map_of_bytes(shared, theirs, bytes, where);
    if (!in_shared(static_cast<const char*>(shared))) {
        report_note(BAD_OPERAND, where, "the source of this copy must be in shared memory");
        abandon();
    }
    if (rank >= cluster_blocks) {
        report_note(BAD_OPERAND, where, "a copy to block %d of a cluster of %d blocks", rank, cluster_blocks);
        abandon();
    }
    const int begin[] = {0, 0};
    start_bulk(theirs, &map, barrier, 1u << rank, begin, begin, where);
    bulks.back().from_rank = block_rank;
    for (int i = 0; i < bytes; i += 16) each_cell(static_cast<char*>(map.data) + i, 1);
}

// Where the bytes are now, when another block may be in place.
static const char* source_of(const Bulk& bulk, const char* address) {
    const bool moved = bulk.from_rank >= 0 && bulk.from_rank != block_rank && in_shared_section(address);
    return moved ? parked_place(bulk.from_rank, address) : address;
}

static void let_go_of_source(const Bulk& bulk, uint32_t where) {
    if (bulk.from_rank < 0) return;
    bring_in(bulk.from_rank);
    if (!alive) report_note(MISSING_WAIT, where, "the block whose memory this copy reads may have returned before");
    for (unsigned i = 0; i < bulk.map.box[0]; i++) each_cell(static_cast<char*>(bulk.map.data) + 16 * i, -1);
}

// --- cp.async.mbarrier.arrive: a thread's copies (copies.hpp) that arrive, as those by TMA do, at an mbarrier ----------------

struct Arrival {
    vector<uint32_t> copies;
    const void* barrier;
    Clock known;  // to the thread
    int member;
};

static vector<Arrival> arrivals;  // to come

static void arrive_after(vector<uint32_t> copies, void* barrier, bool counted, uint32_t where) {
    Fiber& me = fibers[current()];
    Barrier& b = barrier_at(barrier, where);
    if (!counted) b.pending++;
    if (b.pending < 1) report_note(BAD_OPERAND, where, "more arrivals at an mbarrier than the %d that it was made for", b.count);
    arrivals.push_back({std::move(copies), b.address, me.clock, in_cluster(current())});
    me.clock[in_cluster(current())]++;
}

void arrive_with_copies(void* barrier, bool counted, const void* return_address) {
    Fiber& me = fibers[current()];
    vector<uint32_t> all = std::move(me.open);
    me.open.clear();
    for (const vector<uint32_t>& group : me.groups) all.insert(all.end(), group.begin(), group.end());
    me.groups.clear();
    arrive_after(std::move(all), barrier, counted, place(return_address));
}

// memcpy_async: a thread's part of what a group of so many copies, as by cp.async; with a barrier, its copies arrive there.
// What does not go from global to shared memory is copied at once. CUDA leaves open which thread copies what: here neighbours
// copy for each other, so that a thread that has waited for its own copies alone does not find what it is going to read.
void copy_part(void* to, const void* from, size_t bytes, size_t align, unsigned rank, unsigned of, void* barrier,
               const void* return_address) {
    const uint32_t where = place(return_address);
    char* const target = static_cast<char*>(to);
    const char* const source = static_cast<const char*>(from);
    const size_t given[] = {reinterpret_cast<uintptr_t>(target), reinterpret_cast<uintptr_t>(source), bytes};
    const char* const names[] = {"target", "source", "size"};
    for (int i = 0; i < 3; i++) {
        if (given[i] % align == 0) continue;
        report_note(MISALIGNED, where, "the %s of this copy must be a multiple of %zu, and is %zu after one", names[i], align,
                    given[i] % align);
        abandon();
    }
    const Region* const region = find(source, false);
    const bool later = region && !region->shared && in_shared(target);
    const size_t all = given[0] | given[1] | bytes | 16, step = all & -all, part = (rank ^ 1) < of ? rank ^ 1 : rank;
    for (size_t i = part * step; i < bytes; i += of * step) {
        if (later) {
            begin_copy(target + i, source + i, int(step), int(step), where);
            continue;
        }
        touch(source + i, step, READ, where);
        touch(target + i, step, WRITE, where);
        memcpy(target + i, source + i, step);
    }
    vector<uint32_t>& open = fibers[current()].open;
    if (!barrier || open.empty()) return;
    arrive_after(std::move(open), barrier, false, where);
    open.clear();
}

static void finish(const Arrival& a) {
    bring_in(a.member / threads);
    for (Barrier& b : barriers) {
        if (b.address != a.barrier) continue;
        const int engine = block_rank * engines + b.engine, slot = members + engine;
        engine_clock[engine]++;
        for (uint32_t number : a.copies) {
            const uint32_t where = copies[number].start.where;
            if (!alive) report_note(MISSING_WAIT, where, "nobody waits for this copy");
            arrive(number, {engine_clock[engine], where, slot, COPY});
        }
        join(b.gathering, a.known);
        b.gathering[slot] = std::max(b.gathering[slot], engine_clock[engine]);
        b.pending--;
        end_phase_if_complete(b);
        return;
    }
}

static void finish_arrivals_of(int member) {
    for (size_t i = 0; i < arrivals.size();) {
        if (arrivals[i].member != member) {
            i++;
            continue;
        }
        const Arrival a = std::move(arrivals[i]);
        arrivals.erase(arrivals.begin() + i);
        finish(a);
    }
}

static bool on_their_way() { return !bulks.empty() || !arrivals.empty(); }

static void finish_a_bulk() {  // any of them
    const size_t i = random_number() % (bulks.size() + arrivals.size());
    if (i >= bulks.size()) {
        const Arrival a = std::move(arrivals[i - bulks.size()]);
        arrivals.erase(arrivals.begin() + (i - bulks.size()));
        return finish(a);
    }
    std::swap(bulks[i], bulks.back());
    const Bulk bulk = bulks.back();
    bulks.pop_back();
    const Event start = copies[bulk.copy].start;
    let_go_of_source(bulk, start.where);
    bring_in(bulk.block_rank);
    const bool from_afar = start.thread / threads != block_rank;
    if (!alive && from_afar) report_absence(start, block_rank, "have returned before");
    else if (!alive) report_note(MISSING_WAIT, start.where, "nobody waits for this copy");
    const TensorMap& map = bulk.map;
    each_row(map, bulk.at, bulk.offset, [&](size_t offset, char* row) {
        for (unsigned i = 0; i < map.box[0]; i++) {
            const long long x = bulk.at[0] + (long long)i;
            char* to = swizzled(bulk.target + offset + i * map.item_bytes, map.swizzle);
            if (row && x >= 0 && x < (long long)map.sizes[0]) memcpy(to, source_of(bulk, row + x * map.item_bytes), map.item_bytes);
            else memset(to, 0, map.item_bytes);
        }
    });
    for (Barrier& b : barriers) {
        if (b.address != bulk.barrier) continue;
        const int engine = block_rank * engines + b.engine, slot = members + engine;
        engine_clock[engine]++;
        arrive_as(copies[bulk.copy], Event{engine_clock[engine], start.where, slot, BULK});
        free_copies.push_back(bulk.copy);
        if (from_afar) remember_visit(block_rank, slot, {engine_clock[engine], start.where, start.thread, BULK});
        join(from_afar ? b.gathering_afar : b.gathering, bulk.known);
        b.gathering[slot] = std::max(b.gathering[slot], engine_clock[engine]);
        b.bytes -= int64_t(box_bytes(map));
        end_phase_if_complete(b);
        return;
    }
}
