/* Lists: elements by a 64-bit logical index (P17), in chunks sorted by their first index. A push at the head is "element at head - 1", so that an
 * effect says the same however often it is replayed.
 *
 *   chunk: base index, count, bytes [begin, end) of a buffer of cap; an item is
 *     length (uvarint) | bytes | size of both before (uvarint, reversed: read from its end)
 *
 * so that a chunk is walked from either side, and filled from either side while it has room there. */
#include "base/bytes.h"
#include "base/err.h"
#include "base/mem.h"
#include "kv/state.h"

#define CHUNK_FIRST 48 /* room of a list's first chunk; doubles */

struct chunk {
    int64_t base;
    uint32_t count;
    uint32_t begin, end, cap;
    uint8_t data[];
};

struct kv_list {
    struct chunk **chunks; /* [first, first + n) of room */
    uint32_t first, n, room;
    uint64_t bytes;
};

static size_t chunk_size(const struct chunk *k)
{
    return size_class(sizeof(*k) + k->cap);
}

static int64_t chunk_end(const struct chunk *k)
{
    return k->base + k->count;
}

static struct chunk *at(const struct kv_list *l, uint32_t i)
{
    return l->chunks[l->first + i];
}

static void count(struct kv *kv, struct kv_list *l, size_t add, size_t sub)
{
    l->bytes += add - sub;
    *kv->bytes += add - sub;
}

static size_t back_put(uint8_t *p, uint64_t v)
{
    uint8_t b[VARINT_MAX];
    size_t n = uvarint_put(b, v);

    for (size_t i = 0; i < n; i++)
        p[i] = b[n - 1 - i];
    return n;
}

static size_t item_size(struct slice value)
{
    size_t n = uvarint_len(value.len) + value.len;

    return n + uvarint_len(n);
}

static void item_write(uint8_t *p, struct slice value)
{
    size_t n = uvarint_put(p, value.len);

    if (value.len != 0)
        memcpy(p + n, value.data, value.len);
    n += value.len;
    back_put(p + n, n);
}

/* The item at `pos`; returns the position behind it. */
static uint32_t item_read(const struct chunk *k, uint32_t pos, struct slice *ret)
{
    uint64_t len = 0;
    size_t n = uvarint_get(k->data + pos, k->data + k->end, &len);

    *ret = slice_of(k->data + pos + n, (size_t)len);
    return (uint32_t)(pos + item_size(*ret));
}

/* The position of the item that ends at `end`. */
static uint32_t item_before(const struct chunk *k, uint32_t end)
{
    uint64_t n = 0;
    unsigned shift = 0;

    for (;;) {
        uint8_t b = k->data[--end];

        n |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80))
            return (uint32_t)(end - n);
        shift += 7;
    }
}

/* The position of element `index`, from the nearer side. */
static uint32_t item_position(const struct chunk *k, int64_t index)
{
    uint32_t i = (uint32_t)(index - k->base), pos;
    struct slice ignored;

    if (i <= k->count / 2) {
        for (pos = k->begin; i > 0; i--)
            pos = item_read(k, pos, &ignored);
    } else {
        pos = k->end;
        for (i = k->count - i; i > 0; i--)
            pos = item_before(k, pos);
    }
    return pos;
}

struct kv_list *list_new(void)
{
    return mem_zalloc(sizeof(struct kv_list));
}

void list_free(void *p)
{
    struct kv_list *l = p;

    for (uint32_t i = 0; i < l->n; i++)
        mem_free(at(l, i));
    mem_free(l->chunks);
    mem_free(l);
}

uint64_t list_bytes(const struct kv_list *l)
{
    return l->bytes;
}

int64_t list_head(const struct kv_list *l)
{
    return l->n == 0 ? 0 : at(l, 0)->base;
}

int64_t list_tail(const struct kv_list *l)
{
    return l->n == 0 ? 0 : chunk_end(at(l, l->n - 1));
}

uint32_t list_chunks(const struct kv_list *l)
{
    return l->n;
}

/* The last chunk whose base is not above index, -1 when all are. */
static int64_t chunk_at_or_before(const struct kv_list *l, int64_t index)
{
    uint32_t lo = 0, hi = l->n;

    if (l->n != 0 && at(l, l->n - 1)->base <= index)
        return (int64_t)l->n - 1;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;

        if (at(l, mid)->base <= index)
            lo = mid + 1;
        else
            hi = mid;
    }
    return (int64_t)lo - 1;
}

