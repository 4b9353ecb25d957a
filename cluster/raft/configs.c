/* Configurations: the codec, and those the log holds. A server uses the latest in its log, committed or not (dissertation 4.1); truncation rolls back to the one before. */
#include "cluster/raft/private.h"

void raft_config_encode(const struct raft_member *members, size_t n, struct buf *out)
{
    CHECK(n <= RAFT_MEMBERS_MAX);
    buf_put_uvarint(out, n);
    for (size_t i = 0; i < n; i++) {
        CHECK(members[i].address.len <= RAFT_ADDRESS_MAX && (i == 0 || members[i - 1].node.id < members[i].node.id));
        buf_put_be32(out, members[i].node.id);
        buf_put(out, members[i].node.uuid, 16);
        buf_put_u8(out, members[i].voter);
        buf_put_lslice(out, members[i].address);
    }
}

static bool read_member(struct reader *in, uint32_t above, struct raft_member *m)
{
    struct slice uuid;
    uint8_t voter;

    m->node.id = reader_be32(in);
    uuid = reader_slice(in, 16);
    voter = reader_u8(in);
    m->address = reader_lslice(in);
    if (in->bad || m->node.id <= above || voter > 1 || m->address.len > RAFT_ADDRESS_MAX)
        return false;
    memcpy(m->node.uuid, uuid.data, 16);
    m->voter = voter;
    return true;
}

int raft_config_decode(struct slice in, struct raft_member **ret_members, size_t *ret_n)
{
    struct reader rd = reader_of(in);
    uint64_t n = reader_uvarint(&rd);
    struct raft_member *members;
    uint32_t above = 0;

    if (rd.bad || n > RAFT_MEMBERS_MAX || n > reader_left(&rd) / 22)
        return ERR_MALFORMED;
    members = mem_calloc(n == 0 ? 1 : (size_t)n, sizeof(*members));
    for (size_t i = 0; i < n; i++) {
        if (!read_member(&rd, above, &members[i])) {
            mem_free(members);
            return ERR_MALFORMED;
        }
        above = members[i].node.id;
    }
    if (reader_left(&rd) != 0) {
        mem_free(members);
        return ERR_MALFORMED;
    }
    *ret_members = members;
    *ret_n = (size_t)n;
    return 0;
}

static void config_fini(struct config *c)
{
    buf_fini(&c->encoded);
    mem_free(c->members);
}

int configs_push(struct configs *c, uint64_t index, struct slice encoded)
{
    struct config new = {.index = index};
    int err;

    buf_put_slice(&new.encoded, encoded);
    err = raft_config_decode(buf_slice(&new.encoded), &new.members, &new.n);
    if (err < 0) {
        buf_fini(&new.encoded);
        return err;
    }
    if (c->n == c->cap) {
        c->cap = c->cap == 0 ? 4 : 2 * c->cap;
        c->v = mem_realloc(c->v, c->cap * sizeof(*c->v));
    }
    c->v[c->n++] = new;
    return 0;
}

bool configs_truncate(struct configs *c, uint64_t from)
{
    bool changed = false;

    while (c->n > 0 && c->v[c->n - 1].index >= from) {
        config_fini(&c->v[--c->n]);
        changed = true;
    }
    return changed;
}

void configs_drop_below(struct configs *c, uint64_t index)
{
    size_t k = 0;

    while (k + 1 < c->n && c->v[k + 1].index <= index)
        config_fini(&c->v[k++]);
    if (k != 0)
        memmove(c->v, c->v + k, (c->n - k) * sizeof(*c->v));
    c->n -= k;
}

const struct config *configs_now(const struct configs *c)
{
    static const struct config none;

    return c->n == 0 ? &none : &c->v[c->n - 1];
}

const struct config *configs_at(const struct configs *c, uint64_t index)
{
    static const struct config none;

    for (size_t i = c->n; i > 0; i--) {
        if (c->v[i - 1].index <= index)
            return &c->v[i - 1];
    }
    return &none;
}

void configs_fini(struct configs *c)
{
    configs_truncate(c, 0);
    mem_free(c->v);
    *c = (struct configs){0};
}
