#include "queue/ackmap.h"

#include "base/check.h"
#include "base/mem.h"

void ackmap_init(struct ackmap *m, int64_t end)
{
    *m = (struct ackmap){.origin = end, .end = end};
}

void ackmap_fini(struct ackmap *m)
{
    for (uint32_t i = 0; i < m->count; i++)
        mem_free(m->chunks[m->first + i].bits);
    mem_free(m->chunks);
    *m = (struct ackmap){.origin = m->end, .end = m->end};
}

static inline int64_t chunk_of(int64_t offset)
{
    return offset / ACKMAP_CHUNK;
}

static struct ackmap_chunk *find(const struct ackmap *m, int64_t offset)
{
    int64_t i = chunk_of(offset) - m->base;

    return m->count == 0 || i < 0 || i >= m->count ? NULL : &m->chunks[m->first + (uint32_t)i];
}

static inline bool bit_get(const struct ackmap_chunk *c, int64_t offset)
{
    uint32_t i = (uint32_t)(offset % ACKMAP_CHUNK);

    return (c->bits[i / 64] >> (i % 64)) & 1;
}

static void bit_set(struct ackmap_chunk *c, int64_t offset)
{
    uint32_t i = (uint32_t)(offset % ACKMAP_CHUNK);

    if (c->bits == NULL)
        c->bits = mem_zalloc(ACKMAP_WORDS * sizeof(uint64_t));
    c->bits[i / 64] |= 1ull << (i % 64);
}

/* Sets bits [from, to) of a chunk, both within it. */
static void bits_fill(struct ackmap_chunk *c, int64_t from, int64_t to)
{
    for (int64_t o = from; o < to;) {
        uint32_t i = (uint32_t)(o % ACKMAP_CHUNK);

        if (i % 64 == 0 && to - o >= 64 && c->bits != NULL) {
            c->bits[i / 64] = ~0ull;
            o += 64;
        } else {
            bit_set(c, o);
            o++;
        }
    }
}

static bool is_complete(const struct ackmap *m, const struct ackmap_chunk *c)
{
    int64_t number = m->base + (c - (m->chunks + m->first));

    return m->end >= (number + 1) * ACKMAP_CHUNK;
}

/* A complete chunk that has nothing live needs no bits, and none at all at the front. */
static void retire(struct ackmap *m, struct ackmap_chunk *c)
{
    if (c->live != 0 || !is_complete(m, c))
        return;
    mem_free(c->bits);
    c->bits = NULL;
    while (m->count > 0) {
        c = &m->chunks[m->first];
        if (c->live != 0 || !is_complete(m, c))
            break;
        m->first++;
        m->count--;
        m->base++;
        if (m->origin < m->base * ACKMAP_CHUNK)
            m->origin = m->base * ACKMAP_CHUNK;
    }
}

static struct ackmap_chunk *push_chunk(struct ackmap *m)
{
    if (m->first + m->count == m->cap) {
        if (m->first > m->cap / 2) {
            memmove(m->chunks, m->chunks + m->first, m->count * sizeof(*m->chunks));
            m->first = 0;
        } else {
            m->cap = m->cap == 0 ? 2 : m->cap * 2;
            m->chunks = mem_realloc(m->chunks, m->cap * sizeof(*m->chunks));
        }
    }
    struct ackmap_chunk *c = &m->chunks[m->first + m->count++];

    *c = (struct ackmap_chunk){0};
    return c;
}

/* The chunk of m->end, made if it is not there. Whatever of it lies below m->end is settled then. */
static struct ackmap_chunk *tail(struct ackmap *m)
{
    int64_t number = chunk_of(m->end);

    if (m->count == 0) {
        m->first = 0;
        m->base = number;
    }
    if (m->count == 0 || m->base + m->count == number) {
        struct ackmap_chunk *c = push_chunk(m);

        bits_fill(c, number * ACKMAP_CHUNK, m->end);
        return c;
    }
    DCHECK(m->base + m->count - 1 == number);
    return &m->chunks[m->first + m->count - 1];
}

void ackmap_add_hole(struct ackmap *m, int64_t end)
{
    CHECK(end >= m->end);
    if (m->live == 0) { /* nothing worth a bit below */
        for (uint32_t i = 0; i < m->count; i++)
            mem_free(m->chunks[m->first + i].bits);
        m->count = m->first = 0;
        m->origin = m->end = end;
        return;
    }
    while (m->end < end) {
        struct ackmap_chunk *c = tail(m);
        int64_t stop = (chunk_of(m->end) + 1) * ACKMAP_CHUNK;

        if (stop > end)
            stop = end;
        bits_fill(c, m->end, stop);
        m->end = stop;
        retire(m, c);
    }
}

void ackmap_add_live(struct ackmap *m, int64_t offset)
{
    struct ackmap_chunk *c;

    if (offset > m->end)
        ackmap_add_hole(m, offset);
    DCHECK(offset == m->end);
    c = tail(m);
    c->live++;
    m->live++;
    m->end++;
}

void ackmap_add_settled(struct ackmap *m, int64_t offset)
{
    struct ackmap_chunk *c;

    if (offset > m->end)
        ackmap_add_hole(m, offset);
    DCHECK(offset == m->end);
    if (m->count == 0) { /* an empty map needs no bits to say so */
        m->origin = ++m->end;
        return;
    }
    c = tail(m);
    bit_set(c, offset);
    m->end++;
    retire(m, c);
}

bool ackmap_is_live(const struct ackmap *m, int64_t offset)
{
    struct ackmap_chunk *c;

    if (offset < m->origin || offset >= m->end || (c = find(m, offset)) == NULL || c->live == 0)
        return false;
    return c->bits == NULL || !bit_get(c, offset);
}