static void chunk_insert(struct kv *kv, struct kv_list *l, uint32_t i, struct chunk *k)
{
    if (l->first == 0 || l->first + l->n == l->room) {
        /* As much room before as behind: pushes come from both sides. */
        uint32_t room = l->n == 0 ? 4 : l->n * 2 + 2;
        uint32_t first = (room - l->n) / 2;
        struct chunk **v = mem_alloc(room * sizeof(v[0]));

        if (l->n != 0)
            memcpy(v + first, l->chunks + l->first, l->n * sizeof(v[0]));
        mem_free(l->chunks);
        count(kv, l, size_class(room * sizeof(v[0])), l->room == 0 ? 0 : size_class(l->room * sizeof(v[0])));
        l->chunks = v;
        l->first = first;
        l->room = room;
    }
    if (i == 0) {
        l->first--;
    } else {
        struct chunk **v = l->chunks + l->first;

        memmove(v + i + 1, v + i, (l->n - i) * sizeof(v[0]));
    }
    l->chunks[l->first + i] = k;
    l->n++;
    count(kv, l, chunk_size(k), 0);
}

static void chunk_drop(struct kv *kv, struct kv_list *l, uint32_t i)
{
    struct chunk *k = at(l, i), **v = l->chunks + l->first;

    count(kv, l, 0, chunk_size(k));
    mem_free(k);
    if (i == 0)
        l->first++;
    else
        memmove(v + i, v + i + 1, (l->n - i - 1) * sizeof(v[0]));
    l->n--;
    if (l->n == 0)
        l->first = l->room / 2;
}

static struct chunk *chunk_new(int64_t base, uint32_t cap, bool fill_backwards)
{
    size_t n = size_class(sizeof(struct chunk) + cap);
    struct chunk *k = mem_alloc(n);

    cap = (uint32_t)(n - sizeof(*k));
    *k = (struct chunk){.base = base, .cap = cap, .begin = fill_backwards ? cap : 0, .end = fill_backwards ? cap : 0};
    return k;
}

/* Makes room for `need` more bytes on one side of chunk i, by growing or shifting; false when a chunk of its own is due. */
static bool chunk_room(struct kv *kv, struct kv_list *l, uint32_t i, size_t need, enum kv_end side)
{
    struct chunk *k = at(l, i), *bigger;
    uint32_t used = k->end - k->begin, cap;

    if (side == KV_TAIL ? k->cap - k->end >= need : k->begin >= need)
        return true;
    if (used + need > kv->o.list_chunk_bytes)
        return false;
    /* At least twice what is there, so that the shift is paid for by what follows. */
    cap = k->cap;
    if (used + need > cap / 2)
        cap = MIN_OF(MAX_OF(cap * 2, (uint32_t)(used + need) * 2), MAX_OF(kv->o.list_chunk_bytes, (uint32_t)(used + need)));
    bigger = chunk_new(k->base, cap, false);
    bigger->count = k->count;
    if (i > 0 && side == KV_TAIL)
        bigger->begin = 0; /* never pushed at again on the other side */
    else if (side == KV_TAIL)
        bigger->begin = (bigger->cap - used - (uint32_t)need) / 4;
    else
        bigger->begin = bigger->cap - used - (l->n == 1 ? (bigger->cap - used - (uint32_t)need) / 4 : 0);
    bigger->end = bigger->begin + used;
    memcpy(bigger->data + bigger->begin, k->data + k->begin, used);
    count(kv, l, chunk_size(bigger), chunk_size(k));
    mem_free(k);
    l->chunks[l->first + i] = bigger;
    return true;
}

static void chunk_append(struct chunk *k, struct slice value)
{
    item_write(k->data + k->end, value);
    k->end += (uint32_t)item_size(value);
    k->count++;
}

static void chunk_prepend(struct chunk *k, struct slice value)
{
    k->begin -= (uint32_t)item_size(value);
    item_write(k->data + k->begin, value);
    k->base--;
    k->count++;
}

/* Replaces an element where it stands. */
static void chunk_set(struct kv *kv, struct kv_list *l, uint32_t i, int64_t index, struct slice value)
{
    struct chunk *k = at(l, i), *to;
    uint32_t pos = item_position(k, index), next;
    struct slice old;
    size_t size = item_size(value);

    next = item_read(k, pos, &old);
    if (size == next - pos) {
        item_write(k->data + pos, value);
        return;
    }
    to = chunk_new(k->base, (uint32_t)(k->end - k->begin - (next - pos) + size), false);
    to->count = k->count;
    memcpy(to->data, k->data + k->begin, pos - k->begin);
    item_write(to->data + (pos - k->begin), value);
    memcpy(to->data + (pos - k->begin) + size, k->data + next, k->end - next);
    to->end = (uint32_t)(k->end - k->begin - (next - pos) + size);
    count(kv, l, chunk_size(to), chunk_size(k));
    mem_free(k);
    l->chunks[l->first + i] = to;
}

