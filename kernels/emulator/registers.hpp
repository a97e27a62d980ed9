// Registers that a warp gives away and others take, setmaxnreg: part of runtime.cpp.
//
// A block begins with as many for each thread as its launch bounds leave room for: 65,536 of a multiprocessor, shared by
// the blocks that shall run there at once, in steps of 8 (a compiler that sees no warp ask for so many begins with fewer,
// which changes nothing here). What a warp gives away goes into the block's pool, and who wants more waits until the pool
// has enough. What the registers hold is not looked at: that a thread gets along with those that it keeps is the
// compiler's work.

struct Registers {
    int free = 0;            // in the pool; all numbers here are registers of each thread of a warp
    vector<int> held;        // by each warp
    vector<int> wanted;      // by each warp that waits, or 0
    vector<int> waiting;     // warps, the first to come first
    vector<uint32_t> asked, last;  // a digest of what each warp has asked for, which a warp group shares; and where
};

static Registers registers;
static int registers_at_start;  // of each thread; 0 if the kernel does not say

struct Change {
    int count;
    bool up;
    uint32_t where;
};

static void start_registers() {
    const int warps = (threads + 31) / 32;
    registers = {};
    registers.held.assign(warps, registers_at_start);
    registers.wanted.assign(warps, 0);
    registers.asked.assign(warps, 0);
    registers.last.assign(warps, NOBODY);
}

static void hand_out() {
    vector<int>& queue = registers.waiting;
    for (size_t i = 0; i < queue.size();) {
        const int warp = queue[i], more = registers.wanted[warp] - registers.held[warp];
        if (more > registers.free) {
            i++;
            continue;
        }
        registers.free -= more;
        registers.held[warp] += more;
        registers.wanted[warp] = 0;
        queue.erase(queue.begin() + i);
        for (int t = 32 * warp; t < 32 * warp + 32; t++)
            if (fibers[t].state == AT_REGISTERS) wake(t);
    }
}

static void change_for_all(void* const* handed_in) {  // the warp's lanes are together
    const Change& change = *static_cast<Change*>(handed_in[0]);
    const int warp = current() / 32;
    int& held = registers.held[warp];
    const bool first = !registers.asked[warp];
    registers.asked[warp] = registers.asked[warp] * 31 + (change.up ? 1000 : 0) + change.count;
    registers.last[warp] = change.where;
    if (change.up && change.count < held && first) return;
    if (change.up ? change.count < held : change.count > held) {
        report_note(BAD_OPERAND, change.where, "registers_%s to %d, where a thread has %d", change.up ? "up" : "down",
                    change.count, held);
        abandon();
    }
    if (change.up) {
        registers.wanted[warp] = change.count;
        registers.waiting.push_back(warp);
    } else {
        registers.free += held - change.count;
        held = change.count;
    }
    hand_out();
}

void change_registers(int count, bool up, const void* return_address) {
    Change change{count, up, place(return_address)};
    if (!registers_at_start && !strict) return;
    if (!registers_at_start) {
        report_note(BAD_OPERAND, change.where, "the compiler leaves this out of a kernel without __launch_bounds__(threads, "
                    "blocks), of which it does not know how many registers it begins with");
        abandon();
    }
    if (threads < current() / 128 * 128 + 128) {
        report_note(BAD_OPERAND, change.where, "registers move to and from four warps, and this group has only %d threads",
                    threads % 128);
        abandon();
    }
    Fiber& me = fibers[current()];
    together(&change, change_for_all, change.where);
    while (registers.wanted[current() / 32]) {
        me.state = AT_REGISTERS;
        me.where = change.where;
        wait_for_scheduler();
    }
}

static void check_registers_at_exit() {
    const int warp = current() / 32, first = warp / 4 * 4;
    for (int other = first; other < std::min(first + 4, int(registers.asked.size())); other++)
        if (fibers[32 * other + current() % 32].state == DONE && registers.asked[other] != registers.asked[warp])
            report_note(BAD_OPERAND, std::max(registers.last[other], registers.last[warp]),
                        "not executed by all four warps of a group, or with different numbers");
}
