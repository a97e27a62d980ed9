// Barriers in shared memory and named barriers: part of runtime.cpp.

// --- bar.sync, bar.arrive: 16 barriers of a block, each for as many threads as its callers say ----------------------------

struct NamedBarrier {
    int expected = 0, arrived = 0;
    uint32_t where = 0;
    Clock known;
    vector<int> waiting;
};

static vector<NamedBarrier> named_barriers(16);

static void meet_at(int number, int count, bool wait, const void* return_address) {
    const uint32_t where = place(return_address);
    if (number < 1 || number > 15 || count % 32 || count < 32 || count > (threads + 31) / 32 * 32) {
        report_note(BAD_OPERAND, where, "barrier %d for %d threads: it must be one of 1 to 15, for whole warps", number, count);
        abandon();
    }
    meet(~0u, where, nullptr, 0, false, false);  // these instructions are .aligned, and count the warp, not its lanes
    NamedBarrier& b = named_barriers[number];
    Fiber& me = fibers[current()];
    if (!b.arrived) {
        b.expected = count;
        b.where = where;
        b.known.assign(clock_size, 0);
    } else if (b.expected != count) {
        if (Finding* f = report(DIVERGENCE, where, b.where, ""))
            snprintf(f->note, sizeof f->note, "for %d threads, where it is for %d", b.expected, count);
        abandon();
    }
    join(b.known, me.clock);
    if (++b.arrived == b.expected) {
        b.arrived = 0;
        for (int t : b.waiting) {
            learn(t, b.known);
            wake(t);
        }
        b.waiting.clear();
        if (wait) learn(current(), b.known);
        else me.clock[in_cluster(current())]++;
        return;
    }
    if (!wait) {
        me.clock[in_cluster(current())]++;
        return;
    }
    b.waiting.push_back(current());
    me.state = AT_NAMED_BARRIER;
    me.where = where;
    wait_for_scheduler();
}

void named_barrier_sync(int number, int count, const void* where) { meet_at(number, count, true, where); }
void named_barrier_arrive(int number, int count, const void* where) { meet_at(number, count, false, where); }

// --- mbarrier: arrivals and bytes are counted; threads wait for the end of a phase ----------------------------------------

struct Barrier {
    const void* address;
    int count, pending;     // arrivals of each phase, and of this one that are missing
    int64_t bytes;          // that copies of this phase still have to bring
    uint32_t phase;         // how many have ended
    Clock gathering, released;  // what is known to those who arrive in this phase, and who did in the last one
    Clock gathering_afar, released_afar;  // and to those from other blocks: mbarrier_wait_cluster
    Event made;
    bool fenced;            // the maker has told the engine that copies (the async proxy)
    int engine;             // the clock of what arrives by copies
    vector<int> waiting;    // threads of the cluster
};

static std::deque<Barrier> barriers;  // of this block

static std::deque<Barrier>& barriers_of(int rank);  // these three are in clusters.hpp
static const char* where_it_lies(const void* here, int rank);
static void wake_in_cluster(int member);

// The one that the block of that rank has where this one has `here`.
static Barrier& barrier_at(const void* here, uint32_t where, int rank = block_rank) {
    const char* const address = where_it_lies(here, rank);
    for (Barrier& b : barriers_of(rank))
        if (b.address == address) {
            if (!before_now(b.made)) {
                const Region* r = find(static_cast<const char*>(here), false);
                visited = rank == block_rank ? -1 : rank;
                report_access(RACE, where, *r, ATOMIC, static_cast<const char*>(here), 8, &b.made);
                visited = -1;
            }
            return b;
        }
    report_note(UNINITIALISED, where, "an mbarrier that nobody has initialised");
    abandon();
    return barriers.front();  // never reached
}