void list_put(struct kv *kv, struct kv_list *l, int64_t index, struct slice value)
{
    int64_t i = chunk_at_or_before(l, index);
    size_t need = item_size(value);
    struct chunk *k;
    bool at_head;

    CHECK(index > -KV_LIST_INDEX_MAX && index < KV_LIST_INDEX_MAX);
    if (i >= 0 && index < chunk_end(at(l, (uint32_t)i))) {
        chunk_set(kv, l, (uint32_t)i, index, value);
        return;
    }
    if (i >= 0 && index == chunk_end(at(l, (uint32_t)i)) && chunk_room(kv, l, (uint32_t)i, need, KV_TAIL)) {
        chunk_append(at(l, (uint32_t)i), value);
        return;
    }
    if (i + 1 < (int64_t)l->n && index == at(l, (uint32_t)(i + 1))->base - 1 &&
        chunk_room(kv, l, (uint32_t)(i + 1), need, KV_HEAD)) {
        chunk_prepend(at(l, (uint32_t)(i + 1)), value);
        return;
    }
    at_head = i < 0 && l->n != 0;
    k = chunk_new(index, (uint32_t)MAX_OF(need, l->n == 0 ? (size_t)CHUNK_FIRST : (size_t)kv->o.list_chunk_bytes), at_head);
    if (at_head) {
        k->base++;
        chunk_prepend(k, value);
    } else {
        chunk_append(k, value);
    }
    chunk_insert(kv, l, (uint32_t)(i + 1), k);
}

void list_cut_head(struct kv *kv, struct kv_list *l, int64_t head)
{
    while (l->n != 0 && chunk_end(at(l, 0)) <= head)
        chunk_drop(kv, l, 0);
    if (l->n != 0 && at(l, 0)->base < head) {
        struct chunk *k = at(l, 0);

        k->begin = item_position(k, head);
        k->count -= (uint32_t)(head - k->base);
        k->base = head;
    }
}

void list_cut_tail(struct kv *kv, struct kv_list *l, int64_t tail)
{
    while (l->n != 0 && at(l, l->n - 1)->base >= tail)
        chunk_drop(kv, l, l->n - 1);
    if (l->n != 0 && chunk_end(at(l, l->n - 1)) > tail) {
        struct chunk *k = at(l, l->n - 1);

        k->end = item_position(k, tail);
        k->count = (uint32_t)(tail - k->base);
    }
}

void list_walk(const struct kv_list *l, int64_t from, bool (*fn)(int64_t index, struct slice value, void *arg), void *arg)
{
    int64_t i = chunk_at_or_before(l, from);

    for (i = i < 0 ? 0 : i; i < (int64_t)l->n; i++) {
        const struct chunk *k = at(l, (uint32_t)i);
        int64_t index = MAX_OF(from, k->base);
        uint32_t pos;
        struct slice value;

        if (index >= chunk_end(k))
            continue;
        for (pos = item_position(k, index); index < chunk_end(k); index++) {
            pos = item_read(k, pos, &value);
            if (!fn(index, value, arg))
                return;
        }
    }
}

struct kv_entry *kv_list_entry(struct kv_ref *r)
{
    if (r->e == NULL) {
        struct kv_entry *e = entry_new(KV_LIST, ENC_LIST, r->key, 0, 0);

        entry_object_set(e, list_new());
        kv_ref_insert(r, e);
    }
    return r->e;
}

/* ---- commands --------------------------------------------------------------------------------------------------------- */

int kv_list_push(struct kv_ctx *c, struct slice key, enum kv_end end, const struct slice *values, size_t n, bool only_if_exists,
                 uint64_t *ret_len)
{
    struct kv_ref r;
    struct kv_list *l;
    struct buf *b = kv_value_begin(c->kv);
    int64_t first;

    *ret_len = 0;
    if (kv_ref_write(c, key, &r)) {
        if (entry_type(r.e) != KV_LIST)
            return ERR_WRONG_TYPE;
    } else if (only_if_exists) {
        return 0;
    }
    if (n == 0) {
        if (r.e != NULL)
            *ret_len = (uint64_t)(list_tail(entry_object(r.e)) - list_head(entry_object(r.e)));
        return 0;
    }
    l = entry_object(kv_list_entry(&r));
    /* LPUSH a b c leaves c b a: the first index is that of the last value. */
    first = end == KV_TAIL ? list_tail(l) : list_head(l) - (int64_t)n;
    buf_put_varint(b, first);
    for (size_t i = 0; i < n; i++) {
        buf_put_lslice(b, end == KV_TAIL ? values[i] : values[n - 1 - i]);
        list_put(c->kv, l, end == KV_TAIL ? first + (int64_t)i : first + (int64_t)(n - 1 - i), values[i]);
    }
    effect_add(c->fx, EFFECT_KV_LIST_PUT, c->db, key, buf_slice(b));
    kv_value_done(c->kv);
    *ret_len = (uint64_t)(list_tail(l) - list_head(l));
    kv_ref_touch(&r);
    kv_blocked_ready(c->kv, c->db, key);
    return 0;
}

