/* See group_store.h. */
#include "stream/group_store.h"

#include "base/check.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "stream/group_priv.h"

#define GROUP_FORMAT 1

/* ---- the group's own state ---------------------------------------------------------------------------- */

static void put_text(struct buf *out, const char *s)
{
    size_t n = s == NULL ? 0 : strlen(s);

    buf_put_uvarint(out, s == NULL ? 0 : n + 1);
    buf_put(out, s, n);
}

static char *read_text(struct reader *r)
{
    uint64_t n = reader_uvarint(r);
    struct slice s;

    if (n == 0)
        return NULL;
    if (n - 1 > reader_left(r)) {
        r->bad = 1;
        return NULL;
    }
    s = reader_slice(r, (size_t)(n - 1));
    return mem_strdup_slice(s);
}

void group_encode(const struct group *g, struct buf *out)
{
    buf_put_u8(out, GROUP_FORMAT);
    buf_put_be32(out, (uint32_t)g->generation);
    put_text(out, g->protocol_type);
    put_text(out, g->protocol);
    put_text(out, g->leader);
    buf_put_varint(out, g->empty_since_ms);
    buf_put_uvarint(out, g->member_count);
    LIST_FOREACH (n, &g->members) {
        const struct group_member *m = LIST_ENTRY(n, struct group_member, node);

        put_text(out, m->id);
        put_text(out, m->instance);
        put_text(out, m->client_id);
        put_text(out, m->client_host);
        buf_put_uvarint(out, (uint32_t)m->rebalance_timeout_ms);
        buf_put_uvarint(out, (uint32_t)m->session_timeout_ms);
        buf_put_uvarint(out, m->protocol_count);
        for (unsigned i = 0; i < m->protocol_count; i++) {
            put_text(out, m->protocols[i].name);
            buf_put_lslice(out, buf_slice(&m->protocols[i].metadata));
        }
        buf_put_lslice(out, buf_slice(&m->assignment));
    }
}

static char *text_or_empty(char *s)
{
    return s != NULL ? s : mem_strdup("");
}

static void decode_member(struct group *g, struct reader *r)
{
    struct group_member *m = mem_zalloc(sizeof(*m));
    uint64_t n;

    m->id = text_or_empty(read_text(r));
    m->instance = read_text(r);
    m->client_id = text_or_empty(read_text(r));
    m->client_host = text_or_empty(read_text(r));
    m->rebalance_timeout_ms = (int32_t)reader_uvarint(r);
    m->session_timeout_ms = (int32_t)reader_uvarint(r);
    n = reader_uvarint(r);
    if (n > reader_left(r)) {
        r->bad = 1;
        n = 0;
    }
    m->protocols = mem_calloc((size_t)n + 1, sizeof(*m->protocols));
    for (; m->protocol_count < n && !r->bad; m->protocol_count++) {
        m->protocols[m->protocol_count].name = text_or_empty(read_text(r));
        buf_put_slice(&m->protocols[m->protocol_count].metadata, reader_lslice(r));
    }
    buf_put_slice(&m->assignment, reader_lslice(r));
    m->synced = true;
    list_push_back(&g->members, &m->node);
    g->member_count++;
}

int group_decode(struct group *g, struct slice bytes)
{
    struct reader r = reader_of(bytes);
    uint64_t n;

    if (reader_u8(&r) != GROUP_FORMAT)
        return ERR_CORRUPT;
    g->generation = (int32_t)reader_be32(&r);
    g->protocol_type = read_text(&r);
    g->protocol = read_text(&r);
    g->leader = read_text(&r);
    g->empty_since_ms = reader_varint(&r);
    for (n = reader_uvarint(&r); n > 0 && !r.bad; n--)
        decode_member(g, &r);
    if (r.bad || reader_left(&r) != 0)
        return ERR_CORRUPT;
    g->state = g->member_count == 0 ? GROUP_EMPTY : GROUP_STABLE;
    return 0;
}

/* ---- the store ---------------------------------------------------------------------------------------- */

/* "group:<id>" in a small buffer or, for a long id, on the heap. */
struct group_key {
    char small[192];
    char *large;
    struct slice key;
};

static struct slice key_of(struct group_key *k, struct slice id)
{
    static const char prefix[] = "group:";
    size_t plen = sizeof(prefix) - 1;
    char *p = k->small;

    k->large = NULL;
    if (plen + id.len > sizeof(k->small))
        p = k->large = mem_alloc(plen + id.len);
    memcpy(p, prefix, plen);
    if (id.len != 0)
        memcpy(p + plen, id.data, id.len);
    k->key = slice_of(p, plen + id.len);
    return k->key;
}

static void key_fini(struct group_key *k)
{
    mem_free(k->large);
}

static struct group *load_stored(struct kv_ctx *c, struct groups *gs, struct slice id, struct slice stored,
                                 uint64_t now_ms)
{
    struct group *g = group_add(gs, id);

    (void)c;
    if (stored.data != NULL &&
        group_decode(g, stored) !=
            0) { /* a bug or damage the log's checksums did not see: its offsets still stand */
        diag_error("a consumer group's state cannot be read; its members must join anew", "group=\"%s\"",
                   g->id);
        group_remove(gs, g);
        g = group_add(gs, id);
    }
    LIST_FOREACH (n, &g->members)
        group_session_restart(LIST_ENTRY(n, struct group_member, node), now_ms);
    return g;
}

struct group *group_load(struct kv_ctx *c, struct groups *gs, struct slice id, uint64_t now_ms)
{
    struct group *g = group_find(gs, id);
    struct group_key k;
    struct slice stored = SLICE_NONE, copy = SLICE_NONE;
    int err;

