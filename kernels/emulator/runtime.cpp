// A GPU's memory model on a CPU: runs one grid of a kernel and watches every load and store.
//
// Threads.   Every CUDA thread of a block is a fiber: a function with a stack of its own that runs until it has to wait
//            for others. Blocks run one after the other. Which block comes next and which fiber runs next is random, by
//            seed, so a result that depends on the schedule shows as two different results of two seeds. See schedule.hpp.
// Clusters.  The blocks of a cluster run together: the next fiber is one of any of them, and what belongs to its block,
//            the shared memory above all, is put in place before it runs. A block alone is a cluster of one. See
//            clusters.hpp. Of a cooperative launch the whole grid is one.
// Time.      There is no global clock, only "happened before". Each thread counts its own steps, and keeps for every
//            other thread the last step of it that it is sure to have been preceded by (a vector clock: Lamport 1978,
//            Mattern 1989). At a barrier everybody learns what everybody knows. Two accesses to one place, at least one
//            of them a plain write, neither before the other: that is a race, whatever this run's result was.
// Shadow.    For every few bytes of memory there is a cell that remembers the last write and all reads that a later
//            write would have to come after (Flanagan & Freund 2009, FastTrack). See accesses.hpp.
// Blocks.    Nothing orders two clusters of one launch, so what one wrote no other may touch, except atomically.
// Flags.     But for fences around an atomic operation that one did and another saw. See flags.hpp.
// Copies.    What runs on its own (cp.async) has an effect only when it is waited for: the last moment that the rules
//            allow. From its start until then nobody may touch its target. See copies.hpp.
// Banks.     Which words of shared memory a warp wants at once, and how many passes that takes; and which sectors of global
//            memory. See banks.hpp.
// Together.  What the lanes of a warp do in one instruction (mma.sync, ldmatrix) the last lane to come does for all of
//            them. See meetings.hpp, matrices.hpp, and sums.hpp for what is lost of a sum.
// Registers. How many a warp has counts only where a kernel moves them from warp to warp. See registers.hpp.
//
// -fsanitize=thread puts the calls __tsan_read4, __tsan_write8, ... into the kernel. We do not link the library that
// usually answers them; the functions of calls.hpp do. So it is with what other options of that name test: undefined.hpp.

#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "device.cuh"
#include "eight_bits.cuh"
#include "fibers.hpp"

extern "C" {
extern char __ehdr_start[] __attribute__((visibility("hidden")));  // this library, from its first byte
extern char _end[] __attribute__((visibility("hidden")));          // to its last
}

namespace emulator {

using std::vector;

// --- what Python sees --------------------------------------------------------------------------------------------------

enum Kind {
    RACE, OUT_OF_RANGE, UNINITIALISED, DEADLOCK, DIVERGENCE, WILD, READ_ONLY, BAD_LANE, ENDLESS, MISSING_WAIT, MISALIGNED,
    BAD_OPERAND, MISSING_FENCE, FAULT, ABSENT_BLOCK, UNDEFINED,
};

struct Finding {
    int kind;
    uint32_t where, other_where;  // places in the program; 0 is nowhere
    uint32_t block[3];
    int thread, other_thread;     // within the block; -1 is nobody
    int access, other_access;     // see Access in device.cuh
    int64_t offset, bytes;        // of the access, in its array
    int64_t other_block;          // the other access's block: its rank in the cluster, THIS_BLOCK or OTHER_CLUSTER
    char array[64];
    char note[192];
};

const int64_t THIS_BLOCK = -1, OTHER_CLUSTER = -2;
const uint32_t NOBODY = 0, OUTSIDE = 0xffffffffu;  // instead of a place in the program

struct Buffer {  // an array in global memory, with red zones on both sides
    char* data;
    uint64_t bytes, red_zone;
    uint32_t* writers;       // for each byte where it was written: NOBODY, OUTSIDE or a place; null if all were outside
    int read_only;
    int number_bytes;        // of each float or double, or minus those of each int or long, if it has nothing else
    const char* name;
};

struct SharedArray {
    uint64_t offset, bytes;  // in the kernel's program
    const char* name;
};

// --- shadow memory -----------------------------------------------------------------------------------------------------

struct Event {  // an access that happened
    uint32_t clock = 0, where = 0;
    short thread = -1;  // its number in the cluster
    Access kind = READ;
    Event() = default;
    Event(uint32_t at, uint32_t from, int by, Access as) : clock(at), where(from), thread(short(by)), kind(as) {}
    explicit operator bool() const { return thread >= 0; }
};

struct Past : Event {
    uint32_t cluster = 0;
    Past() = default;
    Past(const Event& e, uint32_t of) : Event(e), cluster(of) {}
};

struct Cell {
    uint32_t cluster = 0;   // the cluster that `write` and `reads` belong to
    Event write;
    Event under;            // the plain write before it, if it is an atomic operation
    vector<Event> reads;    // since that write, at most the last of each thread; of atomic operations, all until a plain write
    Past plain, atomic, read;  // of earlier clusters, the last of each: a plain write, an atomic operation, a read
    uint32_t writer = NOBODY;
    uint32_t copy = 0;      // 1 + the number of the copy that is on its way to here
    uint32_t readers : 29;  // how many products of warps are still to read it
    uint32_t barrier : 1;   // whether it is a part of an mbarrier
    uint32_t narrow : 1;    // whether an atomic operation of this cluster was for its block alone,
    uint32_t was_narrow : 1;  // and whether one of an earlier cluster was
    Cell() : readers(0), barrier(0), narrow(0), was_narrow(0) {}
};

struct Region {
    char *begin, *end;
    uint64_t red_zone;
    std::string name;
    bool shared, read_only;
    size_t grain = 4;    // bytes for each cell; halved when an access is finer
    vector<Cell> cells;