bool ackmap_settle(struct ackmap *m, int64_t offset)
{
    struct ackmap_chunk *c;

    if (!ackmap_is_live(m, offset))
        return false;
    c = find(m, offset);
    bit_set(c, offset);
    c->live--;
    m->live--;
    if (c->live == 0)
        retire(m, c);
    return true;
}

/* Bits of one word that are live, within [from, to), which lie in one chunk and cover the word at least
 * partly. */
static uint64_t live_word(const struct ackmap *m, const struct ackmap_chunk *c, int64_t word_start,
                          int64_t from, int64_t to)
{
    uint64_t w;

    if (c->live == 0)
        return 0;
    if (to > m->end)
        to = m->end;
    if (from < m->origin)
        from = m->origin;
    if (from < word_start)
        from = word_start;
    if (to > word_start + 64)
        to = word_start + 64;
    if (from >= to)
        return 0;
    w = c->bits == NULL ? ~0ull : ~c->bits[(word_start % ACKMAP_CHUNK) / 64];
    w &= ~0ull << (from - word_start);
    if (to - word_start < 64)
        w &= (1ull << (to - word_start)) - 1;
    return w;
}

int64_t ackmap_next_live(const struct ackmap *m, int64_t from)
{
    if (m->live == 0)
        return m->end;
    if (from < m->base * ACKMAP_CHUNK)
        from = m->base * ACKMAP_CHUNK;
    while (from < m->end) {
        const struct ackmap_chunk *c = find(m, from);
        int64_t stop = (chunk_of(from) + 1) * ACKMAP_CHUNK;

        if (c == NULL)
            return m->end;
        if (c->live == 0) {
            from = stop;
            continue;
        }
        for (int64_t w = from / 64 * 64; w < stop; w += 64) {
            uint64_t live = live_word(m, c, w, from, stop);

            if (live != 0)
                return w + __builtin_ctzll(live);
        }
        from = stop;
    }
    return m->end;
}

uint64_t ackmap_count_live(const struct ackmap *m, int64_t from, int64_t to)
{
    uint64_t n = 0;

    if (m->live == 0)
        return 0;
    if (from < m->base * ACKMAP_CHUNK)
        from = m->base * ACKMAP_CHUNK;
    if (to > m->end)
        to = m->end;
    while (from < to) {
        const struct ackmap_chunk *c = find(m, from);
        int64_t start = chunk_of(from) * ACKMAP_CHUNK, stop = start + ACKMAP_CHUNK;

        if (c == NULL)
            break;
        if (from == start && to >= stop)
            n += c->live;
        else if (c->live != 0)
            for (int64_t w = from / 64 * 64; w < stop && w < to; w += 64)
                n += (uint64_t)__builtin_popcountll(live_word(m, c, w, from, to));
        from = stop;
    }
    return n;
}

uint64_t ackmap_settle_range(struct ackmap *m, int64_t from, int64_t to)
{
    uint64_t n = 0;

    if (to > m->end)
        to = m->end;
    while (m->live != 0 && (from = ackmap_next_live(m, from)) < to) {
        struct ackmap_chunk *c = find(m, from);
        int64_t start = chunk_of(from) * ACKMAP_CHUNK, stop = start + ACKMAP_CHUNK;
        uint64_t settled;

        if (to >= stop && is_complete(m, c)) { /* the rest of a whole chunk */
            settled = ackmap_count_live(m, from, stop);
            if (settled != c->live)
                bits_fill(c, from, stop);
        } else {
            if (stop > to)
                stop = to;
            settled = ackmap_count_live(m, from, stop);
            bits_fill(c, from, stop);
        }
        c->live -= (uint32_t)settled;
        m->live -= settled;
        n += settled;
        from = stop;
        retire(m, c);
    }
    return n;
}

uint64_t ackmap_cut(struct ackmap *m, int64_t end)
{
    uint64_t gone;

    if (end >= m->end)
        return 0;
    if (end <= m->origin) {
        gone = m->live;
        for (uint32_t i = 0; i < m->count; i++)
            mem_free(m->chunks[m->first + i].bits);
        m->count = m->first = 0;
        m->live = 0;
        m->origin = m->end = end;
        return gone;
    }
    gone = ackmap_count_live(m, end, m->end);
    while (m->count > 0) {
        struct ackmap_chunk *c = &m->chunks[m->first + m->count - 1];
        int64_t start = (m->base + m->count - 1) * ACKMAP_CHUNK;

        if (start < end) {
            uint64_t here = ackmap_count_live(m, end, start + ACKMAP_CHUNK);

            if (end >= start + ACKMAP_CHUNK)
                break;
            if (c->bits == NULL && c->live == 0) /* complete and settled until now: it will be partial */
                bits_fill(c, start, end);
            else if (c->bits != NULL)
                for (int64_t o = end; o < start + ACKMAP_CHUNK; o++)
                    c->bits[(o % ACKMAP_CHUNK) / 64] &= ~(1ull << (o % 64));
            c->live -= (uint32_t)here;
            break;
        }
        mem_free(c->bits);
        m->count--;
    }
    m->live -= gone;
    m->end = end;
    return gone;
}

void ackmap_trim(struct ackmap *m)
{
    if (m->live == 0)
        ackmap_fini(m);
}

size_t ackmap_memory(const struct ackmap *m)
{
    size_t n = m->cap * sizeof(*m->chunks);

    for (uint32_t i = 0; i < m->count; i++)
        if (m->chunks[m->first + i].bits != NULL)
            n += ACKMAP_WORDS * sizeof(uint64_t);
    return n;
}
