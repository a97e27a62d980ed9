// Findings: part of runtime.cpp. One per kind and pair of lines, however often it happens.

static Finding* report(Kind kind, uint32_t where, uint32_t other_where, const std::string& array) {
    for (const Finding& f : findings)
        if (f.kind == kind && f.where == where && f.other_where == other_where && array == f.array) return nullptr;
    if (findings.size() >= MOST_FINDINGS) return nullptr;
    Finding f = {};
    f.kind = kind;
    f.where = where;
    f.other_where = other_where;
    f.block[0] = block.x, f.block[1] = block.y, f.block[2] = block.z;
    f.thread = self ? current() : -1;
    f.other_thread = -1;
    f.other_block = THIS_BLOCK;
    snprintf(f.array, sizeof f.array, "%s", array.c_str());
    findings.push_back(f);
    return &findings.back();
}

static void report_access(Kind kind, uint32_t where, const Region& region, Access access, const char* address,
                          size_t bytes, const Event* other = nullptr, bool of_other_cluster = false) {
    const std::string of_block = visited < 0 ? "" : " of block " + std::to_string(visited) + " of the cluster";
    Finding* f = report(kind, where, other ? other->where : 0, region.name + of_block);
    if (!f) return;
    f->access = access;
    f->offset = address - region.begin;
    f->bytes = bytes;
    if (!other) return;
    f->other_thread = other->thread;
    f->other_access = other->kind;
    const int engine = other->thread - members, rank = engine < 0 ? other->thread / threads : engine / engines;
    if (engine < 0) f->other_thread = other->thread % threads;
    else f->other_thread = engine % engines < COPYING ? -1 : 32 * (engine % engines - COPYING);  // the warp's first
    if (rank != block_rank && f->other_thread >= 0) f->other_block = rank;
    if (of_other_cluster) f->other_block = OTHER_CLUSTER;
}

template <class... A>
static void report_note(Kind kind, uint32_t where, const char* format, A... values) {
    if (Finding* f = report(kind, where, 0, "")) snprintf(f->note, sizeof f->note, format, values...);
}

// A number written that is what the compiler makes of variables (-ftrivial-auto-var-init=pattern). It stays the same if less
// than 1e30 is added: so it shows that a sum was never set to 0. Of whole numbers, only that of libraries is looked for: what
// the compiler makes of variables may be a result, such as bytes of -2.
static void find_unset(const Region& region, size_t bytes, bool whole) {
#ifdef __clang__
    const char unset[8] = {-1, -1, -1, -1, -1, -1, -1, -1};  // NaN
#else
    const char unset[8] = {-2, -2, -2, -2, -2, -2, -2, -2};  // -1.7e38
#endif
    for (const char* at = region.begin; at < region.end; at += bytes) {
        const uint32_t writer = memcmp(at, whole ? (const char*)&UNSPECIFIED : unset, bytes) ? NOBODY : region.cells[(at - region.begin) / region.grain].writer;
        Finding* const f = writer == NOBODY || writer == OUTSIDE ? nullptr : report(UNINITIALISED, writer, 0, region.name);
        if (!f) continue;
        f->access = WRITE;
        f->offset = at - region.begin;
        f->bytes = bytes;
    }
}
