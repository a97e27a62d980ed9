// CUDA's <cuda/pipeline>: stages that copies fill and threads read, of one thread (its groups of cp.async) or of a block (two
// mbarriers for each stage). Not here are pipelines of other scopes, and waits of a given time.
#pragma once
#include "barrier.hpp"

namespace emulator {

struct Stage {
    cuda::barrier<cuda::thread_scope_block> full, empty;
};

EMULATOR_FUNCTION void bring_copies(void* b) { arrive_with_copies(b, false, EMULATOR_WHERE); }

}  // namespace emulator

namespace cuda {

enum class pipeline_role { producer, consumer };

template <thread_scope SCOPE, uint8_t STAGES>
class pipeline_shared_state {
    static_assert(SCOPE == thread_scope_block, "the emulator has pipelines of a thread and of a block");

public:
    pipeline_shared_state() = default;
    pipeline_shared_state(const pipeline_shared_state&) = delete;
    emulator::Stage emulator_stages[STAGES];
    unsigned emulator_threads;  // that have not quit

    EMULATOR_HERE void emulator_begin(unsigned producers, unsigned consumers, unsigned threads) {
        for (emulator::Stage& s : emulator_stages) {
            init(&s.full, producers);
            init(&s.empty, consumers);
        }
        emulator_threads = threads;
    }
};

template <thread_scope SCOPE>
class pipeline {
    emulator::Stage* stages;
    unsigned* threads;
    unsigned count, head = 0, tail = 0;  // of stages; which of them is the next to be filled, and to be read
    bool filled = false, emptied = true;  // parities of the phases whose ends it waits for
    bool active = true;

    EMULATOR_HERE void go_on(unsigned& stage, bool& parity) {
        if (++stage < count) return;
        stage = 0;
        parity = !parity;
    }

public:
    template <uint8_t STAGES>
    EMULATOR_HERE explicit pipeline(pipeline_shared_state<SCOPE, STAGES>& state)
        : stages(state.emulator_stages), threads(&state.emulator_threads), count(STAGES) {}
    pipeline(pipeline&&) = default;
    EMULATOR_HERE ~pipeline() {
        if (active) quit();
    }
    EMULATOR_HERE bool quit() {  // whether this thread is the last to
        active = false;
        return atomicSub_block(threads, 1) == 1;
    }
    EMULATOR_HERE void producer_acquire() { stages[head].empty.wait_parity(emptied); }
    EMULATOR_HERE void producer_commit() {
        stages[head].full.arrive();
        go_on(head, emptied);
    }
    EMULATOR_HERE void consumer_wait() { stages[tail].full.wait_parity(filled); }
    EMULATOR_HERE void consumer_release() {
        stages[tail].empty.arrive();
        go_on(tail, filled);
    }
    void* emulator_barrier() { return &stages[head].full; }
};

template <>
class pipeline<thread_scope_thread> {
    unsigned committed = 0, awaited = 0;

public:
    pipeline() = default;
    pipeline(pipeline&&) = default;
    bool quit() { return true; }
    void producer_acquire() {}
    EMULATOR_HERE void producer_commit() {
        emulator::commit_copies();
        committed++;
    }
    EMULATOR_HERE void consumer_wait() {
        if (committed != awaited) emulator_wait(committed - awaited - 1);
    }
    void consumer_release() {}
    EMULATOR_HERE void emulator_wait(unsigned prior) {
        emulator::wait_for_copies(int(prior));
        awaited = committed - prior;
    }
    void* emulator_barrier() { return nullptr; }
};

EMULATOR_HERE pipeline<thread_scope_thread> make_pipeline() { return {}; }
template <class Group, thread_scope SCOPE, uint8_t STAGES>
EMULATOR_HERE pipeline<SCOPE> make_pipeline(const Group& group, pipeline_shared_state<SCOPE, STAGES>* state) {
    if (group.thread_rank() == 0) state->emulator_begin(group.size(), group.size(), group.size());
    group.sync();
    return pipeline<SCOPE>(*state);
}
template <class Group, thread_scope SCOPE, uint8_t STAGES>
EMULATOR_HERE pipeline<SCOPE> make_pipeline(const Group& group, pipeline_shared_state<SCOPE, STAGES>* state, size_t producers) {
    if (group.thread_rank() == 0) state->emulator_begin(producers, group.size() - producers, group.size());
    group.sync();
    return pipeline<SCOPE>(*state);
}
template <class Group, thread_scope SCOPE, uint8_t STAGES>
EMULATOR_HERE pipeline<SCOPE> make_pipeline(const Group& group, pipeline_shared_state<SCOPE, STAGES>* state, pipeline_role role) {
    if (group.thread_rank() == 0) state->emulator_threads = 0;
    group.sync();
    if (role == pipeline_role::producer) atomicAdd_block(&state->emulator_threads, 1);
    group.sync();
    return make_pipeline(group, state, size_t(group.thread_rank() == 0 ? state->emulator_threads : 0));
}

template <uint8_t PRIOR>
EMULATOR_HERE void pipeline_consumer_wait_prior(pipeline<thread_scope_thread>& pipe) { pipe.emulator_wait(PRIOR); }
template <thread_scope SCOPE>
EMULATOR_HERE void pipeline_producer_commit(pipeline<thread_scope_thread>&, barrier<SCOPE>& b) { emulator::bring_copies(&b); }

}  // namespace cuda
