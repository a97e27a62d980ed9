// The calls that -fsanitize=thread puts before every load and store: part of runtime.cpp.

static void range_access(const void* begin, size_t bytes, Access kind, const void* where) {
    const char* const address = static_cast<const char*>(begin);
    if (!self || !bytes) return;
    if (!plain_access(address, bytes, kind, place(where)) && find(address, true))
        abandon();  // beside an array, and nobody knows how far
}

static void* watched_copy(void* to, const void* from, size_t bytes, const void* where) {
    range_access(from, bytes, READ, where);
    range_access(to, bytes, WRITE, where);
    return memmove(to, from, bytes);
}

#define HERE __builtin_return_address(0)
#define ANSWER(size)                                                                               \
    void __tsan_read##size(void* p) { aligned_access(p, size, READ, HERE); }                       \
    void __tsan_write##size(void* p) { aligned_access(p, size, WRITE, HERE); }                     \
    void __tsan_unaligned_read##size(void* p) { access(p, size, READ, HERE); }                     \
    void __tsan_unaligned_write##size(void* p) { access(p, size, WRITE, HERE); }                   \
    void __tsan_volatile_read##size(void* p) { volatile_read(p, size, HERE); }                     \
    void __tsan_volatile_write##size(void* p) { aligned_access(p, size, WRITE, HERE); }            \
    void __tsan_unaligned_volatile_read##size(void* p) { access(p, size, READ, HERE); }            \
    void __tsan_unaligned_volatile_write##size(void* p) { access(p, size, WRITE, HERE); }

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
ANSWER(1) ANSWER(2) ANSWER(4) ANSWER(8) ANSWER(16)
// g++ and clang++ ask before a local static variable is used whether its constructor has run, if it has one, as float4
// has. No shared array's does: a GPU has none either.
char __tsan_atomic8_load(const volatile char*, int) { return 1; }
void __tsan_read_range(void* p, size_t bytes) { access(p, bytes, READ, HERE); }
void __tsan_write_range(void* p, size_t bytes) { access(p, bytes, WRITE, HERE); }
void* __tsan_memcpy(void* to, const void* from, size_t bytes) { return watched_copy(to, from, bytes, HERE); }
void* __tsan_memmove(void* to, const void* from, size_t bytes) { return watched_copy(to, from, bytes, HERE); }
void* __tsan_memset(void* to, int value, size_t bytes) {
    range_access(to, bytes, WRITE, HERE);
    return memset(to, value, bytes);
}
#define NO_HEAP(name)                                                                                                  \
    void* emulator_##name(void*) {                                                                                     \
        report_note(BAD_OPERAND, place(HERE), "memory that a kernel asks for itself (malloc, new): it is not emulated"); \
        abandon();                                                                                                     \
        return nullptr;                                                                                                \
    }
NO_HEAP(malloc) NO_HEAP(free) NO_HEAP(calloc) NO_HEAP(_Znwm) NO_HEAP(_Znam) NO_HEAP(_ZdlPv) NO_HEAP(_ZdlPvm) NO_HEAP(_ZdaPv)
int emulator_printf(const char* format, ...) {
    va_list values;
    va_start(values, format);
    const int written = quiet ? vsnprintf(nullptr, 0, format, values) : vprintf(format, values);
    va_end(values);
    return written;
}
}
