// One cluster, from its start to the end of its last thread, and which of its threads runs next: part of runtime.cpp.

static void run_fiber() {
    entry(values);
    check_copies_at_exit();
    check_stores_at_exit();
    check_products_at_exit();
    check_registers_at_exit();
    fibers[current()].state = DONE;
    alive--;
    leave_meetings();
    leave_cluster();
    wait_for_scheduler();
}

static void start_block(Index index) {
    block = index;
    alive = threads;
    waiting = votes = 0;
    for (const Region& r : regions)
        if (r.shared && in_shared_section(r.begin)) memset(r.begin, 0xff, r.end - r.begin);
    std::fill_n(dynamic_begin - DYNAMIC_ZONE, dynamic_stride, char(0xff));
    for (Region& r : regions)
        if (r.shared) r.fresh(NOBODY);
    meetings.assign((threads + 31) / 32, {});
    for (NamedBarrier& b : named_barriers) b = NamedBarrier();
    barriers.clear();
    warpgroups.assign(threads, Warpgroup());
    start_registers();
    for (int t = 0; t < threads; t++) {
        Fiber& f = fibers[t];
        f.state = READY;
        f.clock.assign(clock_size, 0);
        f.clock[in_cluster(t)] = 1;
        f.asked = nullptr;
        f.asks = 0;
        f.came = false;
        f.open.clear();
        f.groups.clear();
        f.products = 0;
        make_context(f.context, stack_of(in_cluster(t)), STACK, run_fiber);
        const unsigned i = t;
        lanes[t].thread = {i % block_size.x, i / block_size.x % block_size.y, i / block_size.x / block_size.y};
        lanes[t].lane = t % 32;
        ready.push_back(in_cluster(t));
    }
}

static void start_cluster(unsigned number) {
    cluster_number++;
    abandoned = async_proxy = by_product = within_block = false;
    latest = nullptr;
    visited = -1;
    ready.clear();
    asking = 0;
    in_vain = refused = 0;
    const unsigned across = grid_size.x / cluster_size.x, down = grid_size.y / cluster_size.y;
    first_block = {number % across * cluster_size.x, number / across % down * cluster_size.y, number / across / down * cluster_size.z};
    for (int rank = 0; rank < cluster_blocks; rank++) flags[1 + rank].clear();
    copies.clear();
    free_copies.clear();
    bulks.clear();
    arrivals.clear();
    stores.clear();
    cluster_barrier.restart();
    for (int rank = 0; rank < cluster_blocks; rank++) {
        bring_in(rank);
        start_block(block_of(rank));
        start_visits();
    }
}

static void say_what_is_missing(Finding& finding, const void* barrier, int here) {
    for (const Barrier& b : barriers) {
        if (b.address != barrier) continue;
        char bytes[64] = "";
        if (b.bytes > 0) snprintf(bytes, sizeof bytes, " and %lld bytes", (long long)b.bytes);
        if (b.bytes < 0) snprintf(bytes, sizeof bytes, ", and %lld bytes more have come than were expected", (long long)-b.bytes);
        snprintf(finding.note, sizeof finding.note, "%d wait here for the end of an mbarrier's phase, %d arrivals%s missing%s", here,
                 b.pending, b.bytes > 0 ? bytes : "", b.bytes < 0 ? bytes : "");
    }
}

static void report_deadlock() {
    uint32_t seen[8];
    int different = 0;
    for (int t = 0; t < threads; t++) {
        const Fiber& f = fibers[t];
        if (f.state == DONE || std::find(seen, seen + different, f.where) != seen + different) continue;
        if (different == 8) break;
        seen[different++] = f.where;
        int here = 0, done = 0, elsewhere = 0, missing = -1;
        for (int s = 0; s < threads; s++) {
            const Fiber& other = fibers[s];
            if (other.state != DONE && other.where == f.where) {
                here++;
                continue;
            }
            if (f.state == AT_WARP && (s / 32 != t / 32 || !(f.mask >> (s % 32) & 1))) continue;
            (other.state == DONE ? done : elsewhere)++;
            if (missing < 0) missing = s;
        }
        Finding* finding = report(DEADLOCK, f.where, 0, "");
        if (!finding) continue;
        finding->thread = t;
        finding->other_thread = missing;
        if (missing >= 0 && fibers[missing].state != DONE) finding->other_where = fibers[missing].where;
        if (f.state == AT_CLUSTER_BARRIER) {
            finding->other_thread = -1;
            say_who_is_missing(*finding, here);
        } else if (f.state == AT_REGISTERS) {
            finding->other_thread = -1;
            snprintf(finding->note, sizeof finding->note, "%d wait here for %d more registers each, and the pool has %d",
                     here, registers.wanted[t / 32] - registers.held[t / 32], registers.free);
        } else if (f.state == AT_MBARRIER)
            say_what_is_missing(*finding, f.barrier, here);
        else
            snprintf(finding->note, sizeof finding->note, "%d wait here, %d have returned, %d wait elsewhere", here, done,
                     elsewhere);
    }
}

static void report_vain_question() {
    const int thread = ready.back() % threads;
    bring_in(ready.back() / threads);
    stopped = abandoned = true;
    Finding* finding = report(ENDLESS, fibers[thread].where, 0, "");
    if (!finding) return;
    finding->thread = thread;
    snprintf(finding->note, sizeof finding->note, "waits for a flag that no thread sets%s",
             cooperative ? "" : " before it goes on: blocks run one after the other");
}

// Nobody can go on. But a thread that tries to wait at an mbarrier may do something else when told that its phase goes on, such
// as try another one. Whether there were such threads, and it has helped of late.
static bool refuse_those_who_try() {
    static unsigned ended;
    if (ended != phases_ended) refused = 0;
    ended = phases_ended;
    if (refused++ == REFUSALS) return false;
    bool any = false;
    for (int rank = 0; rank < cluster_blocks; rank++)
        for (Barrier& b : barriers_of(rank)) {
            const auto last = std::stable_partition(b.waiting.begin(), b.waiting.end(), [](int m) { return !fiber_of(m).tries; });
            for (auto m = last; m != b.waiting.end(); m++) {
                fiber_of(*m).tries = false;
                wake_in_cluster(*m);
                any = true;
            }
            b.waiting.erase(last, b.waiting.end());
        }
    return any;
}

static void run_cluster(unsigned number) {
    start_cluster(number);
    while (!abandoned && (!ready.empty() || on_their_way() || refuse_those_who_try())) {
        if (int(ready.size()) > asking) in_vain = 0;
        else if (on_their_way()) {  // nobody can go on: the last moment for a copy to arrive
            finish_a_bulk();
            continue;
        } else if (in_vain++ > PATIENCE + OF_EACH * ready.size() && !refuse_those_who_try()) {
            report_vain_question();
            break;
        }
        std::swap(ready[random_number() % ready.size()], ready.back());
        const int next = ready.back();
        ready.pop_back();
        bring_in(next / threads);
        asking -= fibers[next % threads].state == ASKING;
        fibers[next % threads].state = READY;
        self = &lanes[next % threads];
        switch_context(scheduler, fibers[next % threads].context);
        self = nullptr;
    }
    for (int rank = 0; rank < cluster_blocks; rank++) {
        bring_in(rank);
        for (int warp = 0; warp < (threads + 31) / 32; warp++) the_warp_is_together(warp);
        if (alive && !abandoned) report_deadlock();
    }
}
