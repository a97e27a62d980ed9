// Waiting for each other: the barrier of a block, and what lanes of a warp do together: part of runtime.cpp.

static void learn(int thread, const Clock& all) {  // and begin a new step, which nobody knows of yet
    join(fibers[thread].clock, all);
    fibers[thread].clock[in_cluster(thread)]++;
}

static void wake(int thread) {
    fibers[thread].state = READY;
    ready.push_back(in_cluster(thread));
}

void block_barrier(const void* return_address) {
    Fiber& me = fibers[current()];
    me.where = place(return_address);
    if (waiting == 0) {
        known.assign(clock_size, 0);
        barrier_where = me.where;
    } else if (barrier_where != me.where) {
        report(DIVERGENCE, me.where, barrier_where, "");
    }
    join(known, me.clock);
    if (++waiting < threads) {
        me.state = AT_BLOCK_BARRIER;
        wait_for_scheduler();
        return;
    }
    waiting = 0;
    for (int warp = 0; warp < (threads + 31) / 32; warp++) the_warp_is_together(warp);
    for (int t = 0; t < threads; t++) {
        fibers[t].clock = known;
        fibers[t].clock[in_cluster(t)]++;
        if (t != current()) wake(t);
    }
}

int block_barrier_votes(bool vote, const void* return_address) {
    votes += vote;
    if (waiting + 1 == threads) {
        counted = votes;
        votes = 0;
    }
    block_barrier(return_address);
    return counted;  // that of this barrier: there is no next one before all have come
}

static Meeting& meet(unsigned mask, uint32_t where, const void* value, size_t bytes, bool orders_memory,
                     Together body = nullptr) {
    const int thread = current(), warp = thread / 32, lane = thread % 32;
    const int lanes_here = std::min(32, threads - warp * 32);
    const unsigned here = lanes_here == 32 ? ~0u : (1u << lanes_here) - 1;
    if (!(mask >> lane & 1)) {
        Finding* f = report(BAD_LANE, where, 0, "");
        if (f) snprintf(f->note, sizeof f->note, "lane %d calls with the mask %#x, which leaves it out", lane, mask);
        abandon();
    }
    const unsigned full = mask & here;
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
    if (meeting->arrived != full) {
        fibers[thread].state = AT_WARP;
        fibers[thread].where = where;
        fibers[thread].mask = full;
        wait_for_scheduler();
        return *meeting;
    }
    if (body) {
        void* handed_in[32];
        for (int i = 0; i < 32; i++) memcpy(&handed_in[i], meeting->values[meeting->round & 1][i], sizeof handed_in[i]);
        body(handed_in);
        self = &lanes[thread];
    }
    if (full == here) the_warp_is_together(warp);
    for (int other = 0; other < 32; other++) {
        if (!(full >> other & 1)) continue;
        const int t = warp * 32 + other;
        if (orders_memory) learn(t, meeting->known);
        if (t != thread) wake(t);
    }
    meeting->arrived = 0;
    meeting->round++;
    return *meeting;
}

void warp_barrier(unsigned mask, const void* return_address) {
    meet(mask, place(return_address), nullptr, 0, true);
}

// A shuffle makes lanes wait for each other but does not order their accesses to memory; only __syncwarp does.
const char* warp_exchange(unsigned mask, const void* value, size_t bytes, const void* return_address) {
    Meeting& m = meet(mask, place(return_address), value, bytes, false);
    return m.values[(m.round - 1) & 1][0];  // the next round cannot end without this lane
}

void check_source_lane(unsigned mask, int source, const void* return_address) {
    const int warp = current() / 32;
    if (mask >> source & 1 && warp * 32 + source < threads) return;
    Finding* f = report(BAD_LANE, place(return_address), 0, "");
    if (f) snprintf(f->note, sizeof f->note, "lane %d reads from lane %d, which does not take part", current() % 32, source);
}
