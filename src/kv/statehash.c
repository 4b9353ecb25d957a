/* A hash over what the keyspace means, whatever its layout: keys, types, TTLs and elements; order counts in lists only. Fixed keys, so that two
 * processes agree. */
#include "kv/state.h"

static uint64_t h(uint64_t seed, struct slice s)
{
    return siphash13(s.data, s.len, seed, 0x676f6d7367);
}

static void add_field(struct slice field, struct slice value, void *arg)
{
    *(uint64_t *)arg += h(h(1, field), value);
}

static void add_member(struct slice member, void *arg)
{
    *(uint64_t *)arg += h(2, member);
}

static bool add_element(int64_t index, struct slice value, void *arg)
{
    uint64_t *sum = arg;

    (void)index;
    *sum = h(*sum + 3, value);
    return true;
}

struct state {
    struct kv *kv;
    uint32_t db;
    uint64_t sum;
};

static void add_entry(void *entry, void *arg)
{
    struct state *s = arg;
    struct kv_entry *e = entry;
    uint64_t content = 0, parts[4];

    switch (entry_type(e)) {
    case KV_STRING:
        content = h(4, kv_string_bytes(s->kv, e));
        break;
    case KV_HASH:
        kv_hash_walk(e, add_field, &content);
        break;
    case KV_SET:
        kv_set_walk(e, add_member, &content);
        break;
    case KV_LIST:
        list_walk(entry_object(e), list_head(entry_object(e)), add_element, &content);
        break;
    default:
        UNREACHABLE();
    }
    parts[0] = s->db << 8 | entry_type(e);
    parts[1] = (uint64_t)entry_expire_at(e);
    parts[2] = content;
    parts[3] = h(5, entry_key(e));
    s->sum += h(6, slice_of(parts, sizeof(parts)));
}

uint64_t kv_state_hash(struct kv *kv)
{
    struct state s = {kv, 0, 0};

    for (s.db = 0; s.db < KV_DB_COUNT; s.db++)
        table_each(&kv->dbs[s.db].keys, add_entry, &s);
    return s.sum;
}
