// Clusters: blocks that run together and reach each other's shared memory: part of runtime.cpp.
//
// All that the other files call a block's (fibers, barriers, shared memory, its shadow) is that of the block "in
// place". The others of its cluster are parked: before one of their fibers runs, their block and the one in place are
// exchanged. Shared arrays lie at one address for all blocks, so their bytes are copied out and in; dynamic shared
// memory is elsewhere for each block. An access to another block's memory finds it where it is parked, and there is what a
// generic address of it (map_shared_rank) points to.
//
// The blocks' threads are numbered through and share one kind of clock, so barrier.cluster orders accesses to global
// and to shared memory as other barriers do. It waits for all threads that have not returned, as the manual says.
//
// The shared memory of a block exists from the start of its first thread to the return of its last one. So whoever
// touches it must have been preceded by something that a thread of that block did, and must precede the return of one
// of them.

struct Parked {  // what is the block's of that name; see runtime.cpp
    Index block = {};
    vector<Fiber> fibers;
    int alive = 0, waiting = 0, votes = 0, counted = 0;
    Clock known;
    uint32_t barrier_where = 0;
    vector<std::deque<Meeting>> meetings;
    vector<NamedBarrier> named_barriers = vector<NamedBarrier>(16);
    std::deque<Barrier> barriers;
    vector<Warpgroup> warpgroups;
    Registers registers;
    vector<Sites> sites;
    vector<Region> shared;  // with its dynamic memory
    char* dynamic_begin = nullptr;
    vector<char> bytes;     // of its shared arrays, in
    char* image = nullptr;  // a copy of the section of the program in which they lie
};

struct Visits {  // of other blocks' threads to a block's shared memory
    vector<Event> last;  // of each thread, and of each engine that brought a copy, as the thread's that started it
    Clock left;          // what is known to the block's threads that have returned
};

static vector<Parked> parked;  // of each rank; that of the block in place is not used
static Index first_block;      // of the cluster: the one of rank 0

static Index block_of(int rank) {
    const unsigned r = unsigned(rank), x = cluster_size.x, y = cluster_size.y;
    return {first_block.x + r % x, first_block.y + r / x % y, first_block.z + r / (x * y)};
}
static vector<Visits> visits;

static void exchange(Parked& p) {
    std::swap(block, p.block);
    std::swap(fibers, p.fibers);
    std::swap(alive, p.alive);
    std::swap(waiting, p.waiting);
    std::swap(votes, p.votes);
    std::swap(counted, p.counted);
    std::swap(known, p.known);
    std::swap(barrier_where, p.barrier_where);
    std::swap(meetings, p.meetings);
    std::swap(named_barriers, p.named_barriers);
    std::swap(barriers, p.barriers);
    std::swap(warpgroups, p.warpgroups);
    std::swap(registers, p.registers);
    std::swap(sites, p.sites);
    std::swap_ranges(p.shared.begin(), p.shared.end(), regions.begin() + global_regions);
    std::swap(dynamic_begin, p.dynamic_begin);
}

template <class Act>
static void each_shared_array(Parked& p, Act act) {  // act(the array that is in place, the bytes of the parked one)
    for (size_t i = global_regions; i < regions.size(); i++)
        if (in_shared_section(regions[i].begin)) act(regions[i], p.image + (regions[i].begin - program.shared_begin));
}

static void bring_in(int rank) {
    if (rank == block_rank) return;
    each_shared_array(parked[block_rank], [](Region& r, char* at) { memcpy(at, r.begin, r.end - r.begin); });
    exchange(parked[block_rank]);
    exchange(parked[rank]);
    each_shared_array(parked[rank], [](Region& r, char* at) { memcpy(r.begin, at, r.end - r.begin); });
    block_rank = rank;
    first_member = rank * threads;
}

static char* parked_place(int rank, const char* address) { return parked[rank].image + (address - program.shared_begin); }

// Where the block of that rank has now what this one has at `here`; dynamic memory is at a place of its own.
static char* place_in_block(int rank, const char* here) {
    if (rank == block_rank) return const_cast<char*>(here);
    if (in_shared_section(here)) return parked_place(rank, here);
    return const_cast<char*>(here) + ptrdiff_t(dynamic_stride) * (rank - block_rank);
}

static void prepare_cluster() {
    parked.clear();
    visits.clear();
    if (cluster_blocks == 1) return;
    parked.resize(cluster_blocks);
    visits.resize(cluster_blocks);
    for (int rank = 0; rank < cluster_blocks; rank++) {
        Parked& p = parked[rank];
        p.fibers.resize(threads);
        p.sites.resize(sites.size());
        p.shared.assign(regions.begin() + global_regions, regions.end());
        p.dynamic_begin = dynamic_begin + dynamic_stride * rank;
        for (Region& r : p.shared)
            if (!in_shared_section(r.begin)) r.begin += dynamic_stride * rank, r.end += dynamic_stride * rank;
        p.bytes.resize(program.shared_end - program.shared_begin + 1024);
        p.image = p.bytes.data() + (program.shared_begin - p.bytes.data()) % 1024;
        if (p.image < p.bytes.data()) p.image += 1024;
    }
}

