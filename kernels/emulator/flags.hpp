// Fences and flags: part of runtime.cpp. How a thread tells others, of other blocks too, that its results are there:
//
//     result[i] = 7;                     if (atomicAdd(&flag, 0) == 1) {
//     __threadfence();                       __threadfence();
//     atomicAdd(&flag, 1);                   use(result[i]);
//                                        }
//
// A fence makes nobody wait. But what came before the first fence came before what follows the second, since an atomic
// operation between them was seen by another on the same place, at once or through those of others (PTX ISA, memory
// consistency model: release and acquire patterns). It takes both fences, and a flag that is atomic on both sides. Either
// fence may be another thread's, on the other side of a barrier: all __threadfence (membar.gl, which is fence.sc) happen
// in one order. __threadfence_block, and atomics whose names end in _block, do so within a block.
//
// So a clock has, where a kernel has fences, two more parts for each scope: what came before fences that were before now,
// which is what an atomic operation gives, and what atomic operations have shown, which is what a fence learns. Barriers
// pass them on with the rest. A clock has no room for the threads of other clusters, which have all run before: what those
// gave is recorded, and each part says after its threads, for each of FLAGS flags, how often it knows that flag to have
// been set. (Where there are more flags some share a number, and more counts as known than is.)

enum Part { NOW, ASYNC, FENCED_HERE, SEEN_HERE, FENCED, SEEN, PARTS };  // the last four with fences only

struct Release {  // a flag was set after a fence
    uint32_t slot, number;
    Event set;
    Clock before;  // the fence; empty where an earlier release said as much
};

struct Flag {            // a place that is changed atomically
    uint32_t cluster = 0, slot = FLAGS;
    Clock told;          // to who sees it
    vector<Clock> here;  // to who sees it from the same block, for each of the cluster
};

static vector<std::unordered_map<const void*, Flag>> flags;  // in global memory, and in the shared one of each block
static uint32_t slots, times_set[FLAGS];  // flags that have a slot, and how often those of each were set
static vector<vector<Release>> releases;  // of each cluster

static void start_flags() {
    flags.assign(1 + cluster_blocks, {});
    releases.clear();
    slots = 0;
    std::fill_n(times_set, FLAGS, 0);
}

// Whether the current thread knows of an event through flags: one of an earlier cluster, or that set a flag itself.
__attribute__((noinline, cold)) static bool told(uint32_t cluster, const Event& e) {
    if (cluster >= releases.size()) return false;
    const uint32_t* const times = &fibers[current()].clock[part_size - FLAGS];
    for (const Release& r : releases[cluster]) {
        if (times[r.slot] < r.number) continue;
        if (e.thread == r.set.thread && e.clock == r.set.clock) return true;
        if (!r.before.empty() && e.clock <= r.before[e.thread]) return true;
    }
    return false;
}

static uint32_t* part(Part p) { return &fibers[current()].clock[p * part_size]; }

static bool add(uint32_t* to, const uint32_t* from) {  // and whether that was more
    bool more = false;
    for (size_t i = 0; i < part_size; i++)
        if (from[i] > to[i]) to[i] = from[i], more = true;
    return more;
}

void fence(bool everywhere) {
    add(part(NOW), part(SEEN_HERE));
    if (everywhere) add(part(NOW), part(SEEN));
    std::copy_n(part(NOW), part_size, part(FENCED_HERE));
    if (everywhere) std::copy_n(part(NOW), part_size, part(FENCED));
    part(NOW)[in_cluster(current())]++;
}

// The current thread has changed a place: what its next fence will learn from that, and what it gives to others.
static void pass_on(const void* address, bool shared, bool everywhere, const Event& set) {
    Flag& flag = flags[shared ? 1 + block_rank : 0][address];
    flag.told.resize(part_size);
    if (flag.cluster != cluster_number) {
        flag.here.assign(cluster_blocks, Clock(part_size, 0));
        std::fill_n(flag.told.begin(), part_size - FLAGS, 0);
    }
    flag.cluster = cluster_number;
    add(part(SEEN_HERE), flag.here[block_rank].data());
    if (!strict) add(part(NOW), part(SEEN_HERE));  // as if a fence followed
    add(flag.here[block_rank].data(), part(FENCED_HERE));
    if (!everywhere) return;
    add(part(SEEN), flag.told.data());
    if (!strict) add(part(NOW), part(SEEN));
    const uint32_t* const before = part(FENCED);
    if (std::all_of(before, before + part_size, [](uint32_t step) { return step == 0; })) return;
    const bool more = add(flag.told.data(), before);
    if (flag.slot == FLAGS) flag.slot = slots++ % FLAGS;
    const uint32_t number = ++times_set[flag.slot];
    flag.told[part_size - FLAGS + flag.slot] = number;
    releases.resize(cluster_number + 1);
    releases.back().push_back({flag.slot, number, set, more ? Clock(before, before + part_size) : Clock()});
}
