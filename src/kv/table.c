#include "kv/table.h"

#include "base/mem.h"

#define PAGE_BUCKETS 64
#define FIRST_BUCKETS 8

void table_init(struct table *t, uint64_t (*hash)(const void *entry))
{
    *t = (struct table){.hash = hash};
}

static unsigned first_cap(const struct table *t)
{
    return FIRST_BUCKETS << t->first_cap_log;
}

/* Bit `level` of the hash of what is in a slot, from the slot itself where it knows. */
static unsigned split_bit(const struct table *t, table_slot s, unsigned level)
{
    if (level >= 8 && level < 24)
        return (unsigned)(s >> (48 + level - 8)) & 1;
    return (unsigned)(t->hash(table_slot_entry(s)) >> level) & 1;
}

/* Overflow buckets that one operation frees and the same operation may use again. */
struct spare {
    struct table_bucket *head;
};

static struct table_bucket *overflow_new(struct table *t, struct spare *spare)
{
    struct table_bucket *b = spare->head;

    if (b != NULL)
        spare->head = table_next(b);
    else
        b = mem_alloc(sizeof(*b));
    b->meta = 0;
    t->overflow++;
    return b;
}

static void overflow_put(struct table *t, struct spare *spare, struct table_bucket *b)
{
    b->slots[TABLE_SLOTS - 1] = (uint64_t)(uintptr_t)spare->head;
    spare->head = b;
    t->overflow--;
}

static void spare_free(struct spare *spare)
{
    while (spare->head != NULL) {
        struct table_bucket *b = spare->head;

        spare->head = table_next(b);
        mem_free(b);
    }
}

static void bucket_put(struct table_bucket *b, unsigned i, uint8_t tag, table_slot s)
{
    b->meta |= (uint8_t)(1u << i);
    b->tags[i] = tag;
    b->slots[i] = s;
}

/* Appends to the chain that begins at b. */
static void chain_append(struct table *t, struct table_bucket *b, uint8_t tag, table_slot s, struct spare *spare)
{
    unsigned n;

    while (b->meta & TABLE_CHAINED)
        b = table_next(b);
    n = table_bucket_count(b);
    if (n == TABLE_SLOTS) {
        struct table_bucket *more = overflow_new(t, spare);

        bucket_put(more, 0, b->tags[TABLE_SLOTS - 1], b->slots[TABLE_SLOTS - 1]);
        b->slots[TABLE_SLOTS - 1] = (uint64_t)(uintptr_t)more;
        b->meta = 0x3f | TABLE_CHAINED;
        b = more;
        n = 1;
    }
    bucket_put(b, n, tag, s);
}

static void add_bucket(struct table *t)
{
    uint32_t i = t->buckets, page = i / PAGE_BUCKETS;

    if (i == first_cap(t) && i < PAGE_BUCKETS) {
        t->first_cap_log++;
        t->pages[0] = mem_realloc(t->pages[0], first_cap(t) * sizeof(struct table_bucket));
    } else if (i % PAGE_BUCKETS == 0) {
        if (page == t->pages_cap) {
            t->pages_cap *= 2;
            t->pages = mem_realloc(t->pages, t->pages_cap * sizeof(t->pages[0]));
        }
        t->pages[page] = mem_alloc(PAGE_BUCKETS * sizeof(struct table_bucket));
    }
    table_bucket_at(t, i)->meta = 0;
    t->buckets++;
    if (t->buckets == UINT32_C(2) << t->level)
        t->level++;
}

static void start(struct table *t)
{
    t->pages_cap = 1;
    t->pages = mem_alloc(sizeof(t->pages[0]));
    t->first_cap_log = 0;
    t->pages[0] = mem_alloc(FIRST_BUCKETS * sizeof(struct table_bucket));
    for (unsigned i = 0; i < FIRST_BUCKETS; i++)
        t->pages[0][i].meta = 0;
    t->buckets = FIRST_BUCKETS;
    t->level = 3;
}

