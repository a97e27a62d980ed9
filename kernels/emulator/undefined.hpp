// What C++ leaves undefined: part of runtime.cpp. -fsanitize=bounds, shift-exponent, signed-integer-overflow and others of that kind
// put a test before every index into an array of known size (a thread's own too), before every shift, behind every sum of signed
// numbers, and where a float becomes a whole number. If it fails, one of these functions is called, which g++ and clang++ know by
// their names; then the kernel goes on.

struct Type {
    uint16_t kind, layout;  // of whole numbers: the lowest bit says whether they are signed, the others log2 of their width
    char name[];            // in quotation marks

    long long value(uintptr_t bits) const {
        const int unused = 64 - (1 << (layout >> 1));
        return layout & 1 ? int64_t(bits << unused) >> unused : int64_t(bits << unused >> unused);
    }
};

struct Operation {
    const char* file;
    uint32_t line, column;
    const Type *left, *right;  // the array's and the index's, those of both sides of a shift, or the one of a sum
};

static void does_not_fit(const Operation* o, uintptr_t left, const char* sign, uintptr_t right, const void* where) {
    report_note(UNDEFINED, place(where), "%lld %s %lld is no %s", o->left->value(left), sign, o->left->value(right), o->left->name);
}

extern "C" {
void __ubsan_handle_out_of_bounds(const Operation* o, uintptr_t index) {
    report_note(UNDEFINED, place(HERE), "index %lld of an array %s", o->right->value(index), o->left->name);
}
void __ubsan_handle_shift_out_of_bounds(const Operation* o, uintptr_t, uintptr_t bits) {
    report_note(UNDEFINED, place(HERE), "a shift of an %s by %lld bits", o->left->name, o->right->value(bits));
}
void __ubsan_handle_add_overflow(const Operation* o, uintptr_t a, uintptr_t b) { does_not_fit(o, a, "+", b, HERE); }
void __ubsan_handle_sub_overflow(const Operation* o, uintptr_t a, uintptr_t b) { does_not_fit(o, a, "-", b, HERE); }
void __ubsan_handle_mul_overflow(const Operation* o, uintptr_t a, uintptr_t b) { does_not_fit(o, a, "*", b, HERE); }
void __ubsan_handle_divrem_overflow(const Operation* o, uintptr_t a, uintptr_t b) {
    if (o->left->value(b)) return does_not_fit(o, a, "/", b, HERE);
    report_note(FAULT, place(HERE), "%s", BY_ZERO);
    abandon();
}
void __ubsan_handle_missing_return(const void*) {
    report_note(UNDEFINED, place(HERE), "the end of a function that should have returned something");
    abandon();
}
void __ubsan_handle_negate_overflow(const Operation* o, uintptr_t a) { does_not_fit(o, 0, "-", a, HERE); }
void __ubsan_handle_float_cast_overflow(const void*, uintptr_t) {
    report_note(UNDEFINED, place(HERE), "a float out of range of this integer type (a GPU takes the nearest, for NaN 0)");
}
}