static Fiber& fiber_of(int member) {
    const int rank = member / threads;
    return (rank == block_rank ? fibers : parked[rank].fibers)[member % threads];
}

static void wake_in_cluster(int member) {
    fiber_of(member).state = READY;
    ready.push_back(member);
}

// --- barrier.cluster -------------------------------------------------------------------------------------------------

struct ClusterBarrier {
    int missing;                // threads that have neither come nor returned
    uint32_t phase;             // how many have ended
    Clock gathering, released;  // what is known to those who have come, and who had in the last phase
    vector<int> waiting;

    void restart() {
        missing = members;
        gathering.assign(clock_size, 0);
        waiting.clear();
    }
};

static ClusterBarrier cluster_barrier;

// A grid's barrier is one of blocks: the first thread of each comes for it when all that have not returned are there.
static bool is_awaited(int member) { return fiber_of(member).state != DONE || (cooperative && member % threads == 0); }

static void one_less_is_missing() {
    ClusterBarrier& b = cluster_barrier;
    if (--b.missing) return;
    b.phase++;
    b.released = b.gathering;
    const vector<int> waiting = b.waiting;
    b.restart();
    b.missing = 0;
    for (int member = 0; member < members; member++) b.missing += is_awaited(member);
    for (int member : waiting) wake_in_cluster(member);
}

void cluster_arrive(const void* return_address, bool relaxed) {
    Fiber& me = fibers[current()];
    if (me.came) {
        report_note(BAD_OPERAND, place(return_address), "a second cluster_arrive with no cluster_wait after the first");
        abandon();
    }
    me.came = true;
    me.came_in = cluster_barrier.phase;
    if (!relaxed) join(cluster_barrier.gathering, me.clock);
    me.clock[in_cluster(current())]++;
    one_less_is_missing();
}

void cluster_wait(const void* return_address) {
    Fiber& me = fibers[current()];
    if (!me.came) {
        report_note(BAD_OPERAND, place(return_address), "cluster_wait with no cluster_arrive before it");
        abandon();
    }
    if (cluster_barrier.phase == me.came_in) {
        cluster_barrier.waiting.push_back(in_cluster(current()));
        me.state = AT_CLUSTER_BARRIER;
        me.where = place(return_address);
        wait_for_scheduler();
    }
    me.came = false;
    learn(current(), cluster_barrier.released);  // the next phase cannot end before this thread has come again
}

void grid_arrive(const void* return_address) {  // and cluster_wait follows
    if (!cooperative) {
        report_note(BAD_OPERAND, place(return_address), "grid.sync() in a launch that is not cooperative: blocks run one after the other");
        abandon();
    }
    cluster_arrive(return_address);
}

static void say_who_is_missing(Finding& finding, int here) {
    for (int member = 0; member < members; member++) {
        const Fiber& f = fiber_of(member);
        if (!is_awaited(member) || (f.came && f.came_in == cluster_barrier.phase)) continue;
        snprintf(finding.note, sizeof finding.note,
                 "%d wait here for the %s, of which %d threads are missing; the first is thread %d of its block %d",
                 here, cooperative ? "grid" : "cluster", cluster_barrier.missing, member % threads, member / threads);
        return;
    }
}

// --- the shared memory of other blocks -------------------------------------------------------------------------------

static void report_absence(const Event& visit, int rank, const char* what) {
    Finding* f = report(ABSENT_BLOCK, visit.where, 0, "");
    if (!f) return;
    f->thread = visit.thread % threads;
    const Index visitor = block_of(visit.thread / threads);
    f->block[0] = visitor.x, f->block[1] = visitor.y, f->block[2] = visitor.z;
    snprintf(f->note, sizeof f->note, "an access to the shared memory of block %d of the cluster, which may %s", rank,
             what);
}

static void start_visits() {
    if (cluster_blocks == 1) return;
    visits[block_rank].last.assign(part_size, Event());
    visits[block_rank].left.assign(clock_size, 0);
}

static void leave_cluster() {
    const Fiber& me = fibers[current()];
    const bool came = me.came && me.came_in == cluster_barrier.phase;
    if (cluster_blocks > 1) {
        Visits& v = visits[block_rank];
        join(v.left, me.clock);
        for (size_t slot = 0; slot < v.last.size(); slot++)
            if (!alive && v.last[slot] && v.last[slot].clock > v.left[slot])
                report_absence(v.last[slot], block_rank, "have returned before");
    }
    if (!came && !is_awaited(in_cluster(current()))) one_less_is_missing();
}