/* Moves the entries of a chain, one after another, to where `pick` says. */
static void split_one(struct table *t)
{
    unsigned level = t->level;
    uint32_t from = t->buckets - (UINT32_C(1) << level);
    struct table_bucket *low, *high, old, *b = &old;
    struct spare spare = {NULL};

    add_bucket(t); /* may move the first page */
    low = table_bucket_at(t, from);
    high = table_bucket_at(t, t->buckets - 1);
    old = *low;
    low->meta = 0;
    for (;;) {
        unsigned n = table_bucket_count(b);
        struct table_bucket *next = b->meta & TABLE_CHAINED ? table_next(b) : NULL;

        for (unsigned i = 0; i < n; i++)
            chain_append(t, split_bit(t, b->slots[i], level) ? high : low, b->tags[i], b->slots[i], &spare);
        if (b != &old)
            overflow_put(t, &spare, b);
        if (next == NULL)
            break;
        b = next;
    }
    spare_free(&spare);
}

static void merge_one(struct table *t)
{
    uint32_t last = t->buckets - 1;
    struct table_bucket *to, old, *b = &old;
    struct spare spare = {NULL};

    if (last < UINT32_C(1) << t->level)
        t->level--;
    old = *table_bucket_at(t, last);
    t->buckets = last;
    if (last % PAGE_BUCKETS == 0)
        mem_free(t->pages[last / PAGE_BUCKETS]);
    to = table_bucket_at(t, last - (UINT32_C(1) << t->level));
    for (;;) {
        unsigned n = table_bucket_count(b);
        struct table_bucket *next = b->meta & TABLE_CHAINED ? table_next(b) : NULL;

        for (unsigned i = 0; i < n; i++)
            chain_append(t, to, b->tags[i], b->slots[i], &spare);
        if (b != &old)
            overflow_put(t, &spare, b);
        if (next == NULL)
            break;
        b = next;
    }
    spare_free(&spare);
}

void table_insert(struct table *t, uint64_t hash, void *entry)
{
    struct spare spare = {NULL};

    DCHECK(((uint64_t)(uintptr_t)entry & ~TABLE_PTR_MASK) == 0);
    if (GM_UNLIKELY(t->buckets == 0))
        start(t);
    chain_append(t, table_bucket_at(t, table_home(t, hash)), (uint8_t)(hash >> 56),
                 (uint64_t)(uintptr_t)entry | (hash >> 8 & 0xffff) << 48, &spare);
    t->count++;
    if (t->count * 2 > (uint64_t)t->buckets * 11 && t->buckets < UINT32_C(1) << 31)
        split_one(t);
}

void table_remove(struct table *t, uint64_t hash, table_slot *slot, bool shrink)
{
    struct table_bucket *b = table_bucket_at(t, table_home(t, hash)), *before = NULL, *tail;
    unsigned last, at;

    while (slot < b->slots || slot >= b->slots + TABLE_SLOTS) {
        CHECK(b->meta & TABLE_CHAINED);
        before = b;
        b = table_next(b);
    }
    at = (unsigned)(slot - b->slots);
    for (tail = b; tail->meta & TABLE_CHAINED; tail = table_next(tail))
        before = tail;
    last = table_bucket_count(tail) - 1;
    b->slots[at] = tail->slots[last];
    b->tags[at] = tail->tags[last];
    tail->meta &= (uint8_t)~(1u << last);
    if (last == 0 && before != NULL) {
        before->meta = 0x3f;
        mem_free(tail);
        t->overflow--;
    }
    t->count--;
    /* Two at a time, so that a table that was kept large by a walk catches up. */
    for (int i = 0; shrink && i < 2 && t->buckets > FIRST_BUCKETS && t->count < (uint64_t)t->buckets * 2; i++)
        merge_one(t);
}

static void chain_visit(const struct table_bucket *b, table_visit_fn *visit, void *arg)
{
    for (;;) {
        unsigned n = table_bucket_count(b);

        for (unsigned i = 0; i < n; i++)
            visit(table_slot_entry(b->slots[i]), arg);
        if (!(b->meta & TABLE_CHAINED))
            return;
        b = table_next(b);
    }
}

static uint64_t reverse64(uint64_t v)
{
    v = ((v >> 1) & UINT64_C(0x5555555555555555)) | ((v & UINT64_C(0x5555555555555555)) << 1);
    v = ((v >> 2) & UINT64_C(0x3333333333333333)) | ((v & UINT64_C(0x3333333333333333)) << 2);
    v = ((v >> 4) & UINT64_C(0x0f0f0f0f0f0f0f0f)) | ((v & UINT64_C(0x0f0f0f0f0f0f0f0f)) << 4);
    return __builtin_bswap64(v);
}

