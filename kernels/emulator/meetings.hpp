// Waiting for each other: the barrier of a block, and what lanes of a warp do together: part of runtime.cpp.

static void learn(int thread, const Clock& all) {  // and begin a new step, which nobody knows of yet
    join(fibers[thread].clock, all);
    fibers[thread].clock[in_cluster(thread)]++;
}

static void wake(int thread) {
    fibers[thread].state = READY;
    ready.push_back(in_cluster(thread));
}

// All threads of the block have come that have not returned: "__syncthreads() ... will not succeed until reached by all
// non-exited threads in the block" (CUDA C++ Programming Guide, independent thread scheduling; from Volta on).
static void open_block_barrier() {
    for (const Fiber& f : fibers)
        if (f.state == DONE) join(known, f.clock);
    waiting = 0;
    counted = votes;
    votes = 0;
    for (int warp = 0; warp < (threads + 31) / 32; warp++) the_warp_is_together(warp);
    for (int t = 0; t < threads; t++) {
        if (fibers[t].state == DONE) continue;
        fibers[t].clock = known;
        fibers[t].clock[in_cluster(t)]++;
        if (t != current()) wake(t);
    }
}

void block_barrier(const void* return_address) {
    Fiber& me = fibers[current()];
    me.where = place(return_address);
    count_meeting(me.where);
    if (waiting == 0) {
        known.assign(clock_size, 0);
        barrier_where = me.where;
    } else if (barrier_where != me.where) {
        report(DIVERGENCE, me.where, barrier_where, "");
    }
    join(known, me.clock);
    if (++waiting < alive) {
        me.state = AT_BLOCK_BARRIER;
        wait_for_scheduler();
        return;
    }
    open_block_barrier();
}

int block_barrier_votes(bool vote, const void* return_address) {
    votes += vote;
    block_barrier(return_address);
    return counted;  // that of this barrier: there is no next one before all have come
}

static unsigned lanes_of(int warp) {  // that there are
    const int count = threads - warp * 32;
    return count >= 32 ? ~0u : (1u << count) - 1;
}

static unsigned returned_lanes(int warp) {
    unsigned lanes = 0;
    for (int t = warp * 32; t < std::min(threads, warp * 32 + 32); t++) lanes |= unsigned(fibers[t].state == DONE) << t % 32;
    return lanes;
}

static bool all_have_come(const Meeting& m, int warp) {
    if (m.arrived == m.mask) return true;
    return m.excuses && alive < threads && (m.arrived | (returned_lanes(warp) & m.mask)) == m.mask;
}

static void end_meeting(Meeting& m, int warp) {
    if (m.body) {
        void* handed_in[32];
        for (int i = 0; i < 32; i++) memcpy(&handed_in[i], m.values[m.round & 1][i], sizeof handed_in[i]);
        Lane* const me = self;
        m.body(handed_in);
        self = me;
    }
    if (m.arrived == lanes_of(warp)) the_warp_is_together(warp);
    for (int lane = 0; lane < 32; lane++)
        if (m.orders_memory && (m.mask & ~m.arrived) >> lane & 1) join(m.known, fibers[warp * 32 + lane].clock);
    for (int lane = 0; lane < 32; lane++) {
        if (!(m.arrived >> lane & 1)) continue;
        const int t = warp * 32 + lane;
        lanes[t].together = m.arrived;
        if (m.orders_memory) learn(t, m.known);
        if (t != current()) wake(t);
    }
    m.arrived = 0;
    m.round++;
}

// A thread has returned, and others may have waited for it alone.
static void leave_meetings() {
    if (alive && waiting == alive) open_block_barrier();
    const int warp = current() / 32;
    for (Meeting& m : meetings[warp])
        if (m.arrived && all_have_come(m, warp)) end_meeting(m, warp);
}

// With `excuses` lanes that have returned need not come.
static Meeting& meet(unsigned mask, uint32_t where, const void* value, size_t bytes, bool orders_memory, bool excuses,
                     Together body = nullptr) {
    const int thread = current(), warp = thread / 32, lane = thread % 32;
    count_meeting(where);
    if (!(mask >> lane & 1)) {
        Finding* f = report(BAD_LANE, where, 0, "");
        if (f) snprintf(f->note, sizeof f->note, "lane %d calls with the mask %#x, which leaves it out", lane, mask);
        abandon();
    }
    const unsigned full = mask & lanes_of(warp);
    Meeting* meeting = nullptr;
    for (Meeting& m : meetings[warp])
        if (m.mask == full) meeting = &m;
    if (!meeting) {
        meetings[warp].push_back(Meeting());
        meeting = &meetings[warp].back();
        meeting->mask = full;
    }
    if (!meeting->arrived) {
        meeting->where = where;
        meeting->body = body;
        meeting->orders_memory = orders_memory;
        meeting->excuses = excuses;
        meeting->known.assign(clock_size, 0);
    } else if (meeting->where != where) {
        Finding* f = report(DIVERGENCE, where, meeting->where, "");
        if (meeting->body != body) {
            if (f) snprintf(f->note, sizeof f->note, "for another instruction");
            abandon();
        }
    }
    if (bytes) memcpy(meeting->values[meeting->round & 1][lane], value, bytes);
    if (orders_memory) join(meeting->known, fibers[thread].clock);
    meeting->arrived |= 1u << lane;
    if (all_have_come(*meeting, warp)) {
        end_meeting(*meeting, warp);
        return *meeting;
    }
    fibers[thread].state = AT_WARP;
    fibers[thread].where = where;
    fibers[thread].mask = full;
    wait_for_scheduler();
    return *meeting;
}

void warp_barrier(unsigned mask, const void* return_address) {
    meet(mask, place(return_address), nullptr, 0, true, true);
}

// A shuffle makes lanes wait for each other but does not order their accesses to memory; only __syncwarp does.
const char* warp_exchange(unsigned mask, const void* value, size_t bytes, const void* return_address) {
    Meeting& m = meet(mask, place(return_address), value, bytes, false, true);
    return m.values[(m.round - 1) & 1][0];  // the next round cannot end without this lane
}

void refuse_width(int width, const void* return_address) {
    report_note(BAD_OPERAND, place(return_address), "a shuffle in groups of %d lanes: they have 1, 2, 4, 8, 16 or 32", width);
    abandon();
}

void check_source_lane(int source, const void* return_address) {
    if (self->together >> source & 1) return;
    Finding* f = report(BAD_LANE, place(return_address), 0, "");
    if (f) snprintf(f->note, sizeof f->note, "lane %d reads from lane %d, which does not take part", current() % 32, source);
}
