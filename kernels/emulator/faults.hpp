// Faults: part of runtime.cpp. What the processor itself traps (an invalid address, an integer division by 0) would end
// Python. While a grid runs, a signal leads back to where the run began, and becomes a finding. Ctrl-C takes the same
// way, because a loop without loads and stores never asks whether it may go on; Python gets it after the run.
static const int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGINT};
const int WATCHED = sizeof SIGNALS / sizeof SIGNALS[0];
static struct sigaction before[WATCHED];  // the handlers before
static stack_t stack_before;
static char signal_stack[64 << 10];  // a thread's own stack may be what has overflowed
static sigjmp_buf back;
static pthread_t runner;
static bool in_grid;
static uint32_t fault_where;
static const char BY_ZERO[] = "a division of whole numbers by 0, whose result a GPU leaves open";

static const char* stray;  // what is at the address that was refused

static void on_signal(int signal, siginfo_t* info, void* context) {
    if (!in_grid || !pthread_equal(pthread_self(), runner)) {  // from another thread: as if we were not there
        for (int i = 0; i < WATCHED; i++)
            if (SIGNALS[i] == signal) sigaction(signal, &before[i], nullptr);
        raise(signal);
        return;
    }
    stray = in_stacks(info->si_addr);
    fault_where = NOBODY;
#ifdef EMULATOR_X86_64
    const char* const at = reinterpret_cast<const char*>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
    if (at >= program.begin && at < program.end) fault_where = uint32_t(at - program.begin);
#endif
    siglongjmp(back, signal);
}

static void listen() {
    runner = pthread_self();
    stack_t ours = {};
    ours.ss_sp = signal_stack;
    ours.ss_size = sizeof signal_stack;
    sigaltstack(&ours, &stack_before);
    struct sigaction action = {};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int i = 0; i < WATCHED; i++) sigaction(SIGNALS[i], &action, &before[i]);
    in_grid = true;
}

static void stop_listening() {
    in_grid = false;
    for (int i = 0; i < WATCHED; i++) sigaction(SIGNALS[i], &before[i], nullptr);
    sigaltstack(&stack_before, nullptr);
}

static void report_fault(int signal) {
    if (signal == SIGINT) return;
    if (signal == SIGFPE) report_note(FAULT, fault_where, BY_ZERO);
    else if (signal == SIGILL) report_note(FAULT, fault_where, "undefined behaviour that the compiler turned into a trap");
    else report_note(FAULT, fault_where, "an invalid address%s", stray);
}

void untrue(const char* what, const void* where) { report_note(UNDEFINED, place(where), "%s, which is false", what); }

void not_set(const char* what, unsigned number, const void* where) { report_note(UNINITIALISED, place(where), what, number); }

void failed(const char* why, const void* where) {
    report_note(FAULT, place(where), "%s has stopped the kernel", why);
    abandon();
}

void bad_operand(const char* why, int number, const void* where, bool stops) {
    report_note(BAD_OPERAND, place(where), why, number);
    if (stops) abandon();
}