    void fresh(uint32_t writer) {
        grain = 4;
        cells.assign(read_only ? 0 : (end - begin + grain - 1) / grain, Cell());
        for (Cell& cell : cells) cell.writer = writer;
    }
    void refine(size_t finer) {
        vector<Cell> more;
        more.reserve(cells.size() * (grain / finer));
        for (const Cell& cell : cells) more.insert(more.end(), grain / finer, cell);
        cells.swap(more);
        grain = finer;
    }
};

// --- threads -----------------------------------------------------------------------------------------------------------

// A clock has two parts. clock[t]: all that thread t of the cluster did up to this step of its happened before now.
// The second part is the same of what besides is visible to the async proxy, the engines that copy tiles and multiply
// them. Behind the threads come the engines' own steps: those of copies, and one for each warp. With fences there are
// more parts: see flags.hpp.
typedef vector<uint32_t> Clock;
const int COPYING = 8;      // engines of a block that copy
static int engines;         // of a block, with those that multiply
const int FLAGS = 16;

enum State { READY, ASKING, AT_BLOCK_BARRIER, AT_NAMED_BARRIER, AT_MBARRIER, AT_CLUSTER_BARRIER, AT_REGISTERS, AT_PRODUCT, AT_WARP, DONE };

struct Fiber {
    Context context;
    State state;
    uint32_t where;  // it waits there
    unsigned mask;   // with these lanes
    Clock clock;
    const void* barrier;  // an mbarrier, where it waits at one
    bool tries;      // and may be told that its phase goes on
    bool came;       // to the cluster's barrier, and has not waited there yet
    uint32_t came_in;  // the phase in which it did
    const void* asked;  // where the last atomic operation was, or volatile read
    char answer[16];    // what was there when it lent its turn
    int times;          // that there has been no other place since
    unsigned asks;      // of all places
    vector<uint32_t> open;                // copies since the last commit
    std::deque<vector<uint32_t>> groups;  // of copies that nobody has waited for, the oldest first
    int products;                         // of wgmma that it has begun and not waited for
};

typedef void (*Together)(void* const* lanes);  // what a warp does at once; lanes[i] is what lane i handed in

struct Meeting {  // of the lanes of one mask of one warp
    unsigned mask, arrived = 0;
    uint32_t round = 0, where = 0;
    Together body = nullptr;
    bool orders_memory = false, excuses = false;
    Clock known;
    alignas(16) char values[2][32][16];  // of this round and, until everybody has read them, of the one before
};

const size_t STACK = 576 << 10;  // a thread of a GPU has up to 512 kB of its own
const size_t SLOT = STACK + (64 << 10);  // the rest, below it, cannot be accessed
const int MOST_THREADS = 1024;
const int MOST_FINDINGS = 64;

Lane lanes[MOST_THREADS];  // part of this library's own data, which kernels may read unwatched
Lane* self = nullptr;
Index block, block_size, grid_size, cluster_size;
int cluster_blocks, block_rank;         // how many blocks are a cluster, and which of them is in place
bool cooperative;                       // the launch's whole grid is one

static vector<Fiber> fibers;            // of the block in place, as all that clusters.hpp exchanges
static Context scheduler;
static char* stacks;
static int most_members;                // that there are stacks for

static char* stack_of(int member) { return stacks + SLOT * member + (SLOT - STACK); }
static const char* in_stacks(const void* address) {  // what is there, "" if it is elsewhere
    const size_t offset = static_cast<const char*>(address) - stacks;
    if (offset >= SLOT * most_members) return "";
    return offset % SLOT < SLOT - STACK ? " (beyond its own stack: 576 kB here, at most 512 on a GPU)"
                                         : " (a local variable of another thread)";
}
static int threads, members;            // how many a block has, and a cluster
static size_t part_size, clock_size;    // a clock's numbers, in a part of it and in all
static int first_member;                // the number in the cluster of the block's first thread
static int alive, waiting;              // threads of the block that have not returned, and that are at its barrier
static int votes, counted;              // of those at its barrier, and of those at the last one
static Clock known;                     // at the block's barrier
static uint32_t barrier_where;
static vector<std::deque<Meeting>> meetings;  // for each warp; fibers hold references
static vector<int> ready;                 // threads of the cluster
static int asking;                        // those of them that wait for a flag: see lend_turn
static size_t in_vain;                    // how often one of them asked, since another thread ran or the answer was a new one
const size_t PATIENCE = 10000, OF_EACH = 200;  // times that all of them ask so
static unsigned refused;                  // how often in turn those who try to wait were told that they would
const unsigned REFUSALS = 64;             // the most of that
static std::mt19937 random_number;

static void (*entry)(void**);
static void** values;
static vector<Region> regions;          // arrays in global memory, then those of the block in place
static size_t global_regions;
static Region* latest;
static vector<Finding> findings;
static uint32_t cluster_number;         // counts the clusters in the order of this run, from 1
static bool abandoned;                  // this cluster cannot go on
static bool stopped;                    // nor can the whole grid
static int visited = -1;                // the rank of the other block whose shared memory is being touched
static long accesses, meetings_made, switches, most_accesses;  // meetings: at barriers, and of lanes for one instruction
static const size_t DYNAMIC_ZONE = 4096;  // around a block's dynamic shared memory
static vector<char> dynamic_memory;       // of all blocks of the cluster
static size_t dynamic_stride;             // from one block's to the next one's
static char* dynamic_begin;

static vector<uint32_t> engine_clock;   // of the cluster's engines
static bool async_proxy;                // who touches memory now
static bool by_product;                 // what reads it is the warp's engine
static bool fences;                     // the kernel's library has some
static bool strict;                     // what shows on no card is found, too
static bool quiet;                      // printf says nothing
static bool within_block;               // the atomic operation of now is for its block alone

static Program program;                 // the kernel's, which runs now

static int current() { return int(self - lanes); }
static int in_cluster(int thread) { return first_member + thread; }  // its number there
static int engine_of_warp(int warp) { return block_rank * engines + COPYING + warp; }
static void join(Clock& a, const Clock& b) {
    for (size_t i = 0; i < a.size(); i++) a[i] = std::max(a[i], b[i]);
}
static uint32_t place(const void* where) { return uint32_t(static_cast<const char*>(where) - program.begin - 1); }

static bool in_doubt;  // whether the last access was a race: see accesses.hpp
static void settle();
static void wait_for_scheduler() {
    if (in_doubt) settle();
    switches++;
    switch_context(fibers[current()].context, scheduler);
}

static void abandon() {
    abandoned = true;
    wait_for_scheduler();  // which never comes back here
}

#include "findings.hpp"

struct Copy {  // of cp.async, on its way
    char* target;
    const char* source;
    int bytes, valid;
    Event start;
    struct Region* region;
    char seen[16];  // what the source held at the start
};

static vector<Copy> copies;
static vector<uint32_t> free_copies;  // places in it

#include "flags.hpp"
#include "banks.hpp"
#include "accesses.hpp"
#include "meetings.hpp"

void* dynamic_shared() { return dynamic_begin; }

// Addresses in shared memory, of 32 bits: a block's dynamic memory begins at WINDOW, its own arrays end at most at 2^18 (if
// both fit), for a descriptor of wgmma has 18 bits. In the 8 bits above 24 is whose memory it is: 0 for the block's that
// asks, or a rank in the cluster plus 1. Lower bits are the host's, so that what is aligned here is aligned there.
const unsigned WINDOW = DYNAMIC_ZONE, OF_A_BLOCK = 1u << 24, NOWHERE = OF_A_BLOCK - 16;
static unsigned own_arrays;  // where they begin

static void lay_window(size_t dynamic_bytes) {
    const size_t own = program.shared_end - program.shared_begin, low = reinterpret_cast<uintptr_t>(program.shared_begin) % 1024;
    const size_t free = (WINDOW + dynamic_bytes + DYNAMIC_ZONE) / 1024 * 1024 + 1024;
    own_arrays = unsigned(std::max(free, own < 1 << 17 ? (1 << 18) / 1024 * 1024 - (own + 2047) / 1024 * 1024 : 0) + low);
}

static const char* of_other_block(const char* address, int& rank);  // in clusters.hpp

unsigned shared_address(const void* pointer) {
    const char* const p = static_cast<const char*>(pointer);
    if (in_shared_section(p)) return own_arrays + unsigned(p - program.shared_begin);
    int rank;
    if (const char* const here = of_other_block(p, rank)) return shared_address(here) + (rank + 1) * OF_A_BLOCK;
    const ptrdiff_t offset = p - dynamic_begin;
    return offset >= -ptrdiff_t(DYNAMIC_ZONE) && offset < 1 << 20 ? WINDOW + unsigned(offset) : NOWHERE;
}

int rank_of(unsigned address) { return address / OF_A_BLOCK ? int(address / OF_A_BLOCK) - 1 : block_rank; }

void* shared_pointer(unsigned address, bool of_any_rank) {
    if (of_any_rank || rank_of(address) == block_rank) address %= OF_A_BLOCK;
    char* const in_section = program.shared_begin + (ptrdiff_t(address) - own_arrays);
    return in_shared_section(in_section) ? in_section : dynamic_begin + (ptrdiff_t(address) - WINDOW);  // or beside it
}

static void check_rank(int rank, uint32_t where) {
    if (rank >= 0 && rank < cluster_blocks) return;
    report_note(BAD_OPERAND, where, "block %d of a cluster of %d blocks", rank, cluster_blocks);
    abandon();
}

unsigned address_in_block(unsigned address, int rank, const void* where) {
    check_rank(rank, place(where));
    return address % OF_A_BLOCK + (rank + 1) * OF_A_BLOCK;
}

#include "copies.hpp"
#include "sums.hpp"
#include "matrices.hpp"
#include "wmma.hpp"
#include "barriers.hpp"
#include "bulk.hpp"
#include "warpgroups.hpp"
#include "stores.hpp"
#include "registers.hpp"
#include "clusters.hpp"
#include "faults.hpp"
#include "schedule.hpp"

}  // namespace emulator

