/* Table of rate limit cells, updated by compare-and-swap. The meaning of a cell is documented in rate_limit_table.py;
 * here is why many processes may use the table at once, although each may be killed or stopped at any instruction.
 *
 * A cell is two words, {hash, state}, aligned on 16 bytes and changed only by a 128-bit compare-and-swap of both. So it
 * is never torn, and a writer knows its previous owner and state. There is no lock, no owner and no "busy" state: a
 * killed process leaves complete cells, which others can use, finish or evict.
 *
 * A cell is empty {0, 0}; or claimed {hash, CLAIMED | nonce}, with nothing spent in it yet; or live or expired
 * {hash, state}. A key has 16 possible cells. Three properties have to be proved.
 *
 * 1. A decision is atomic. An admission swaps the state that was read for the next one; a rejection swaps it for
 *    itself. The swap fails if the two words were not read from one state. The next state depends on the value only,
 *    so a value that has returned (ABA) leads to the same decision.
 *
 * 2. A key has at most one live cell. Two processes may miss a key at once and claim two of its cells. Therefore a
 *    claim is made first, and becomes a state (with the first spending, in one swap) only after all other cells of the
 *    key were read: if one of them holds the key too, it is cleared if it is a claim; otherwise our claim is cleared,
 *    and the attempt starts again. Suppose cells X and Z of one key were live at once, with X claimed before Z. The
 *    process that made Z live has read X after Z was claimed, that is while X held the key. If X was a state, Z was not
 *    made live. If X was a claim, it was cleared, and X was not made live: the swap for that contains the nonce of the
 *    claim, and nonces are unique. So there are no such cells. A process that finds a claim of its key continues with
 *    it like with its own: no process waits for another.
 *
 * 3. A key does not spend in the overflow and in its own cell at the same time. A process that makes a claim live reads
 *    the overflow cell after the claim, and clears the claim if that cell is live. A process that spends in the
 *    overflow reads all cells of the key afterwards: claims are cleared; if a cell is live, the overflow spending
 *    is void, and the process decides again in that cell. One of the two processes sees the other.
 *
 * Eviction needs no extra word: an expired cell, or another key's claim, is swapped for the claim. If its owner has
 * spent in between, the state differs and the swap fails; if its owner is late, the owner's swap fails. A process whose
 * `now` is older than an eviction could start a window again that was full when it was evicted. Therefore the latest
 * instant of an eviction is stored (before the eviction), and a key that enters a cell counts from there.
 *
 * A sliding window has the states of its earlier parts beside the cell. A process that advances to a later part first
 * writes the state beside the cell, and then swaps the cell; so after the swap, the state of that part is final and
 * stored there. Such a word only grows (it begins with an instant, then comes the count), so a process that is late by
 * whole parts, or by a change of the cell's owner, overwrites nothing that is needed: values of a former owner have an
 * instant that was over at the eviction, and count no longer. Permits that still count are in at most 8 parts, so the
 * earlier ones stay readable while a new one is written. All are read while the cell is unchanged, or the swap fails.
 *
 * A refund lowers the count of the current part, never that of an earlier one, so a state may return to an earlier
 * value: a decision depends on the value only. A process that was about to advance to the next part may have written
 * the count before the refund beside the cell, possibly late: the count is then too high, never too low.
 *
 * SEQ_CST throughout: a claim is visible to all processes before the other cells are read. */
#ifndef FASTGW_CELLS_H
#define FASTGW_CELLS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    BUCKET = 8,
    CANDIDATES = 2 * BUCKET,
    GROUP = 64, /* buckets: both buckets of a key are in the same group */
    WORDS = 8, /* parts of a sliding window in which permits may count at once */
    STRIPES = 16, /* selected by the upper 4 bits of a hash */
    COUNT_BITS = 24
};

static const uint64_t CLAIMED = 1ull << 63, COUNT = (1ull << COUNT_BITS) - 1;

typedef struct {
    uint64_t hash, state;
} Cell;

/* Words that all processes write have their own cache lines. */
typedef struct {
    uint64_t maker, cells, key[2], unused[4];
    uint64_t claims, unused_1[7];
    uint64_t evicted_at, unused_2[7];
    uint64_t overflowed, refused, unused_3[6];
} Head;

