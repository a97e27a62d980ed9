// One access to memory, and whether it is allowed: part of runtime.cpp.

static Event event(uint32_t where, Access kind) {  // what the current thread does now
    const int me = in_cluster(current()), engine = engine_of_warp(current() / 32);
    if (by_product) return {engine_clock[engine], where, members + engine, kind};
    return {fibers[current()].clock[me], where, me, kind};
}

static bool before_now(const Event& e) { return e.clock <= fibers[current()].clock[e.thread]; }
// Of two atomic operations either may come first, unless this one is `narrow` (for its block alone) and blocks differ.
static bool ordered(const Event& e, Access kind, bool narrow) {
    const bool atomic = kind == ATOMIC && e.kind == ATOMIC && (!narrow || e.thread / threads == block_rank);
    return before_now(e) || atomic || (e.kind == ATOMIC && told(cluster_number, e));
}
static bool untold(const Past& e) { return e && !told(e.cluster, e); }
static bool visible_to_async_proxy(const Event& e) {
    return e.kind == BULK || e.clock <= fibers[current()].clock[part_size + e.thread];
}

static void enter_cluster(Cell& cell) {  // what earlier clusters did is kept apart
    if (cell.cluster == cluster_number) return;
    if (cell.write) (cell.write.kind == ATOMIC ? cell.atomic : cell.plain) = {cell.write, cell.cluster};
    if (cell.under) cell.plain = {cell.under, cell.cluster};
    if (!cell.reads.empty() && cell.reads.back().kind != ATOMIC) cell.read = {cell.reads.back(), cell.cluster};
    cell.was_narrow |= cell.narrow;
    cell.narrow = false;
    cell.write = cell.under = Event();
    cell.reads.clear();
    cell.cluster = cluster_number;
}

__attribute__((noinline)) static void forget_what_was_done_again(vector<Event>& reads) {  // by the same thread
    vector<bool> later(part_size);
    const auto again = [&](const Event& e) { return later[e.thread] || (later[e.thread] = true, false); };
    reads.erase(reads.begin(), std::remove_if(reads.rbegin(), reads.rend(), again).base());
}

static inline void remember(vector<Event>& reads, const Event& now) {
    if (!reads.empty() && reads.back().thread == now.thread && reads.back().kind == now.kind) {
        reads.back() = now;  // nobody came between
        return;
    }
    if (reads.size() >= 2 * size_t(members)) forget_what_was_done_again(reads);
    reads.push_back(now);
}

// Of two writes that nothing orders, the second may turn out to have changed nothing: then it does not matter which comes
// first. What it writes is only known when it has been done, at the latest when its thread does the next thing.
static struct {
    const char* address;
    size_t bytes;
    char before[16];
    vector<size_t> races;  // of findings
} doubted;

__attribute__((noinline, cold)) static void settle() {
    if (!strict && !memcmp(doubted.address, doubted.before, doubted.bytes))
        for (size_t i = doubted.races.size(); i-- > 0;) findings.erase(findings.begin() + doubted.races[i]);
    doubted.races.clear();
    in_doubt = false;
}

// A plain read of what others change by atomic operations is a guess if its thread's next access is an atomicCAS there:
// that finds out whether it was right. (Loops in CUDA's guide begin like this.)
static struct {
    const char* address;
    unsigned thread;
    size_t first;  // of the findings that it made
} guess;

static const void* last_read;  // the last access, if it was one

void compare_next(const void* address) {
    if (!strict && self && guess.address == address && guess.thread == current() && guess.first < findings.size())
        findings.resize(guess.first);
}

static void report_race(uint32_t where, const Region& region, Access kind, const char* address, size_t bytes,
                        const Event& other, bool of_other_cluster = false) {
    const size_t known = findings.size();
    report_access(RACE, where, region, kind, address, bytes, &other, of_other_cluster);
    if (findings.size() > known && kind == READ && other.kind == ATOMIC && guess.address != address)
        guess = {address, unsigned(current()), known};
    if (findings.size() == known || kind != WRITE || other.kind != WRITE || bytes > sizeof doubted.before) return;
    if (visited >= 0) return;  // the bytes at this address are those of the block in place
    doubted.address = address;
    doubted.bytes = bytes;
    memcpy(doubted.before, address, bytes);
    doubted.races.push_back(known);
    in_doubt = true;
}

