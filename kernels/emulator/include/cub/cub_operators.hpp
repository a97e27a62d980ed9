// CUB's operators and pairs. Sum, Max, Min, Difference, Division, Equality and Inequality are not in CUB 3, which has
// cuda::std::plus<>, cuda::maximum<> and the like in their place.
#pragma once
#include <cuda/functional>

#include "cub_common.hpp"

namespace cub {

template <class A, class B = A>
struct KeyValuePair {
    typedef A Key;
    typedef B Value;
    A key;
    B value;
    EMULATOR_HERE KeyValuePair() {}
    EMULATOR_HERE KeyValuePair(const A& key, const B& value) : key(key), value(value) {}
    EMULATOR_HERE bool operator==(const KeyValuePair& other) const { return key == other.key && value == other.value; }
    EMULATOR_HERE bool operator!=(const KeyValuePair& other) const { return !(*this == other); }
};

typedef ::std::plus<> Sum;
typedef ::std::minus<> Difference;
typedef ::std::divides<> Division;
typedef ::std::equal_to<> Equality;
typedef ::std::not_equal_to<> Inequality;
typedef ::cuda::maximum<> Max;
typedef ::cuda::minimum<> Min;

template <class Same>
struct InequalityWrapper {
    Same same;
    EMULATOR_HERE InequalityWrapper(Same same) : same(same) {}
    template <class T>
    EMULATOR_HERE bool operator()(const T& a, const T& b) { return !same(a, b); }
};

// The pair with the greater or the smaller value; of equal ones, the pair with the smaller key.
struct ArgMax {
    template <class K, class V>
    EMULATOR_HERE KeyValuePair<K, V> operator()(const KeyValuePair<K, V>& a, const KeyValuePair<K, V>& b) const {
        return a.value < b.value || (a.value == b.value && b.key < a.key) ? b : a;
    }
};
struct ArgMin {
    template <class K, class V>
    EMULATOR_HERE KeyValuePair<K, V> operator()(const KeyValuePair<K, V>& a, const KeyValuePair<K, V>& b) const {
        return b.value < a.value || (a.value == b.value && b.key < a.key) ? b : a;
    }
};

template <class B>
struct CastOp {
    template <class A>
    EMULATOR_HERE B operator()(const A& a) const { return B(a); }
};

}  // namespace cub