    if (g != NULL)
        return g;
    key_of(&k, id);
    err = kv_hash_get(c, k.key, SLICE_LIT("m"), &stored);
    if (err == 0)
        copy = stored;
    if (err == 0 || kv_key_type(c, k.key) == KV_HASH)
        g = load_stored(c, gs, id, copy, now_ms);
    key_fini(&k);
    return g;
}

static void gather_id(struct slice key, enum kv_type type, void *arg)
{
    struct buf *ids = arg;

    if (type == KV_HASH && key.len > 6 && memcmp(key.data, "group:", 6) == 0)
        buf_put_lslice(ids, slice_of(key.data + 6, key.len - 6));
}

void group_load_all(struct kv_ctx *c, struct groups *gs, uint64_t now_ms)
{
    struct buf ids = {0};
    struct reader r;
    uint64_t cursor = 0;

    do
        cursor = kv_scan(c, cursor, 1000, gather_id, &ids);
    while (cursor != 0);
    r = reader_of(buf_slice(&ids));
    while (reader_left(&r) != 0)
        (void)group_load(c, gs, reader_lslice(&r), now_ms);
    buf_fini(&ids);
}

void group_save(struct kv_ctx *c, struct group *g, int64_t wall_ms)
{
    struct buf bytes = {0};
    struct group_key k;
    struct slice pair[2] = {SLICE_LIT("m")};
    uint64_t added;

    /* As Kafka has it: what a new coordinator goes on with is a generation that has its assignments, or none. Whoever joined a later one
     * is told that the generation is not known, and joins again. */
    if (!g->changed || g->state == GROUP_PREPARING || g->state == GROUP_COMPLETING)
        return;
    g->changed = false;
    if (g->member_count != 0)
        g->empty_since_ms = -1;
    else if (g->empty_since_ms < 0)
        g->empty_since_ms = wall_ms;
    group_encode(g, &bytes);
    pair[1] = buf_slice(&bytes);
    (void)kv_hash_set(c, key_of(&k, slice_str(g->id)), pair, 1, &added);
    key_fini(&k);
    buf_fini(&bytes);
}

void group_erase(struct kv_ctx *c, struct slice id)
{
    struct group_key k;

    (void)kv_key_del(c, key_of(&k, id));
    key_fini(&k);
}

/* ---- offsets ------------------------------------------------------------------------------------------ */

#define TOPIC_NAME_MAX 249

struct offset_field {
    uint8_t bytes[5 + TOPIC_NAME_MAX];
    struct slice field;
};

static struct slice field_of(struct offset_field *f, struct slice topic, uint32_t partition)
{
    size_t n = MIN_OF(topic.len, (size_t)TOPIC_NAME_MAX);

    f->bytes[0] = 'o';
    be32_put(f->bytes + 1, partition);
    if (n != 0)
        memcpy(f->bytes + 5, topic.data, n);
    f->field = slice_of(f->bytes, 5 + n);
    return f->field;
}

void group_offset_put(struct kv_ctx *c, struct slice group, struct slice topic, uint32_t partition,
                      const struct group_offset *o)
{
    struct offset_field f;
    struct group_key k;
    struct buf bytes = {0};
    struct slice pair[2];
    uint64_t added;

    buf_put_be64(&bytes, o->topic_id);
    buf_put_be64(&bytes, (uint64_t)o->offset);
    buf_put_be32(&bytes, (uint32_t)o->leader_epoch);
    buf_put_be64(&bytes, (uint64_t)o->commit_ms);
    buf_put_slice(&bytes, o->metadata);
    pair[0] = field_of(&f, topic, partition);
    pair[1] = buf_slice(&bytes);
    (void)kv_hash_set(c, key_of(&k, group), pair, 1, &added);
    key_fini(&k);
    buf_fini(&bytes);
}

static bool read_offset(struct slice value, struct group_offset *ret)
{
    struct reader r = reader_of(value);

    ret->topic_id = reader_be64(&r);
    ret->offset = (int64_t)reader_be64(&r);
    ret->leader_epoch = (int32_t)reader_be32(&r);
    ret->commit_ms = (int64_t)reader_be64(&r);
    ret->metadata = slice_of(r.p, reader_left(&r));
    return !r.bad;
}

bool group_offset_get(struct kv_ctx *c, struct slice group, struct slice topic, uint32_t partition,
                      struct group_offset *ret)
{
    struct offset_field f;
    struct group_key k;
    struct slice value;
    bool found = kv_hash_get(c, key_of(&k, group), field_of(&f, topic, partition), &value) == 0 &&
                 read_offset(value, ret);

    key_fini(&k);
    return found;
}

bool group_offset_delete(struct kv_ctx *c, struct slice group, struct slice topic, uint32_t partition)
{
    struct offset_field f;
    struct group_key k;
    struct slice field = field_of(&f, topic, partition);
    uint64_t removed = 0;

    (void)kv_hash_del(c, key_of(&k, group), &field, 1, &removed);
    key_fini(&k);
    return removed != 0;
}

struct offset_walk {
    void (*fn)(struct slice topic, uint32_t partition, const struct group_offset *o, void *arg);
    void *arg;
};

static void each_field(struct slice field, struct slice value, void *arg)
{
    struct offset_walk *w = arg;
    struct group_offset o;

    if (field.len < 5 || field.data[0] != 'o' || !read_offset(value, &o))
        return;
    w->fn(slice_of(field.data + 5, field.len - 5), be32_get(field.data + 1), &o, w->arg);
}

void group_offset_each(struct kv_ctx *c, struct slice group,
                       void (*fn)(struct slice topic, uint32_t partition, const struct group_offset *o,
                                  void *arg),
                       void *arg)
{
    struct offset_walk w = {fn, arg};
    struct group_key k;

    (void)kv_hash_each(c, key_of(&k, group), each_field, &w);
    key_fini(&k);
}
