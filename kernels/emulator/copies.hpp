// cp.async: part of runtime.cpp.
//
// The data of a copy may arrive at any moment between its start and the end of the wait for its group. Here it arrives at
// that wait, as late as it can, and is read from the source then. From the start on the target's cells know that
// something is on its way to them: any access is a finding (`watch`). At the wait the copy becomes a write by the waiting
// thread, so all others need a barrier after the wait, as after any write.

static void start_of_copy_is_bad(uint32_t where, const char* what, const void* address, int bytes) {
    report_note(MISALIGNED, where, "the %s of a copy of %d bytes must be a multiple of %d, and is %d after one", what, bytes,
                bytes, int(reinterpret_cast<uintptr_t>(address) % bytes));
    abandon();
}

static bool in_shared(const char* address) {
    const Region* region = find(address, false);
    return region && region->shared;
}

static uint32_t new_copy() {
    if (free_copies.empty()) {
        free_copies.push_back(uint32_t(copies.size()));
        copies.emplace_back();
    }
    const uint32_t number = free_copies.back();
    free_copies.pop_back();
    return number;
}

static void mark(const Copy& c, uint32_t number) {
    Region& r = *c.region;
    for (size_t i = (c.target - r.begin) / r.grain; i < (c.target + c.bytes - r.begin) / r.grain; i++)
        r.cells[i].copy = number;
}

static void arrive_as(const Copy& c, const Event& write) {
    Region& r = *c.region;
    for (size_t i = (c.target - r.begin) / r.grain; i < (c.target + c.bytes - r.begin) / r.grain; i++) {
        Cell& cell = r.cells[i];
        cell.write = write;
        cell.reads.clear();
        cell.writer = c.start.where;
        cell.copy = 0;
    }
}

static void begin_copy(char* target, const char* source, int bytes, int valid, uint32_t where) {
    if (valid && !touch(source, valid, READ, where)) return;
    Region* region = touch(target, bytes, WRITE, where);
    if (!region) return;
    if (!region->shared) {
        report_note(BAD_OPERAND, where, "the target of cp.async is not in shared memory");
        return;
    }
    if (count_memory) note_access(target, bytes, where, true);
    if (count_memory && valid) note_access(source, valid, where, false);
    const uint32_t number = new_copy();
    Copy& c = copies[number];
    c = {target, source, bytes, valid, event(where, COPY), region, {}};
    memcpy(c.seen, source, valid);
    mark(c, number + 1);
    fibers[current()].open.push_back(number);
}

void copy(void* shared, const void* global, int bytes, int valid, const void* return_address) {
    const uint32_t where = place(return_address);
    char* const target = static_cast<char*>(shared);
    const char* const source = static_cast<const char*>(global);
    if (reinterpret_cast<uintptr_t>(target) % bytes) start_of_copy_is_bad(where, "target", target, bytes);
    if (reinterpret_cast<uintptr_t>(source) % bytes) start_of_copy_is_bad(where, "source", source, bytes);
    if (valid < 0 || valid > bytes) {
        report_note(BAD_OPERAND, where, "cp.async of %d bytes is asked to read %d", bytes, valid);
        abandon();
    }
    if (in_shared(source)) report_note(BAD_OPERAND, where, "the source of cp.async is in shared memory");
    begin_copy(target, source, bytes, valid, where);
}

static void arrive(uint32_t number, const Event& write) {
    const Copy& c = copies[number];
    if (memcmp(c.seen, c.source, c.valid))
        report_note(MISSING_WAIT, c.start.where, "the source of this copy changed before the copy was waited for");
    memcpy(c.target, c.source, c.valid);
    memset(c.target + c.valid, 0, c.bytes - c.valid);
    arrive_as(c, write);
    free_copies.push_back(number);
}

void commit_copies() {
    Fiber& me = fibers[current()];
    me.groups.push_back(std::move(me.open));
    me.open.clear();
}

static void finish_arrivals_of(int member);  // in bulk.hpp

void wait_for_copies(int groups) {
    Fiber& me = fibers[current()];
    finish_arrivals_of(in_cluster(current()));
    while (me.groups.size() > size_t(groups)) {
        for (uint32_t number : me.groups.front()) arrive(number, event(copies[number].start.where, COPY));
        me.groups.pop_front();
    }
}

static void check_copies_at_exit() {
    Fiber& me = fibers[current()];
    me.groups.push_back(me.open);
    for (const vector<uint32_t>& group : me.groups)
        for (uint32_t number : group)
            report_note(MISSING_WAIT, copies[number].start.where, "nobody waits for this copy before the thread returns");
}
