// Bank conflicts, and sectors of global memory: part of runtime.cpp.
//
// Shared memory is 32 banks, each of which hands out one word of 4 bytes at a time: word w is in bank w % 32. A warp's access
// takes as many passes as the bank with the most different words needs; lanes that want the same word share it. 32 lanes
// with 8 bytes each are served by halves of the warp, with 16 bytes by quarters, so these take 2 and 4 passes at least.
//
// Global memory comes in sectors of 32 bytes: a warp's access takes those that its lanes' bytes lie in, and at least as many as
// these bytes would fill side by side.
//
// Lanes run one after another here, so which accesses are one instruction of the warp must be found out: the n-th time that a
// lane comes to a place since the warp was last together belongs to the n-th time of the others. That is how a warp
// runs as long as its lanes go through loops together, and it is a guess where they do not.

struct MemoryUse {  // of one line
    uint32_t where;
    int64_t least, taken;  // passes or sectors that it takes at least, and those that it takes
    int64_t worst;         // of one access (of shared memory: one half, quarter, ... of a warp's)
};

static vector<MemoryUse> matrix_use;               // of shared memory
static vector<MemoryUse> bank_use, sector_use;     // loads, stores and copies of single lanes, if they are counted
static bool count_memory;

static void add_use(vector<MemoryUse>& uses, uint32_t where, int least, int taken) {
    auto place = std::find_if(uses.begin(), uses.end(), [&](const MemoryUse& u) { return u.where == where; });
    if (place == uses.end()) place = uses.insert(place, MemoryUse{where, 0, 0, 0});
    place->least += least;
    place->taken += taken;
    place->worst = std::max<int64_t>(place->worst, taken);
}

// Passes for some lanes' addresses, which together cover at most 32 words if all are different.
static int passes_of(char* const* addresses, int count, int bytes) {
    uintptr_t words[32 * 4];
    int different = 0, in_bank[32] = {}, most = 0;
    for (int i = 0; i < count; i++) {
        const uintptr_t first = reinterpret_cast<uintptr_t>(addresses[i]) / 4;
        const uintptr_t last = (reinterpret_cast<uintptr_t>(addresses[i]) + bytes - 1) / 4;
        for (uintptr_t word = first; word <= last; word++) {
            if (std::find(words, words + different, word) != words + different) continue;
            words[different++] = word;
            most = std::max(most, ++in_bank[word % 32]);
        }
    }
    return most;
}

static void count_banks(uint32_t where, char* const* rows) {  // of a matrix: 8 rows of 16 bytes
    add_use(matrix_use, where, 1, passes_of(rows, 8, 16));
}

// --- loads and stores of single lanes ------------------------------------------------------------------------------------

struct WarpAccess {
    unsigned lanes = 0;
    int bytes = 0;
    char* address[32];
};

struct Site {  // a place in the program, as one warp comes to it
    uint32_t times[32] = {};  // of each lane since the warp was last together
    uint32_t done = 0;        // accesses that all lanes have made, which are counted and gone
    std::deque<WarpAccess> open;
};

typedef std::unordered_map<uint64_t, Site> Sites;  // by key: the place times 2, plus 1 for shared memory
static vector<Sites> sites;                        // of each warp

static void count_banks_of(uint32_t where, const WarpAccess& a) {
    const int together = a.bytes <= 4 ? 32 : 128 / a.bytes;
    for (int first = 0; first < 32; first += together) {
        char* addresses[32];
        int count = 0;
        for (int lane = first; lane < first + together; lane++)
            if (a.lanes >> lane & 1) addresses[count++] = a.address[lane];
        if (count) add_use(bank_use, where, 1, passes_of(addresses, count, a.bytes));
    }
}

static void count_sectors_of(uint32_t where, const WarpAccess& a) {
    uintptr_t starts[32], covered = 0, last = 0;  // behind the last byte, and the last sector's number plus 1
    int count = 0, sectors = 0;
    for (int lane = 0; lane < 32; lane++)
        if (a.lanes >> lane & 1) starts[count++] = reinterpret_cast<uintptr_t>(a.address[lane]);
    std::sort(starts, starts + count);
    int64_t bytes = 0;
    for (int i = 0; i < count; i++) {
        const uintptr_t end = starts[i] + a.bytes;
        bytes += end - std::max(starts[i], covered);
        covered = end;
        sectors += (end - 1) / 32 + 1 - std::max(starts[i] / 32, last);
        last = (end - 1) / 32 + 1;
    }
    add_use(sector_use, where, int((bytes + 31) / 32), sectors);
}

static void count_access(uint64_t key, const WarpAccess& a) {
    key % 2 ? count_banks_of(uint32_t(key / 2), a) : count_sectors_of(uint32_t(key / 2), a);
}

static void note_access(const char* address, int bytes, uint32_t where, bool shared) {
    if (bytes > 16) return;
    const int warp = current() / 32, lane = current() % 32, here = std::min(32, threads - warp * 32);
    const uint64_t key = uint64_t(where) * 2 + shared;
    Site& site = sites[warp][key];
    const uint32_t number = site.times[lane]++ - site.done;
    while (site.open.size() <= number) site.open.emplace_back();
    WarpAccess& a = site.open[number];
    a.lanes |= 1u << lane;
    a.bytes = bytes;
    a.address[lane] = const_cast<char*>(address);
    while (!site.open.empty() && site.open.front().lanes == (here == 32 ? ~0u : (1u << here) - 1)) {
        count_access(key, site.open.front());
        site.open.pop_front();
        site.done++;
    }
}

static void the_warp_is_together(int warp) {
    if (!count_memory) return;
    for (auto& [key, site] : sites[warp])
        for (const WarpAccess& a : site.open) count_access(key, a);
    sites[warp].clear();
}