static void watch(Region& region, Cell& cell, Access kind, const char* address, size_t bytes, uint32_t where) {
    enter_cluster(cell);
    const Event now = event(where, kind);

    if (cell.copy) {  // whoever knows of its start had to wait for its end; the others should not be here at all
        const Event& start = copies[cell.copy - 1].start;
        report_access(before_now(start) ? MISSING_WAIT : RACE, where, region, kind, address, bytes, &start);
        return;
    }

    if (cell.readers && kind != READ) {
        if (Finding* f = report(MISSING_WAIT, where, 0, region.name))
            snprintf(f->note, sizeof f->note, "a write to byte %ld of %s, which a product or a copy may still be reading",
                     long(address - region.begin), region.name.c_str());
    }
    if (async_proxy && cell.write && before_now(cell.write) && !visible_to_async_proxy(cell.write))
        report_access(MISSING_FENCE, where, region, kind, address, bytes, &cell.write);
    if ((kind == READ || kind == ATOMIC) && cell.writer == NOBODY) report_access(UNINITIALISED, where, region, kind, address, bytes);

    if (cell.barrier && before_now(cell.write)) {
        report_note(BAD_OPERAND, where, "byte %ld of %s belongs to an mbarrier, which only its own instructions may touch, and "
                    "none make anew", long((&cell - region.cells.data()) * region.grain), region.name.c_str());
        return;
    }

    // The last write, if it could as well have come after this access.
    const bool narrow = kind == ATOMIC && (within_block || cell.narrow || cell.was_narrow);
    if (cell.write && !ordered(cell.write, kind, narrow)) report_race(where, region, kind, address, bytes, cell.write);
    if (cell.under && !before_now(cell.under)) report_access(RACE, where, region, kind, address, bytes, &cell.under);
    const bool plain_only = kind == ATOMIC && !narrow;  // plain reads are behind the last atomic operation
    if (kind != READ)
        for (auto read = cell.reads.rbegin(); read != cell.reads.rend() && !(plain_only && read->kind == ATOMIC); read++)
            if (!ordered(*read, kind, narrow) && !(cell.readers && read->thread >= members))
                report_access(read->thread < members ? RACE : MISSING_WAIT, where, region, kind, address, bytes, &*read);

    // Other clusters are before this one only where a flag says so.
    if (untold(cell.plain)) report_race(where, region, kind, address, bytes, cell.plain, true);
    if ((kind != ATOMIC || narrow) && untold(cell.atomic)) report_race(where, region, kind, address, bytes, cell.atomic, true);
    if (kind != READ && untold(cell.read)) report_access(RACE, where, region, kind, address, bytes, &cell.read, true);

    if (kind == ATOMIC) {
        while (!cell.reads.empty() && cell.reads.back().kind != ATOMIC) cell.reads.pop_back();
        if (cell.write.kind != ATOMIC) cell.under = cell.write;
        cell.narrow |= within_block;
    } else if (kind != READ) {
        cell.under = Event();
        cell.reads.clear();
    }
    if (kind != READ) {
        cell.write = now;
        cell.writer = where;
    }
    if (kind == READ || kind == ATOMIC) remember(cell.reads, now);
}

static Region* find(const char* address, bool with_red_zones) {
    for (Region& r : regions) {
        const int64_t zone = with_red_zones ? int64_t(r.red_zone) : 0;
        if (address >= r.begin - zone && address < r.end + zone) return &r;
    }
    return nullptr;
}

static bool in_shared_section(const char* address) {
    return address >= program.shared_begin && address < program.shared_end;
}

static bool is_constant(const char* address) {  // the program's own data, or ours: which thread this is, and the like
    if (address >= __ehdr_start && address < _end) return true;
    return address >= program.begin && address < program.end && !in_shared_section(address);
}

static void stop_endless(uint32_t where) {
    report(ENDLESS, where, 0, "");
    stopped = true;
    abandon();
}

// What a kernel does without end is not done forever.
static inline void count_access(uint32_t where) {
    if (++accesses + meetings_made > most_accesses) stop_endless(where);
}
static void count_meeting(uint32_t where) {
    if (accesses + ++meetings_made > most_accesses) stop_endless(where);
}

// Checks an access that begins in a region, and returns that, or null if nothing is to be done there.
__attribute__((always_inline)) static inline Region* touch_in(Region& region, const char* address, size_t bytes,
                                                              Access kind, uint32_t where) {
    if (address + bytes > region.end) {
        report_access(OUT_OF_RANGE, where, region, kind, address, bytes);
        return nullptr;
    }
    if (region.read_only) {
        if (kind != READ) report_access(READ_ONLY, where, region, kind, address, bytes);
        return &region;
    }
    const size_t offset = address - region.begin;
    while (region.grain > 1 && (offset % region.grain || bytes % region.grain)) region.refine(region.grain / 2);
    for (size_t i = offset / region.grain; i < (offset + bytes) / region.grain; i++)
        watch(region, region.cells[i], kind, address, bytes, where);
    return &region;
}