/* One region of the table: the keys' own cells, or the overflow. */
typedef struct {
    Cell* cells;
    uint64_t (*parts)[WORDS]; /* beside each cell */
    uint64_t buckets; /* a power of two, at least 2 */
} Region;

typedef struct {
    Head* head;
    Region own, overflow;
} Table;

/* A spending, or a charge, of a key. */
typedef struct {
    uint64_t cost, now;
    uint64_t most; /* a charge is never rejected, and spends at most this many permits in all; 0: no charge */
    uint64_t renewed_at; /* result: when the key is fully replenished, if nothing more is spent */
} Spending;

typedef struct {
    uint64_t limit; /* permits; for a bucket its depth */
    uint64_t step; /* ns: for a bucket between two permits; for a window the length of a part */
    uint64_t window; /* ns for which a permit of a sliding window counts; 0: a fixed window */
    int is_bucket;
    uint64_t identity; /* hashed with each key */
    uint64_t overflow[STRIPES]; /* hashes of the shared cells */
} Limit;

/* Results of an attempt, besides the ns to wait: 0 = admitted. */
enum { AGAIN = -1, FULL = -2 };

/* Tests stop and kill a process before each access to the memory: they are compiled with this function. */
#ifdef FASTGW_CELLS_BEFORE_ACCESS
void FASTGW_CELLS_BEFORE_ACCESS(void);
#define BEFORE_ACCESS() FASTGW_CELLS_BEFORE_ACCESS()
#else
#define BEFORE_ACCESS() ((void)0)
#endif