struct take {
    struct buf *out;
};

static bool take_one(int64_t index, struct slice value, void *arg)
{
    (void)index;
    buf_put_slice(((struct take *)arg)->out, value);
    return false;
}

int kv_list_pop(struct kv_ctx *c, struct slice key, enum kv_end end, struct buf *out)
{
    struct kv_ref r;
    struct kv_list *l;
    struct take take = {out};
    uint8_t b[VARINT_MAX];
    int64_t limit;

    if (!kv_ref_write(c, key, &r))
        return ERR_NOT_FOUND;
    if (entry_type(r.e) != KV_LIST)
        return ERR_WRONG_TYPE;
    l = entry_object(r.e);
    if (list_tail(l) == list_head(l))
        return ERR_NOT_FOUND;
    limit = end == KV_HEAD ? list_head(l) + 1 : list_tail(l) - 1;
    list_walk(l, end == KV_HEAD ? list_head(l) : limit, take_one, &take);
    kv_ref_touch(&r);
    if (list_tail(l) - list_head(l) == 1) {
        effect_add(c->fx, EFFECT_KV_DEL, c->db, key, SLICE_NONE);
        kv_ref_remove(&r);
        return 0;
    }
    effect_add(c->fx, end == KV_HEAD ? EFFECT_KV_LIST_HEAD : EFFECT_KV_LIST_TAIL, c->db, key, slice_of(b, varint_put(b, limit)));
    if (end == KV_HEAD)
        list_cut_head(c->kv, l, limit);
    else
        list_cut_tail(c->kv, l, limit);
    return 0;
}

int kv_list_len(struct kv_ctx *c, struct slice key, uint64_t *ret)
{
    struct kv_ref r;

    *ret = 0;
    if (!kv_ref_read(c, key, &r))
        return 0;
    if (entry_type(r.e) != KV_LIST)
        return ERR_WRONG_TYPE;
    *ret = (uint64_t)(list_tail(entry_object(r.e)) - list_head(entry_object(r.e)));
    return 0;
}

/* From the list's own index, negative from the tail, to the logical one; false outside of the list. */
static bool index_find(const struct kv_list *l, int64_t index, int64_t *ret)
{
    int64_t len = list_tail(l) - list_head(l);

    if (index < 0)
        index += len;
    if (index < 0 || index >= len)
        return false;
    *ret = list_head(l) + index;
    return true;
}

static bool borrow_one(int64_t index, struct slice value, void *arg)
{
    (void)index;
    *(struct slice *)arg = value;
    return false;
}

int kv_list_get(struct kv_ctx *c, struct slice key, int64_t index, struct slice *ret)
{
    struct kv_ref r;

    if (!kv_ref_read(c, key, &r))
        return ERR_NOT_FOUND;
    if (entry_type(r.e) != KV_LIST)
        return ERR_WRONG_TYPE;
    if (!index_find(entry_object(r.e), index, &index))
        return ERR_RANGE;
    list_walk(entry_object(r.e), index, borrow_one, ret);
    return 0;
}

struct range {
    int64_t last;
    uint64_t count;
    void (*fn)(struct slice value, void *arg);
    void *arg;
};

static bool range_one(int64_t index, struct slice value, void *arg)
{
    struct range *g = arg;

    if (index > g->last)
        return false;
    g->count++;
    g->fn(value, g->arg);
    return true;
}

int kv_list_range(struct kv_ctx *c, struct slice key, int64_t first, int64_t last, void (*fn)(struct slice value, void *arg), void *arg,
                  uint64_t *ret_count)
{
    struct kv_ref r;
    int64_t head, len;
    struct range g;

    *ret_count = 0;
    if (!kv_ref_read(c, key, &r))
        return 0;
    if (entry_type(r.e) != KV_LIST)
        return ERR_WRONG_TYPE;
    head = list_head(entry_object(r.e));
    len = list_tail(entry_object(r.e)) - head;
    first = first < 0 ? MAX_OF(first + len, 0) : first;
    last = last < 0 ? last + len : MIN_OF(last, len - 1);
    if (first > last || first >= len)
        return 0;
    g = (struct range){head + last, 0, fn, arg};
    list_walk(entry_object(r.e), head + first, range_one, &g);
    *ret_count = g.count;
    return 0;
}