static Region* touch_other_block(const char* address, size_t bytes, Access kind, uint32_t where);  // in clusters.hpp
static void touch_sums(const char* address, size_t bytes, Access kind, uint32_t where);            // in warpgroups.hpp

// Checks an access and returns its region, or null if nothing is to be done there.
static Region* touch(const char* address, size_t bytes, Access kind, uint32_t where) {
    const char* const own = self ? stack_of(in_cluster(current())) : nullptr;
    if (self && address >= own && address < own + STACK) {  // the thread's own variables
        if (fibers[current()].products) touch_sums(address, bytes, kind, where);
        return nullptr;
    }
    count_access(where);
    if (in_doubt) settle();
    guess.address = nullptr;
    last_read = kind == READ ? address : nullptr;
    if (!latest || address < latest->begin || address >= latest->end) {
        Region* found = find(address, false);
        if (!found) {
            if (kind == READ && is_constant(address) && !find(address, true)) return nullptr;
            if (cluster_blocks > 1 && self)
                if (Region* const theirs = touch_other_block(address, bytes, kind, where)) return theirs;
            found = find(address, true);
            if (found) report_access(OUT_OF_RANGE, where, *found, kind, address, bytes);
            else if (Finding* f = report(WILD, where, 0, "")) {
                f->access = kind;
                f->bytes = bytes;
                const bool reaches_own = address < own && address + bytes > own;
                snprintf(f->note, sizeof f->note, "%p%s", static_cast<const void*>(address), in_stacks(reaches_own ? own - 1 : address));
            }
            if (!found) abandon();  // it would have been a fault
            return nullptr;
        }
        latest = found;
    }
    return touch_in(*latest, address, bytes, kind, where);
}

static const Region* plain_access(const char* address, size_t bytes, Access kind, uint32_t where) {
    const Region* region = touch(address, bytes, kind, where);
    if (count_memory && region && kind != ATOMIC) note_access(address, int(bytes), where, region->shared);
    return region;
}

void access(const void* address, size_t bytes, Access kind, const void* where) {
    if (self) plain_access(static_cast<const char*>(address), bytes, kind, place(where));
}

static void let_others_run() {
    ready.push_back(in_cluster(current()));
    wait_for_scheduler();
}

// A thread that asks again and again, one place or several in turn, may wait for one that has not run yet.
static void lend_turn(const void* address, size_t bytes, const void* where) {
    Fiber& me = fibers[current()];
    if (me.asked != address) me.times = 0;
    me.asked = address;
    if (++me.times < 64 && ++me.asks % 64) {
        // Others may come between several operations. But a guess is not one of them: see above.
        if (last_read != address && random_number() % 2) let_others_run();
        return;
    }
    if (!find(static_cast<const char*>(address), false)) return;  // which is a finding
    if (memcmp(me.answer, address, bytes)) in_vain = 0;
    memcpy(me.answer, address, bytes);
    me.where = place(where);
    me.state = ASKING;
    asking++;
    let_others_run();
}

long long ticks() { return switches + ++accesses; }

void sleep(const void* where) {
    count_access(place(where));
    let_others_run();
}

void atomic_access(const void* address, size_t bytes, bool everywhere, const void* where, bool only_reads) {
    if (!self) return;
    const Region* const constant = only_reads ? find(static_cast<const char*>(address), false) : nullptr;
    if (constant && constant->read_only) return access(address, bytes, READ, where);
    lend_turn(address, bytes, where);
    if (fences) part(NOW)[in_cluster(current())]++;  // a step that is this operation alone
    within_block = !everywhere;
    const Region* region = plain_access(static_cast<const char*>(address), bytes, ATOMIC, place(where));
    within_block = false;
    if (!fences || !region) return;
    pass_on(address, region->shared, everywhere, event(place(where), ATOMIC));
    part(NOW)[in_cluster(current())]++;
}

static void aligned_access(const void* pointer, size_t bytes, Access kind, const void* where) {
    if (!self) return;
    const Region* region = plain_access(static_cast<const char*>(pointer), bytes, kind, place(where));
    if (!region || !(reinterpret_cast<uintptr_t>(pointer) & (bytes - 1))) return;
    report_access(MISALIGNED, place(where), *region, kind, static_cast<const char*>(pointer), bytes);
    abandon();  // it would have been a fault
}

static void volatile_read(const void* pointer, size_t bytes, const void* where) {  // which orders nothing
    if (self && find(static_cast<const char*>(pointer), false)) lend_turn(pointer, bytes, where);
    aligned_access(pointer, bytes, READ, where);
}