static inline uint64_t load(const uint64_t* word) {
    BEFORE_ACCESS();
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

static inline uint64_t add(uint64_t* word) {
    BEFORE_ACCESS();
    return __atomic_fetch_add(word, 1, __ATOMIC_SEQ_CST);
}

static inline void raise_to(uint64_t* word, uint64_t value) {
    uint64_t seen = load(word);
    while (seen < value) {
        BEFORE_ACCESS();
        if (__atomic_compare_exchange_n(word, &seen, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) break;
    }
}

/* Replace the cell if it is as seen; return whether it was. In assembly: GCC uses libatomic, which may lock. */
static inline int swap(Cell* cell, Cell seen, Cell next) {
    BEFORE_ACCESS();
#if defined(__x86_64__)
    unsigned char swapped;
    __asm__ __volatile__("lock cmpxchg16b %1\n\tsetz %0"
                         : "=q"(swapped), "+m"(*cell), "+a"(seen.hash), "+d"(seen.state)
                         : "b"(next.hash), "c"(next.state)
                         : "cc", "memory");
    return swapped;
#elif defined(__aarch64__) && defined(__AARCH64EL__)
    uint64_t hash, state;
    uint32_t failed;
    __asm__ __volatile__("1: ldaxp %0, %1, %3\n\t"
                         "cmp %0, %4\n\t"
                         "ccmp %1, %5, #0, eq\n\t"
                         "cset %w2, ne\n\t"
                         "b.ne 2f\n\t"
                         "stlxp %w2, %6, %7, %3\n\t"
                         "cbnz %w2, 1b\n\t"
                         "2: dmb ish"
                         : "=&r"(hash), "=&r"(state), "=&r"(failed), "+Q"(*cell)
                         : "r"(seen.hash), "r"(seen.state), "r"(next.hash), "r"(next.state)
                         : "cc", "memory");
    return !failed;
#else
#error "no compare-and-swap of 16 bytes is known for this machine: fastgw locks its limiter cells by fcntl there"
#endif
}

static inline Cell look(const Cell* cell) {
    Cell seen;
    seen.hash = load(&cell->hash);
    seen.state = load(&cell->state);
    return seen;
}

static inline uint64_t rotated(uint64_t word, int bits) { return word << bits | word >> (64 - bits); }

#define SIP_ROUND                                                                          \
    (v0 += v1, v1 = rotated(v1, 13) ^ v0, v0 = rotated(v0, 32), v2 += v3,                  \
     v3 = rotated(v3, 16) ^ v2, v0 += v3, v3 = rotated(v3, 21) ^ v0, v2 += v1,             \
     v1 = rotated(v1, 17) ^ v2, v2 = rotated(v2, 32))

/* SipHash-1-3 of the identity of a limit followed by the key; never 0, which means an empty cell. */
static inline uint64_t hash_of(const uint64_t secret[2], uint64_t identity, const char* key, size_t length) {
    uint64_t v0 = secret[0] ^ 0x736f6d6570736575, v1 = secret[1] ^ 0x646f72616e646f6d;
    uint64_t v2 = secret[0] ^ 0x6c7967656e657261, v3 = secret[1] ^ 0x7465646279746573;
    uint64_t word = identity;
    size_t left = length;
    for (;;) {
        v3 ^= word, SIP_ROUND, v0 ^= word;
        if (left < 8) break;
        memcpy(&word, key, 8), key += 8, left -= 8;
    }
    word = 0, memcpy(&word, key, left), word |= (uint64_t)(length + 8) << 56;
    v3 ^= word, SIP_ROUND, v0 ^= word;
    v2 ^= 0xff, SIP_ROUND, SIP_ROUND, SIP_ROUND;
    word = v0 ^ v1 ^ v2 ^ v3;
    return word ? word : 1;
}

/* Possible cells of a key: two buckets of one group, first[0] and first[1]. */
typedef struct {
    const Region* region;
    Cell* first[2];
} Candidates;

static inline Candidates candidates_of(const Region* region, uint64_t hash) {
    uint64_t group = region->buckets < GROUP ? region->buckets : GROUP;
    uint64_t bucket = hash & (region->buckets - 1), other = bucket ^ (1 + (hash >> 32) % (group - 1));
    Candidates candidates = {region, {region->cells + bucket * BUCKET, region->cells + other * BUCKET}};
    return candidates;
}

static inline Cell* candidate(const Candidates* candidates, int number) {
    return candidates->first[number / BUCKET] + number % BUCKET;
}

/* Return the cell that holds the hash, and its state; NULL: none. */
static inline Cell* find(const Candidates* candidates, uint64_t hash, Cell* seen) {
    for (int number = 0; number < CANDIDATES; number++) {
        Cell* cell = candidate(candidates, number);
        if (load(&cell->hash) == hash) {
            seen->hash = hash, seen->state = load(&cell->state);
            return cell;
        }
    }
    return NULL;
}

/* Return a cell to evict, of the bucket with more expired cells; a claim only if none is expired. NULL: none. */
static Cell* find_expired(const Candidates* candidates, uint64_t now, Cell* seen) {
    Cell *expired[2] = {NULL, NULL}, *claim = NULL;
    Cell expired_seen[2], claim_seen = {0, 0};
    int counts[2] = {0, 0};
    for (int number = 0; number < CANDIDATES; number++) {
        Cell* cell = candidate(candidates, number);
        Cell read = look(cell);
        int side = number / BUCKET;
        if (read.state & CLAIMED) {
            claim = cell, claim_seen = read;
        } else if (read.state <= now && !counts[side]++) {
            expired[side] = cell, expired_seen[side] = read;
        }
    }
    int side = counts[1] > counts[0];
    if (!counts[side]) {
        *seen = claim_seen;
        return claim;
    }
    *seen = expired_seen[side];
    return expired[side];
}

static int64_t spend_from_bucket(const Limit* limit, Cell* cell, Cell seen, Spending* spending, uint64_t now) {
    uint64_t free_at = seen.state & CLAIMED || seen.state < now ? now : seen.state;
    uint64_t ahead = free_at - now + spending->cost * limit->step, depth = limit->limit * limit->step;
    int admitted = spending->most || ahead <= depth;
    if (spending->most && ahead > spending->most * limit->step) {
        ahead = spending->most * limit->step;
        if (ahead < free_at - now) ahead = free_at - now;
    }
    Cell next = {seen.hash, admitted ? now + ahead : seen.state};
    if (!swap(cell, seen, next)) return AGAIN;
    spending->renewed_at = admitted ? next.state : free_at;
    return admitted ? 0 : (int64_t)(ahead - depth);
}

/* Return the state of a window: when its permits leave it, never earlier than `leaves`, and their count. */
static inline uint64_t state_of(const Limit* limit, uint64_t leaves, uint64_t count) {
    uint64_t coarse = (leaves + COUNT) & ~COUNT;
    if (!limit->window) return coarse | count;
    uint64_t class = count < 1 << 10 ? 0 : count < 1 << 14 ? 1 : count < 1 << 18 ? 2 : 3;
    uint64_t unit = 12 + 4 * class, fine = ((leaves + (1 << unit) - 1) & COUNT) >> unit;
    return coarse | class << 22 | count << (12 - 4 * class) | fine;
}

static inline uint64_t count_of(const Limit* limit, uint64_t state) {
    if (!limit->window) return state & COUNT;
    return (state & ((1 << 22) - 1)) >> (12 - 4 * (state >> 22 & 3));
}

/* Return when the permits of a state leave the window, in ns. */
static inline uint64_t leaves_of(const Limit* limit, uint64_t state) {
    uint64_t coarse = state & ~COUNT;
    if (!limit->window) return coarse / limit->step * limit->step;
    uint64_t class = state >> 22 & 3, fine = state & ((1 << (12 - 4 * class)) - 1);
    return fine ? coarse - (COUNT + 1) + (fine << (12 + 4 * class)) : coarse;
}

/* Return when a permit leaves the window that is spent now. */
static inline uint64_t leaves_at(const Limit* limit, uint64_t now) {
    return limit->window ? now + limit->window : (now / limit->step + 1) * limit->step;
}

/* Return the part in which permits were spent that leave the window at this instant. */
static inline uint64_t part_of(const Limit* limit, uint64_t leaves) { return (leaves - 1) / limit->step; }

static int64_t spend_in_window(
    const Limit* limit, Cell* cell, uint64_t* parts, Cell seen, Spending* spending, uint64_t now) {
    uint64_t leaves = leaves_at(limit, now), part = part_of(limit, leaves);
    uint64_t count = 0, before = 0, cost = spending->cost, words[WORDS];
    if (!(seen.state & CLAIMED)) {
        uint64_t seen_leaves = leaves_of(limit, seen.state), seen_part = part_of(limit, seen_leaves);
        if (part <= seen_part) {
            part = seen_part, count = count_of(limit, seen.state);
            if (leaves < seen_leaves) leaves = seen_leaves;
        } else if (limit->window && seen_leaves > now)
            raise_to(&parts[seen_part % WORDS], seen.state);
    }
    int earlier = 0; /* parts whose permits still count, the oldest first */
    if (limit->window)
        for (int number = 1; number < WORDS; number++) {
            uint64_t word = load(&parts[(part + number) % WORDS]);
            if (word > now && leaves_of(limit, word) > now) words[earlier++] = word, before += count_of(limit, word);
        }
    uint64_t spent = before + count;
    if (spending->most && spent + cost > spending->most) cost = spending->most > spent ? spending->most - spent : 0;
    int admitted = spending->most || spent + cost <= limit->limit;
    Cell next = {seen.hash, admitted && cost ? state_of(limit, leaves, count + cost) : seen.state};
    if (!swap(cell, seen, next)) return AGAIN;
    spending->renewed_at = leaves_of(limit, next.state);
    if (admitted) return 0;
    for (int number = 0; number < earlier; number++)
        if ((spent -= count_of(limit, words[number])) + cost <= limit->limit)
            return (int64_t)(leaves_of(limit, words[number]) - now);
    return (int64_t)(spending->renewed_at - now);
}

static inline int64_t spend_in(
    const Limit* limit, const Region* region, Cell* cell, Cell seen, Spending* spending, uint64_t now) {
    if (limit->is_bucket) return spend_from_bucket(limit, cell, seen, spending, now);
    return spend_in_window(limit, cell, region->parts[cell - region->cells], seen, spending, now);
}

/* Claim a cell for a key that has none; the claim is in `seen`. NULL: FULL, or AGAIN if another process was faster. */
static Cell* claim(Head* head, const Candidates* candidates, uint64_t hash, uint64_t now, Cell* seen, int64_t* why) {
    Cell found, *cell = find_expired(candidates, now, &found);
    *why = FULL;
    if (!cell) return NULL;
    *why = AGAIN;
    if (!(found.state & CLAIMED) && found.hash) raise_to(&head->evicted_at, now);
    seen->hash = hash, seen->state = CLAIMED | (add(&head->claims) & ~CLAIMED);
    return swap(cell, found, *seen) ? cell : NULL;
}

/* Whether no cell except `only` (NULL: no cell at all) holds the hash, after other claims were cleared. */
static int is_alone(const Candidates* candidates, uint64_t hash, const Cell* only) {
    static const Cell EMPTY = {0, 0};
    for (int number = 0; number < CANDIDATES; number++) {
        Cell* cell = candidate(candidates, number);
        while (cell != only && load(&cell->hash) == hash) {
            Cell seen = {hash, load(&cell->state)};
            if (!(seen.state & CLAIMED)) return 0;
            swap(cell, seen, EMPTY); /* and read again: another process may have made it live */
        }
    }
    return 1;
}

/* Whether the overflow cell of this key contains a spending that may be its own. */
static int overflow_is_live(const Table* table, uint64_t shared, uint64_t now) {
    if (!load(&table->head->overflowed)) return 0; /* incremented before each spending there */
    Candidates candidates = candidates_of(&table->overflow, shared);
    for (int number = 0; number < CANDIDATES; number++) {
        Cell* cell = candidate(&candidates, number);
        if (load(&cell->hash) != shared) continue;
        uint64_t state = load(&cell->state);
        if (!(state & CLAIMED) && state > now) return 1;
    }
    return 0;
}

/* Attempt to spend in a region. `shared`: hash of the key's overflow cell; 0: none. */
static int64_t attempt(
    const Table* table, const Limit* limit, const Region* region, uint64_t hash, uint64_t shared,
    Spending* spending) {
    static const Cell EMPTY = {0, 0};
    uint64_t now = spending->now;
    Candidates candidates = candidates_of(region, hash);
    Cell seen, *cell = find(&candidates, hash, &seen);
    if (cell && !(seen.state & CLAIMED)) return spend_in(limit, region, cell, seen, spending, now);
    if (!cell) {
        int64_t why;
        if (shared && overflow_is_live(table, shared, now)) return FULL; /* avoids the claim; checked again below */
        cell = claim(table->head, &candidates, hash, now, &seen, &why);
        if (!cell) return why;
    }
    if (!is_alone(&candidates, hash, cell)) {
        swap(cell, seen, EMPTY);
        return AGAIN;
    }
    if (shared && overflow_is_live(table, shared, now)) {
        swap(cell, seen, EMPTY);
        return FULL;
    }
    uint64_t evicted_at = load(&table->head->evicted_at); /* a spending that was not seen above may have been evicted */
    return spend_in(limit, region, cell, seen, spending, now < evicted_at ? evicted_at : now);
}

/* Return the ns until the first of these cells expires. */
static int64_t wait_for_any(const Candidates* candidates, uint64_t now) {
    uint64_t first = ~0ull;
    for (int number = 0; number < CANDIDATES; number++) {
        uint64_t state = look(candidate(candidates, number)).state;
        if (state < first) first = state;
    }
    return first > now ? (int64_t)(first - now) : 1;
}

/* Spend in the cell that the key shares with others. AGAIN: the key has its own cell by now. */
static int64_t overflow(const Table* table, const Limit* limit, uint64_t hash, uint64_t shared, Spending* spending) {
    int64_t wait;
    add(&table->head->overflowed);
    do wait = attempt(table, limit, &table->overflow, shared, 0, spending);
    while (wait == AGAIN);
    Candidates candidates = candidates_of(&table->overflow, shared);
    if (wait == FULL) {
        add(&table->head->refused);
        wait = wait_for_any(&candidates, spending->now);
        spending->renewed_at = spending->now + (uint64_t)wait;
        return wait;
    }
    if (wait) return wait;
    candidates = candidates_of(&table->own, hash);
    return is_alone(&candidates, hash, NULL) ? 0 : AGAIN;
}

/* Spend the cost and return 0, or spend nothing and return the ns to wait. */
static int64_t spend(const Table* table, const Limit* limit, const char* key, size_t length, Spending* spending) {
    uint64_t hash = hash_of(table->head->key, limit->identity, key, length), shared = limit->overflow[hash >> 60];
    int64_t wait;
    do {
        wait = attempt(table, limit, &table->own, hash, shared, spending);
        if (wait == FULL) wait = overflow(table, limit, hash, shared, spending);
    } while (wait == AGAIN);
    return wait;
}

/* Return the live cell of a hash, skipping claims that are not cleared yet. */
static Cell* find_live(const Candidates* candidates, uint64_t hash, uint64_t now, Cell* seen) {
    for (int number = 0; number < CANDIDATES; number++) {
        Cell* cell = candidate(candidates, number);
        if (load(&cell->hash) != hash) continue;
        seen->hash = hash, seen->state = load(&cell->state);
        if (!(seen->state & CLAIMED) && seen->state > now) return cell;
    }
    return NULL;
}

/* Return the live cell of a key, its own or the shared one, and its state; NULL: nothing is spent. */
static Cell* live_cell(
    const Table* table, const Limit* limit, const char* key, size_t length, uint64_t now, Cell* seen,
    const Region** region) {
    uint64_t hash = hash_of(table->head->key, limit->identity, key, length), shared = limit->overflow[hash >> 60];
    Candidates candidates = candidates_of(&table->own, hash);
    Cell* cell = find_live(&candidates, hash, now, seen);
    *region = &table->own;
    if (!cell && load(&table->head->overflowed)) {
        candidates = candidates_of(&table->overflow, shared);
        cell = find_live(&candidates, shared, now, seen);
        *region = &table->overflow;
    }
    return cell;
}

/* Refund a cost that was spent at `spent_at` (or later, if the cell had seen a later instant).
 *
 * To a bucket: the cost less what it has refilled since, as if other spendings had left it full: then no more than this
 * is missing. (Otherwise the whole cost is missing, but that cannot be determined: others may have been refunded.) To a
 * window: the whole cost, until the window advances to its next part, when the count is final.
 *
 * `now` was read after `seen`: if the cell is unchanged, it had this state at `now`, so a process stopped before the
 * swap does not undo spendings in between. AGAIN: the cell has changed. */
static inline int64_t give_back(
    const Limit* limit, Cell* cell, Cell seen, uint64_t cost, uint64_t spent_at, uint64_t now) {
    Cell next = seen;
    if (limit->is_bucket) {
        uint64_t back_at = spent_at + cost * limit->step;
        if (back_at <= now || seen.state <= now) return 0;
        next.state = seen.state < back_at ? now : seen.state - (back_at - now);
    } else {
        uint64_t leaves = leaves_of(limit, seen.state), count = count_of(limit, seen.state);
        if (part_of(limit, leaves) != part_of(limit, leaves_at(limit, spent_at))) return 0;
        next.state = state_of(limit, leaves, count < cost ? 0 : count - cost);
    }
    return swap(cell, seen, next) ? 0 : AGAIN;
}

static uint64_t spent_in_window(const Limit* limit, const uint64_t* parts, Cell seen, uint64_t now) {
    uint64_t leaves = leaves_of(limit, seen.state), part = part_of(limit, leaves);
    uint64_t spent = leaves > now ? count_of(limit, seen.state) : 0;
    if (limit->window)
        for (int number = 1; number < WORDS; number++) {
            uint64_t word = load(&parts[(part + number) % WORDS]);
            if (word > now && leaves_of(limit, word) > now) spent += count_of(limit, word);
        }
    return spent;
}

/* Return the permits that a key has left; `renewed_at`: when it is fully replenished if nothing more is spent. */
static inline uint64_t left(
    const Table* table, const Limit* limit, const char* key, size_t length, uint64_t now, uint64_t* renewed_at) {
    Cell seen, again, *cell;
    const Region* region;
    uint64_t spent;
    do {
        cell = live_cell(table, limit, key, length, now, &seen, &region);
        *renewed_at = cell ? limit->is_bucket ? seen.state : leaves_of(limit, seen.state) : now;
        if (!cell) return limit->limit;
        spent = limit->is_bucket ? (seen.state - now + limit->step - 1) / limit->step
                                 : spent_in_window(limit, region->parts[cell - region->cells], seen, now);
        again = look(cell);
    } while (again.hash != seen.hash || again.state != seen.state);
    return spent < limit->limit ? limit->limit - spent : 0;
}

#endif
