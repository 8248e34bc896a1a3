/* Processes as coroutines that take turns before each access to the table, in an order drawn from a seed: millions of
 * interleavings of what `_rate_limit_table.h` does, which real processes would need days for.
 *
 * Each spends permits of a few keys, by a clock that goes on at any time; some are killed. All have few places and few
 * shared cells. Afterwards, whatever interval is taken, those admissions that began and ended in it are no more than
 * the limit allows there (so each has an instant in between, at which it counts, and the limit holds: Hall's theorem);
 * and a later time finds the table as good as new.
 *
 * Arguments: first seed, number of seeds. Prints what went wrong, and with which seed. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

static void take_turns(void);
#define FASTGW_CELLS_BEFORE_ACCESS take_turns
#include "_rate_limit_table.h"

enum { PROCESSES = 4, SPENDINGS = 3, KEYS = 3, CELLS = 16, STACK = 1 << 16, STEPS_MAX = 100000 };

static const uint64_t SECOND = 1000000000;

typedef struct {
    int key;
    uint64_t began, ended;
} Admission;

typedef struct {
    ucontext_t state; /* until it has begun */
    jmp_buf left_at;
    int begun, ended, spendings;
    char stack[STACK];
} Process;

static struct {
    Head head;
    Cell cells[2 * CELLS];
    uint64_t parts[2 * CELLS][WORDS];
} memory __attribute__((aligned(64)));

static Table table = {
    &memory.head,
    {memory.cells, memory.parts, CELLS / BUCKET},
    {memory.cells + CELLS, memory.parts + CELLS, CELLS / BUCKET},
};
static Limit limit;
static Process processes[PROCESSES];
static jmp_buf scheduler;
static Process* running;
static uint64_t now, random_state;
static Admission admissions[PROCESSES * SPENDINGS];
static int admission_count, attempts, gives_back;

static uint64_t drawn(uint64_t below) {
    random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
    return (random_state >> 11) % below;
}

/* Jumps, because swapcontext enters the kernel each time for the mask of signals: that took two thirds of a run. */
static void take_turns(void) {
    if (running && !_setjmp(running->left_at)) _longjmp(scheduler, 1);
}

static void take_a_step(Process* next) {
    running = next;
    if (_setjmp(scheduler)) return;
    if (next->begun) _longjmp(next->left_at, 1);
    next->begun = 1;
    setcontext(&next->state);
}

static int64_t spend_key(int key, uint64_t at) {
    char name = (char)key;
    Spending spending = {1, at, 0, 0};
    int64_t wait = spend(&table, &limit, &name, 1, &spending);
    return wait;
}

static void give_back_key(int key, uint64_t spent_at) {
    char name = (char)key;
    const Region* region;
    Cell seen, *cell;
    do cell = live_cell(&table, &limit, &name, 1, 0, &seen, &region);
    while (cell && give_back(&limit, cell, seen, 1, spent_at, now) == AGAIN);
}

static void live(void) {
    for (int left = running->spendings; left; left--) {
        int key = drawn(4) ? 0 : (int)drawn(KEYS);
        uint64_t began = now;
        attempts++;
        if (spend_key(key, began) == 0) {
            if (gives_back && !drawn(3)) { /* as if it had not spent: the others may have it */
                give_back_key(key, began);
            } else {
                admissions[admission_count++] = (Admission){key, began, now};
            }
        }
    }
    running->ended = 1;
    _longjmp(scheduler, 1);
}

/* What may be admitted between two instants. */
static uint64_t most(uint64_t first, uint64_t last) {
    if (limit.is_bucket) return limit.limit + (last - first) / limit.step;
    if (limit.window) return limit.limit * ((last - first) / SECOND + 1);
    return limit.limit * (last / SECOND - first / SECOND + 1);
}

static void set_limit(void) {
    int algorithm = (int)drawn(3);
    uint64_t count = 1 + drawn(3);
    limit.limit = count, limit.is_bucket = algorithm == 0, limit.window = algorithm == 2 ? SECOND : 0;
    limit.step = limit.is_bucket ? SECOND / count : limit.window ? (SECOND / 7 + COUNT) & ~COUNT : SECOND;
    for (char stripe = 0; stripe < STRIPES; stripe++)
        limit.overflow[(int)stripe] = hash_of(memory.head.key, 0, &stripe, 1);
}

