/* The large form of sets and hashes: a table of elements, one allocation each (P22).
 *
 *   set    uvarint length | bytes
 *   hash   uvarint field length | uvarint value length | field | value */
#include "base/bytes.h"
#include "base/err.h"
#include "base/mem.h"
#include "kv/state.h"

static struct slice element_name(const void *element, bool pairs, struct slice *ret_value)
{
    const uint8_t *p = element, *end = p + 2 * VARINT_MAX;
    uint64_t name_len = 0, value_len = 0;

    p += uvarint_get(p, end, &name_len);
    if (pairs)
        p += uvarint_get(p, end, &value_len);
    if (ret_value != NULL)
        *ret_value = slice_of(p + name_len, (size_t)value_len);
    return slice_of(p, (size_t)name_len);
}

static uint64_t hash_of_member(const void *element)
{
    struct slice s = element_name(element, false, NULL);

    return hash_bytes(s.data, s.len);
}

static uint64_t hash_of_field(const void *element)
{
    struct slice s = element_name(element, true, NULL);

    return hash_bytes(s.data, s.len);
}

static bool member_matches(const void *element, const void *arg)
{
    return slice_eq(element_name(element, false, NULL), *(const struct slice *)arg);
}

static bool field_matches(const void *element, const void *arg)
{
    return slice_eq(element_name(element, true, NULL), *(const struct slice *)arg);
}

static table_slot *find(const struct members *m, uint64_t hash, const struct slice *name)
{
    return m->pairs ? table_find(&m->table, hash, field_matches, name) : table_find(&m->table, hash, member_matches, name);
}

static size_t element_size(bool pairs, struct slice name, struct slice value)
{
    return uvarint_len(name.len) + name.len + (pairs ? uvarint_len(value.len) + value.len : 0);
}

static void element_write(uint8_t *p, bool pairs, struct slice name, struct slice value)
{
    p += uvarint_put(p, name.len);
    if (pairs)
        p += uvarint_put(p, value.len);
    if (name.len != 0)
        memcpy(p, name.data, name.len);
    if (value.len != 0 && pairs)
        memcpy(p + name.len, value.data, value.len);
}

struct members *members_new(bool pairs)
{
    struct members *m = mem_alloc(sizeof(*m));

    table_init(&m->table, pairs ? hash_of_field : hash_of_member);
    m->bytes = 0;
    m->pairs = pairs;
    return m;
}

static void free_element(void *element, void *arg)
{
    (void)arg;
    mem_free(element);
}

void members_free(void *p)
{
    struct members *m = p;

    table_fini(&m->table, free_element, NULL);
    mem_free(m);
}

static void count(struct kv *kv, struct members *m, size_t add, size_t sub)
{
    add = add == 0 ? 0 : size_class(add);
    sub = sub == 0 ? 0 : size_class(sub);
    m->bytes += add - sub;
    *kv->bytes += add - sub;
}

static bool put_hashed(struct kv *kv, struct members *m, struct slice name, struct slice value, uint64_t hash)
{
    table_slot *slot = find(m, hash, &name);
    size_t size = element_size(m->pairs, name, value), old_size;
    uint8_t *old, *e;
    struct slice old_value;

    if (slot == NULL) {
        e = mem_alloc(size_class(size));
        element_write(e, m->pairs, name, value);
        table_insert(&m->table, hash, e);
        count(kv, m, size, 0);
        return true;
    }
    if (!m->pairs)
        return false;
    old = table_slot_entry(*slot);
    element_name(old, true, &old_value);
    old_size = element_size(true, name, old_value);
    if (size_class(size) == size_class(old_size) && !kv_is_pinned(kv, old)) {
        element_write(old, true, name, value);
        return false;
    }
    e = mem_alloc(size_class(size));
    element_write(e, true, name, value);
    table_slot_replace(slot, e);
    count(kv, m, size, old_size);
    kv_let_go(kv, mem_free, old, false);
    return false;
}

bool members_put(struct kv *kv, struct members *m, struct slice name, struct slice value)
{
    return put_hashed(kv, m, name, value, hash_bytes(name.data, name.len));
}

int members_put_all(struct kv *kv, struct members *m, struct reader *rd)
{
    struct slice names[KV_REPLAY_AHEAD], values[KV_REPLAY_AHEAD];
    uint64_t hashes[KV_REPLAY_AHEAD];

    while (reader_left(rd) > 0) {
        unsigned n = 0;

        for (; n < KV_REPLAY_AHEAD && reader_left(rd) > 0; n++) {
            names[n] = reader_lslice(rd);
            values[n] = m->pairs ? reader_lslice(rd) : SLICE_NONE;
            if (rd->bad)
                return ERR_CORRUPT;
            hashes[n] = hash_bytes(names[n].data, names[n].len);
            table_prefetch(&m->table, hashes[n]);
        }
        for (unsigned i = 0; i < n; i++)
            table_prefetch_entry(&m->table, hashes[i]);
        for (unsigned i = 0; i < n; i++)
            put_hashed(kv, m, names[i], values[i], hashes[i]);
    }
    return 0;
}

bool members_get(const struct members *m, struct slice name, struct slice *ret_value)
{
    table_slot *slot = find(m, hash_bytes(name.data, name.len), &name);

    if (slot == NULL)
        return false;
    if (ret_value != NULL)
        element_name(table_slot_entry(*slot), m->pairs, ret_value);
    return true;
}

bool members_del(struct kv *kv, struct members *m, struct slice name)
{
    uint64_t hash = hash_bytes(name.data, name.len);
    table_slot *slot = find(m, hash, &name);
    void *e;
    struct slice value = SLICE_NONE;

    if (slot == NULL)
        return false;
    e = table_slot_entry(*slot);
    element_name(e, m->pairs, &value);
    count(kv, m, 0, element_size(m->pairs, name, value));
    table_remove(&m->table, hash, slot, !kv->walking);
    kv_let_go(kv, mem_free, e, false);
    return true;
}

void members_element_parts(const void *element, bool pairs, struct slice *ret_name, struct slice *ret_value)
{
    *ret_value = SLICE_NONE;
    *ret_name = element_name(element, pairs, pairs ? ret_value : NULL);
}

void members_parts(const struct members *m, const void *element, struct slice *ret_name, struct slice *ret_value)
{
    members_element_parts(element, m->pairs, ret_name, ret_value);
}