/* Pieter Noordhuis' algorithm (Redis, dict.c, dictScan): the cursor counts with its bits reversed, so that a table of another power of two goes on where this one
 * stopped, having seen whole families of buckets. */
uint64_t table_scan(const struct table *t, uint64_t cursor, table_visit_fn *visit, void *arg)
{
    uint64_t mask;

    if (t->buckets == 0)
        return 0;
    mask = (UINT64_C(1) << t->level) - 1;
    table_visit_family(t, t->level, (uint32_t)(cursor & mask), visit, arg);
    cursor |= ~mask;
    cursor = reverse64(cursor);
    cursor++;
    return reverse64(cursor);
}

void table_visit_family(const struct table *t, unsigned level, uint32_t v, table_visit_fn *visit, void *arg)
{
    for (uint64_t i = v; i < t->buckets; i += UINT64_C(1) << level)
        chain_visit(table_bucket_at(t, (uint32_t)i), visit, arg);
}

void table_each(const struct table *t, table_visit_fn *visit, void *arg)
{
    for (uint32_t i = 0; i < t->buckets; i++)
        chain_visit(table_bucket_at(t, i), visit, arg);
}

void table_fini(struct table *t, table_visit_fn *free_entry, void *arg)
{
    for (uint32_t i = 0; i < t->buckets; i++) {
        struct table_bucket *b = table_bucket_at(t, i);
        bool first = true;

        for (;;) {
            unsigned n = table_bucket_count(b);
            struct table_bucket *next = b->meta & TABLE_CHAINED ? table_next(b) : NULL;

            for (unsigned k = 0; free_entry != NULL && k < n; k++)
                free_entry(table_slot_entry(b->slots[k]), arg);
            if (!first)
                mem_free(b);
            if (next == NULL)
                break;
            b = next;
            first = false;
        }
    }
    for (uint32_t i = 0; i < t->buckets; i += PAGE_BUCKETS)
        mem_free(t->pages[i / PAGE_BUCKETS]);
    mem_free(t->pages);
    table_init(t, t->hash);
}

void *table_random(const struct table *t, struct rand *r)
{
    if (t->count == 0)
        return NULL;
    for (;;) {
        const struct table_bucket *b = table_bucket_at(t, (uint32_t)rand_below(r, t->buckets));
        unsigned total = 0, pick;

        for (const struct table_bucket *c = b;; c = table_next(c)) {
            total += table_bucket_count(c);
            if (!(c->meta & TABLE_CHAINED))
                break;
        }
        if (total == 0)
            continue;
        for (pick = (unsigned)rand_below(r, total); pick >= table_bucket_count(b); b = table_next(b))
            pick -= table_bucket_count(b);
        return table_slot_entry(b->slots[pick]);
    }
}

uint64_t table_bytes(const struct table *t)
{
    uint64_t room = t->buckets <= PAGE_BUCKETS ? first_cap(t) : (t->buckets + PAGE_BUCKETS - 1) / PAGE_BUCKETS * PAGE_BUCKETS;

    if (t->buckets == 0)
        return 0;
    return (room + t->overflow) * sizeof(struct table_bucket) + t->pages_cap * sizeof(t->pages[0]);
}

bool table_is_sound(const struct table *t)
{
    uint64_t count = 0, overflow = 0;

    if (t->buckets == 0)
        return t->count == 0;
    if (t->buckets >> t->level != 1)
        return false;
    for (uint32_t i = 0; i < t->buckets; i++) {
        for (const struct table_bucket *b = table_bucket_at(t, i);; b = table_next(b)) {
            unsigned n = table_bucket_count(b);

            if ((b->meta & 0x7f) != (1u << n) - 1 || ((b->meta & TABLE_CHAINED) && n != TABLE_SLOTS - 1))
                return false;
            for (unsigned k = 0; k < n; k++) {
                uint64_t hash = t->hash(table_slot_entry(b->slots[k]));

                if (table_home(t, hash) != i || b->tags[k] != hash >> 56 || b->slots[k] >> 48 != (hash >> 8 & 0xffff))
                    return false;
            }
            count += n;
            if (!(b->meta & TABLE_CHAINED))
                break;
            overflow++;
            if (table_bucket_count(table_next(b)) == 0)
                return false;
        }
    }
    return count == t->count && overflow == t->overflow;
}