// --- the door for Python -----------------------------------------------------------------------------------------------

using namespace emulator;

extern "C" int emulator_run(const Program* of, void (*kernel)(void**), void** arguments, const unsigned* grid, const unsigned* threads_of,
                            const unsigned* cluster, int registers_of_thread, size_t dynamic_bytes, unsigned seed, const Buffer* buffers,
                            int buffer_count, const SharedArray* shared, int shared_count, long limit) {
    program = *of;
    entry = kernel;
    values = arguments;
    grid_size = {grid[0], grid[1], grid[2]};
    block_size = {threads_of[0], threads_of[1], threads_of[2]};
    threads = int(threads_of[0] * threads_of[1] * threads_of[2]);
    cooperative = !cluster[0];
    cluster_size = cooperative ? grid_size : Index{cluster[0], cluster[1], cluster[2]};
    cluster_blocks = int(cluster_size.x * cluster_size.y * cluster_size.z);
    registers_at_start = registers_of_thread;
    members = threads * cluster_blocks;
    engines = COPYING + (threads + 31) / 32;
    part_size = members + size_t(engines) * cluster_blocks + (fences ? FLAGS : 0);
    clock_size = (fences ? PARTS : 2) * part_size;
    engine_clock.assign(size_t(engines) * cluster_blocks, 0);
    block_rank = first_member = 0;
    random_number.seed(seed);
    findings.clear();
    findings.reserve(MOST_FINDINGS);
    accesses = meetings_made = switches = 0;
    for (auto* uses : {&matrix_use, &bank_use, &sector_use}) uses->clear();
    sites.assign((threads + 31) / 32, {});
    most_accesses = limit;
    cluster_number = 0;
    start_flags();
    if (members > most_members) {
        if (stacks) munmap(stacks, SLOT * most_members);
        most_members = std::max(members, MOST_THREADS);
        stacks = static_cast<char*>(mmap(nullptr, SLOT * most_members, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        for (int i = 0; i < most_members; i++) mprotect(stack_of(i), STACK, PROT_READ | PROT_WRITE);
    }
    fibers.resize(threads);

    regions.clear();
    for (int i = 0; i < buffer_count; i++) {
        const Buffer& b = buffers[i];
        regions.push_back({b.data, b.data + b.bytes, b.red_zone, b.name, false, bool(b.read_only)});
        Region& r = regions.back();
        r.fresh(OUTSIDE);
        if (!b.writers || r.read_only) continue;
        bool whole = true;
        for (size_t k = 0; k < b.bytes; k++) whole &= b.writers[k] == b.writers[k / r.grain * r.grain];
        if (!whole) r.refine(1);
        for (size_t k = 0; k < r.cells.size(); k++) r.cells[k].writer = b.writers[k * r.grain];
    }
    global_regions = regions.size();
    for (int i = 0; i < shared_count; i++) {
        char* begin = program.begin + shared[i].offset;
        regions.push_back({begin, begin + shared[i].bytes, 1024, shared[i].name, true, false});
    }
    dynamic_stride = (dynamic_bytes + 2 * DYNAMIC_ZONE + 1023) / 1024 * 1024;
    dynamic_memory.assign(dynamic_stride * cluster_blocks + 1024, 0);
    const uintptr_t after_zone = reinterpret_cast<uintptr_t>(dynamic_memory.data()) + DYNAMIC_ZONE;
    dynamic_begin = reinterpret_cast<char*>((after_zone + 1023) / 1024 * 1024);
    char* const dynamic_end = dynamic_begin + dynamic_bytes;
    const char* const called = dynamic_bytes ? "dynamic shared memory" : "dynamic shared memory, of which the launch has none,";
    regions.push_back({dynamic_begin, dynamic_end, DYNAMIC_ZONE, called, true, false});
    lay_window(dynamic_bytes);
    prepare_cluster();

    const size_t clusters = size_t(grid[0]) * grid[1] * grid[2] / cluster_blocks;
    vector<unsigned> order(clusters);
    for (size_t i = 0; i < clusters; i++) order[i] = unsigned(i);
    std::shuffle(order.begin(), order.end(), random_number);
    stopped = false;
    const int fault = sigsetjmp(back, 1);
    if (!fault) {
        listen();
        for (unsigned i : order)
            if (!stopped) run_cluster(i);
    }
    stop_listening();
    if (fault) report_fault(fault);
    self = nullptr;
    fflush(stdout);  // what threads have printed, before Python prints

    // Any may be why numbers are wrong; but a divergence may be of two copies of one line, which is none.
    const auto counts = [](const Finding& f) { return f.kind != DIVERGENCE || f.note[0]; };
    const bool any_findings = std::any_of(findings.begin(), findings.end(), counts);
    for (int i = 0; i < buffer_count; i++) {
        Region& r = regions[i];
        if (r.read_only) continue;
        if (const int bytes = buffers[i].number_bytes; bytes && !any_findings) find_unset(r, std::abs(bytes), bytes < 0);
        if (!buffers[i].writers) continue;
        for (size_t k = 0; k < buffers[i].bytes; k++) buffers[i].writers[k] = r.cells[k / r.grain].writer;
    }
    regions.clear();
    if (fault == SIGINT) raise(SIGINT);
    return int(findings.size());
}

extern "C" const Finding* emulator_findings() { return findings.data(); }
extern "C" long emulator_accesses() { return accesses; }
extern "C" long emulator_switches() { return switches; }
extern "C" const MemoryUse* emulator_memory_use(int kind, int* count) {
    const vector<MemoryUse>& uses = kind == 0 ? matrix_use : kind == 1 ? bank_use : sector_use;
    *count = int(uses.size());
    return uses.data();
}
extern "C" void emulator_count_memory(int yes) { count_memory = yes; }
extern "C" void emulator_be_strict(int yes) { strict = yes; }
extern "C" void emulator_expect_fences(int yes) { fences = yes; }
extern "C" void emulator_be_quiet(int yes) { quiet = yes; }

#include "calls.hpp"
#include "undefined.hpp"