void mbarrier_init(void* address, int count, const void* return_address) {
    const uint32_t where = place(return_address);
    if (!in_shared(static_cast<char*>(address)) || reinterpret_cast<uintptr_t>(address) % 8 || count < 1) {
        report_note(BAD_OPERAND, where, "an mbarrier is 8 aligned bytes of shared memory, for at least 1 arrival");
        abandon();
    }
    touch(static_cast<char*>(address), 8, WRITE, where);
    Region& r = *find(static_cast<char*>(address), false);
    const size_t first = (static_cast<char*>(address) - r.begin) / r.grain;
    for (size_t i = first; i < first + 8 / r.grain; i++) r.cells[i].barrier = true;
    barriers.erase(std::remove_if(barriers.begin(), barriers.end(), [&](Barrier& b) { return b.address == address; }),
                   barriers.end());
    const Clock nothing(clock_size, 0);
    barriers.push_back({address, count, count, 0, 0, nothing, nothing, nothing, nothing, event(where, WRITE), false,
                        int(barriers.size()) % COPYING, {}});
}

static unsigned phases_ended;  // of all mbarriers

static void end_phase_if_complete(Barrier& b) {
    if (b.pending || b.bytes) return;
    phases_ended++;
    b.phase++;
    b.pending = b.count;
    b.released = b.gathering;
    b.gathering.assign(clock_size, 0);
    b.released_afar = b.gathering_afar;
    b.gathering_afar.assign(clock_size, 0);
    for (int member : b.waiting) wake_in_cluster(member);
    b.waiting.clear();
}

static void arrive_at(Barrier& b, Clock& gathering, int bytes, int count, uint32_t where) {
    Clock& mine = fibers[current()].clock;
    if (b.pending < count) {
        report_note(BAD_OPERAND, where, "more arrivals at an mbarrier than the %d that it was made for", b.count);
        abandon();
    }
    join(gathering, mine);
    mine[in_cluster(current())]++;
    b.bytes += bytes;
    b.pending -= count;
    end_phase_if_complete(b);
}

void mbarrier_arrive(void* address, int bytes, const void* return_address, int count) {
    const uint32_t where = place(return_address);
    Barrier& b = barrier_at(address, where);
    arrive_at(b, b.gathering, bytes, count, where);
}

void mbarrier_drop(void* address, const void* return_address) {  // and come to no later phase
    Barrier& b = barrier_at(address, place(return_address));
    b.count--;
    arrive_at(b, b.gathering, 0, 1, place(return_address));
}

bool mbarrier_phase(void* address, const void* return_address) { return barrier_at(address, place(return_address)).phase & 1; }

// Waits, or may `give_up` before the end of the phase: half of the time, or else when no thread can go on. Whether it has ended.
static bool wait_at(void* address, unsigned parity, bool of_cluster, bool give_up, const void* return_address) {
    const uint32_t where = place(return_address);
    Fiber& me = fibers[current()];
    for (;;) {
        Barrier& b = barrier_at(address, where);
        if (parity > 1) {
            report_note(BAD_OPERAND, where, "an mbarrier's parity is 0 or 1, not %u", parity);
            abandon();
        }
        if ((b.phase & 1) != parity) {
            if (of_cluster || !strict) join(me.clock, b.released_afar);
            learn(current(), b.released);
            return true;
        }
        if (give_up && random_number() % 2) return false;
        b.waiting.push_back(in_cluster(current()));
        me.state = AT_MBARRIER;
        me.where = where;
        me.barrier = b.address;
        me.tries = give_up;
        wait_for_scheduler();
        if (give_up && !me.tries) return false;
    }
}

void mbarrier_wait(void* address, unsigned parity, bool of_cluster, const void* where) { wait_at(address, parity, of_cluster, false, where); }
bool mbarrier_try_wait(void* address, unsigned parity, bool of_cluster, const void* where) { return wait_at(address, parity, of_cluster, true, where); }

void fence_mbarrier_init() {
    for (Barrier& b : barriers)
        if (b.made.thread == in_cluster(current())) b.fenced = true;
}

// What this thread knows to be written becomes visible to the async proxy, and that knowledge goes on with every barrier.
void fence_proxy_async() {
    Clock& c = fibers[current()].clock;
    std::copy_n(c.begin(), part_size, c.begin() + part_size);
    for (Barrier& b : barriers)  // as in CUDA's guide; the PTX manual has an instruction of its own for them
        if (!strict && before_now(b.made)) b.fenced = true;
}