// Before a thread touches what the block of that rank has in shared memory.
static void visit(int rank, const Event& now) {
    check_rank(rank, now.where);
    if (rank == block_rank) return;
    const Clock& known = fibers[current()].clock;
    const auto first = known.begin() + rank * threads;
    if (std::all_of(first, first + threads, [](uint32_t step) { return step == 0; }))
        report_absence(now, rank, "not have begun");
    if (!parked[rank].alive) report_absence(now, rank, "have returned before");
}

static void remember_visit(int rank, size_t slot, const Event& visit) {
    if (cluster_blocks > 1) visits[rank].last[slot] = visit;
}

// Checks an access to what the block of that rank has where this one has `here`, in `mine`. Returns that block's array.
static Region& touch_in_block(int rank, Region& mine, const char* here, size_t bytes, Access kind, uint32_t where) {
    count_access(where);
    visit(rank, event(where, kind));
    Region& theirs = rank == block_rank ? mine : parked[rank].shared[&mine - &regions[global_regions]];
    visited = rank == block_rank ? -1 : rank;
    Region* const region = touch_in(theirs, theirs.begin + (here - mine.begin), bytes, kind, where);
    visited = -1;
    if (!region) abandon();
    return theirs;
}

void* in_block(int rank, const void* pointer, size_t bytes, Access kind, const void* return_address) {
    const uint32_t where = place(return_address);
    char* const here = static_cast<char*>(const_cast<void*>(pointer));
    Region* const mine = find(here, false);
    if (!mine || !mine->shared) {
        const Region* const near = mine ? nullptr : find(here, true);
        if (near && near->shared) report_access(OUT_OF_RANGE, where, *near, kind, here, bytes);
        else report_note(BAD_OPERAND, where, "an address that is not in shared memory");
        abandon();
    }
    if (reinterpret_cast<uintptr_t>(here) % bytes) {
        report_access(MISALIGNED, where, *mine, kind, here, bytes);
        abandon();
    }
    touch_in_block(rank, *mine, here, bytes, kind, where);
    if (rank == block_rank) return here;
    remember_visit(rank, in_cluster(current()), event(where, kind));
    return place_in_block(rank, here);
}

// A generic address of what this block has at `here` in the block of that rank.
void* map_shared_rank(const void* pointer, int rank, const void* return_address) {
    char* const here = static_cast<char*>(const_cast<void*>(pointer));
    check_rank(rank, place(return_address));
    if (!in_shared(here)) {
        report_note(BAD_OPERAND, place(return_address), "an address that is not in this block's shared memory");
        abandon();
    }
    return place_in_block(rank, here);
}

// The other way: the rank, and what this block has there; null for any other address.
static const char* of_other_block(const char* address, int& rank) {
    if (cooperative) return nullptr;
    for (rank = 0; rank < cluster_blocks; rank++) {
        if (rank == block_rank) continue;
        const char* here = program.shared_begin + (address - parked[rank].image);
        if (in_shared_section(here)) return here;
        here = address - ptrdiff_t(dynamic_stride) * (rank - block_rank);
        if (here >= dynamic_begin - DYNAMIC_ZONE && here < dynamic_begin - DYNAMIC_ZONE + dynamic_stride) return here;
    }
    return nullptr;
}

int query_shared_rank(const void* pointer) {
    int rank;
    return of_other_block(static_cast<const char*>(pointer), rank) ? rank : block_rank;
}

static Region* touch_other_block(const char* address, size_t bytes, Access kind, uint32_t where) {
    int rank;
    const char* const here = of_other_block(address, rank);
    Region* const mine = here ? find(here, true) : nullptr;
    if (!mine) return nullptr;
    if (here < mine->begin || here >= mine->end) {
        visited = rank;
        report_access(OUT_OF_RANGE, where, *mine, kind, here, bytes);
        visited = -1;
        abandon();
    }
    Region& theirs = touch_in_block(rank, *mine, here, bytes, kind, where);
    remember_visit(rank, in_cluster(current()), event(where, kind));
    return &theirs;
}

// --- and their mbarriers ---------------------------------------------------------------------------------------------

static std::deque<Barrier>& barriers_of(int rank) { return rank == block_rank ? barriers : parked[rank].barriers; }

// The address in the block of that rank, when it is in place, of what this one has at `here`.
static const char* where_it_lies(const void* here, int rank) {
    const char* const address = static_cast<const char*>(here);
    return address + (in_shared_section(address) ? 0 : ptrdiff_t(dynamic_stride) * (rank - block_rank));
}

void mbarrier_arrive_at(void* here, int rank, const void* return_address, int bytes, int count) {
    const uint32_t where = place(return_address);
    const Event now = event(where, ATOMIC);
    visit(rank, now);
    if (rank != block_rank) remember_visit(rank, now.thread, now);
    Barrier& b = barrier_at(here, where, rank);
    arrive_at(b, rank == block_rank ? b.gathering : b.gathering_afar, bytes, count, where);
}
