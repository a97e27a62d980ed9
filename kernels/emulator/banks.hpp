// Bank conflicts: part of runtime.cpp.
//
// Shared memory is 32 banks, each of which hands out one word of 4 bytes at a time: word w is in bank w % 32. A warp's access
// takes as many passes as the bank with the most different words needs; lanes that want the same word share it. 32 lanes
// with 8 bytes each are served by halves of the warp, with 16 bytes by quarters, so these take 2 and 4 passes at least.
//
// Lanes run one after another here, so which accesses are one instruction of the warp must be found out: the n-th time that a
// lane comes to a place since the warp was last together belongs to the n-th time of the others. That is how a warp
// runs as long as its lanes go through loops together, and it is a guess where they do not.

struct BankUse {  // of one line
    uint32_t where;
    int64_t reads, passes;  // passes that it takes at least, and those that it takes
    int64_t worst;          // passes of one half, quarter, ... at once
};

static vector<BankUse> bank_use;         // matrices
static vector<BankUse> plain_bank_use;   // loads, stores and copies of single lanes, if they are counted
static bool count_plain_banks;

static void add_bank_use(vector<BankUse>& uses, uint32_t where, int passes) {
    auto place = std::find_if(uses.begin(), uses.end(), [&](const BankUse& u) { return u.where == where; });
    if (place == uses.end()) place = uses.insert(place, BankUse{where, 0, 0, 0});
    place->reads++;
    place->passes += passes;
    place->worst = std::max<int64_t>(place->worst, passes);
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
    add_bank_use(bank_use, where, passes_of(rows, 8, 16));
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

static vector<std::unordered_map<uint32_t, Site>> sites;  // of each warp

static void count_access(uint32_t where, const WarpAccess& a) {
    const int together = a.bytes <= 4 ? 32 : 128 / a.bytes;
    for (int first = 0; first < 32; first += together) {
        char* addresses[32];
        int count = 0;
        for (int lane = first; lane < first + together; lane++)
            if (a.lanes >> lane & 1) addresses[count++] = a.address[lane];
        if (count) add_bank_use(plain_bank_use, where, passes_of(addresses, count, a.bytes));
    }
}

static void note_plain_access(const char* address, int bytes, uint32_t where) {
    if (bytes > 16) return;
    const int warp = current() / 32, lane = current() % 32, here = std::min(32, threads - warp * 32);
    Site& site = sites[warp][where];
    const uint32_t number = site.times[lane]++ - site.done;
    while (site.open.size() <= number) site.open.emplace_back();
    WarpAccess& a = site.open[number];
    a.lanes |= 1u << lane;
    a.bytes = bytes;
    a.address[lane] = const_cast<char*>(address);
    while (!site.open.empty() && site.open.front().lanes == (here == 32 ? ~0u : (1u << here) - 1)) {
        count_access(where, site.open.front());
        site.open.pop_front();
        site.done++;
    }
}

static void the_warp_is_together(int warp) {
    if (!count_plain_banks) return;
    for (auto& [where, site] : sites[warp])
        for (const WarpAccess& a : site.open) count_access(where, a);
    sites[warp].clear();
}