static const char* trial(void) {
    memset(&memory, 0, sizeof memory);
    memory.head.key[0] = drawn(~0ull), memory.head.key[1] = drawn(~0ull);
    now = 1000 * SECOND + drawn(SECOND), admission_count = attempts = 0;
    set_limit();
    gives_back = (int)drawn(2);
    int free_cells = drawn(2) ? (int)drawn(4) : (int)drawn(CELLS), moves = (int)drawn(3), kills = (int)drawn(2);
    uint64_t spread_of_others = drawn(2) ? SECOND : 4 * SECOND;
    running = NULL;
    for (int other = 0; other < CELLS - free_cells; other++) /* they expire sooner or later */
        spend_key(100 + other, now - drawn(spread_of_others));
    memory.head.evicted_at = 0;
    for (int number = 0; number < PROCESSES; number++) {
        Process* each = &processes[number];
        getcontext(&each->state);
        each->state.uc_stack.ss_sp = each->stack, each->state.uc_stack.ss_size = STACK;
        each->begun = each->ended = 0, each->spendings = 1 + (int)drawn(SPENDINGS);
        makecontext(&each->state, live, 0);
    }
    int left = PROCESSES, steps = 0, spread = 1 << drawn(6), killed = 0;
    uint64_t start = now;
    while (left) {
        Process* next = &processes[drawn(PROCESSES)];
        for (uint64_t turn = 1 + drawn(spread); turn && !next->ended; turn--) {
            take_a_step(next);
            if (++steps > STEPS_MAX) return "they do not come to an end";
        }
        running = NULL;
        if (kills && !next->ended && !drawn(20)) next->ended = 1, killed = 1;
        if (moves && !drawn(10)) now += drawn(moves == 1 ? SECOND / 4 : 2 * SECOND);
        left = 0;
        for (int number = 0; number < PROCESSES; number++) left += !processes[number].ended;
    }
    for (int key = 0; key < KEYS; key++)
        for (int from = 0; from < admission_count; from++)
            for (int to = 0; to < admission_count; to++) {
                uint64_t first = admissions[from].began, last = admissions[to].ended, count = 0;
                for (int each = 0; each < admission_count; each++) {
                    const Admission* one = &admissions[each];
                    count += one->key == key && one->began >= first && one->ended <= last;
                }
                if (first <= last && count > most(first, last)) return "more are admitted than the limit";
            }
    if (!killed && now == start) {
        uint64_t all = (uint64_t)admission_count;
        for (int key = 0; key < KEYS; key++)
            while (spend_key(key, now) == 0) all++;
        if (all != KEYS * limit.limit && !memory.head.overflowed) return "fewer are admitted than the limit";
    }
    uint64_t later = now + 100 * SECOND, before = memory.head.overflowed;
    for (int key = 0; key < CELLS; key++) {
        uint64_t all = 0;
        while (spend_key(key, later) == 0) all++;
        if (all != limit.limit) return "later, a key does not get what it may";
    }
    if (memory.head.overflowed != before) return "later, a place is still taken";
    for (int each = 0; each < CELLS; each++)
        for (int other = 0; other < each; other++)
            if (memory.cells[each].hash == memory.cells[other].hash) return "a key has two cells";
    return NULL;
}

int main(int count, char** arguments) {
    uint64_t first = strtoull(arguments[1], NULL, 10), seeds = strtoull(arguments[2], NULL, 10);
    (void)count;
    for (uint64_t seed = first; seed < first + seeds; seed++) {
        random_state = (seed + 1) * 0x9e3779b97f4a7c15;
        const char* wrong = trial();
        if (wrong) {
            printf("seed %llu: %s (%s of %llu)\n", (unsigned long long)seed, wrong,
                   limit.is_bucket ? "bucket" : limit.window ? "sliding window" : "fixed window",
                   (unsigned long long)limit.limit);
            return 1;
        }
    }
    return 0;
}
