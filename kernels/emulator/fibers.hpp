// Fibers: part of runtime.cpp. A fiber is a function with a stack of its own that can be left in the middle and entered
// again. What has to be kept meanwhile is its stack and the registers that a function must give back unchanged.
// -DEMULATOR_PORTABLE uses what all other processors use, to test it on this one.
#if defined(__x86_64__) && !defined(EMULATOR_PORTABLE)
#define EMULATOR_X86_64
#endif

#ifdef EMULATOR_X86_64

struct Context {
    void* stack;
};

extern "C" void emulator_switch(void** from, void* to);  // swapcontext does the same, with two system calls
asm(R"(
    .text
    .hidden emulator_switch
    .globl emulator_switch
    .type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulator_switch, . - emulator_switch
)");

static void switch_context(Context& from, Context& to) { emulator_switch(&from.stack, to.stack); }

static void make_context(Context& context, char* stack, size_t bytes, void (*function)()) {
    void** top = reinterpret_cast<void**>(stack + bytes);
    *--top = nullptr;                              // where `function` would return to; it never does
    *--top = reinterpret_cast<void*>(function);    // where `ret` goes
    for (int i = 0; i < 6; i++) *--top = nullptr;  // the registers
    context.stack = top;
}

#else

#include <ucontext.h>

typedef ucontext_t Context;

static void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }

static void make_context(Context& context, char* stack, size_t bytes, void (*function)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = bytes;
    context.uc_link = nullptr;
    makecontext(&context, function, 0);
}

#endif
