/* Messages as bytes: the payload of a bus frame, which has its own length and CRC.
 *
 *     u8 type | u8 flags (1 granted, 2 transfer) | from: be32 id, uuid | to: be32 id, uuid | uvarint term | then by type:
 *     PRE_VOTE, VOTE             uvarint index, index_term
 *     PRE_VOTE_RESP, VOTE_RESP   -
 *     APPEND                     uvarint index, index_term, commit, round, count, then an entry: uvarint term, u8 kind, lslice data
 *     APPEND_RESP                uvarint index, round, applied, hint, hint_term
 *     SNAPSHOT                   uvarint index, term, size, be32 crc, uvarint round, offset, lslice config, lslice data
 *     SNAPSHOT_RESP              uvarint index, term, round, offset
 *     TIMEOUT_NOW                -
 */
#include "cluster/raft/private.h"

#define FLAG_GRANTED 1u
#define FLAG_TRANSFER 2u

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static void put_node(struct buf *out, const struct raft_node *n)
{
    buf_put_be32(out, n->id);
    buf_put(out, n->uuid, 16);
}

static void put_append(struct buf *out, const struct raft_message *m)
{
    buf_put_uvarint(out, m->index);
    buf_put_uvarint(out, m->index_term);
    buf_put_uvarint(out, m->commit);
    buf_put_uvarint(out, m->round);
    buf_put_uvarint(out, m->entry_count);
    for (size_t i = 0; i < m->entry_count; i++) {
        const struct raft_entry *e = &m->entries[i];

        buf_put_uvarint(out, e->term);
        buf_put_u8(out, e->kind);
        buf_put_lslice(out, slice_of(e->data, e->len));
    }
}

static void put_snapshot(struct buf *out, const struct raft_message *m)
{
    buf_put_uvarint(out, m->snapshot.index);
    buf_put_uvarint(out, m->snapshot.term);
    buf_put_uvarint(out, m->snapshot.size);
    buf_put_be32(out, m->snapshot.crc);
    buf_put_uvarint(out, m->round);
    buf_put_uvarint(out, m->offset);
    buf_put_lslice(out, m->snapshot.config);
    buf_put_lslice(out, m->data);
}

void raft_encode(const struct raft_message *m, struct buf *out)
{
    size_t start = out->len;

    buf_put_u8(out, m->type);
    buf_put_u8(out, (uint8_t)((m->granted ? FLAG_GRANTED : 0) | (m->transfer ? FLAG_TRANSFER : 0)));
    put_node(out, &m->from);
    put_node(out, &m->to);
    buf_put_uvarint(out, m->term);
    switch (m->type) {
    case RAFT_MSG_PRE_VOTE:
    case RAFT_MSG_VOTE:
        buf_put_uvarint(out, m->index);
        buf_put_uvarint(out, m->index_term);
        break;
    case RAFT_MSG_APPEND:
        put_append(out, m);
        break;
    case RAFT_MSG_APPEND_RESP:
        buf_put_uvarint(out, m->index);
        buf_put_uvarint(out, m->round);
        buf_put_uvarint(out, m->applied);
        buf_put_uvarint(out, m->hint);
        buf_put_uvarint(out, m->hint_term);
        break;
    case RAFT_MSG_SNAPSHOT:
        put_snapshot(out, m);
        break;
    case RAFT_MSG_SNAPSHOT_RESP:
        buf_put_uvarint(out, m->snapshot.index);
        buf_put_uvarint(out, m->snapshot.term);
        buf_put_uvarint(out, m->round);
        buf_put_uvarint(out, m->offset);
        break;
    default:
        break;
    }
    CHECK(out->len - start <= RAFT_MESSAGE_MAX);
}

/* ---- reading ------------------------------------------------------------------------------------------------------ */

static bool read_node(struct reader *in, struct raft_node *n)
{
    struct slice uuid;

    n->id = reader_be32(in);
    uuid = reader_slice(in, 16);
    if (in->bad || n->id == 0)
        return false;
    memcpy(n->uuid, uuid.data, 16);
    return true;
}

static bool config_ok(struct slice config)
{
    struct raft_member *members;
    size_t n;

    if (raft_config_decode(config, &members, &n) < 0)
        return false;
    mem_free(members);
    return true;
}

static bool read_entry(struct reader *in, struct raft_entry *e)
{
    struct slice data;

    e->term = reader_uvarint(in);
    e->kind = reader_u8(in);
    data = reader_lslice(in);
    if (in->bad || e->term == 0 || e->kind > RAFT_ENTRY_CONFIG || data.len > RAFT_PROPOSAL_MAX)
        return false;
    e->data = data.data;
    e->len = (uint32_t)data.len;
    return e->kind != RAFT_ENTRY_CONFIG || config_ok(data);
}

static bool read_append(struct reader *in, struct raft_decoder *d)
{
    struct raft_message *m = &d->m;
    uint64_t term, n;

    m->index = reader_uvarint(in);
    m->index_term = reader_uvarint(in);
    m->commit = reader_uvarint(in);
    m->round = reader_uvarint(in);
    n = reader_uvarint(in);
    if (in->bad || n > reader_left(in) / 3 || (m->index == 0) != (m->index_term == 0) || m->index_term > m->term ||
        m->index > UINT64_MAX / 2)
        return false;
    if (n > d->cap) {
        d->cap = (size_t)n;
        d->entries = mem_realloc(d->entries, d->cap * sizeof(*d->entries));
    }
    term = m->index_term;
    for (size_t i = 0; i < n; i++) {
        /* Terms in a log never fall, and none is above its writer's. */
        if (!read_entry(in, &d->entries[i]) || d->entries[i].term < term || d->entries[i].term > m->term)
            return false;
        term = d->entries[i].term;
    }
    m->entries = d->entries;
    m->entry_count = (size_t)n;
    return true;
}

static bool read_snapshot(struct reader *in, struct raft_message *m)
{
    struct raft_snapshot *s = &m->snapshot;

    s->index = reader_uvarint(in);
    s->term = reader_uvarint(in);
    s->size = reader_uvarint(in);
    s->crc = reader_be32(in);
    m->round = reader_uvarint(in);
    m->offset = reader_uvarint(in);
    s->config = reader_lslice(in);
    m->data = reader_lslice(in);
    return !in->bad && s->index != 0 && s->term != 0 && s->term <= m->term && m->offset <= s->size &&
           m->data.len <= s->size - m->offset && config_ok(s->config);
}

static bool read_body(struct reader *in, struct raft_decoder *d)
{
    struct raft_message *m = &d->m;

    switch (m->type) {
    case RAFT_MSG_PRE_VOTE:
    case RAFT_MSG_VOTE:
        m->index = reader_uvarint(in);
        m->index_term = reader_uvarint(in);
        return m->index_term < m->term;
    case RAFT_MSG_APPEND:
        return read_append(in, d);
    case RAFT_MSG_APPEND_RESP:
        m->index = reader_uvarint(in);
        m->round = reader_uvarint(in);
        m->applied = reader_uvarint(in);
        m->hint = reader_uvarint(in);
        m->hint_term = reader_uvarint(in);
        return true;
    case RAFT_MSG_SNAPSHOT:
        return read_snapshot(in, m);
    case RAFT_MSG_SNAPSHOT_RESP:
        m->snapshot.index = reader_uvarint(in);
        m->snapshot.term = reader_uvarint(in);
        m->round = reader_uvarint(in);
        m->offset = reader_uvarint(in);
        return true;
    case RAFT_MSG_PRE_VOTE_RESP:
    case RAFT_MSG_VOTE_RESP:
    case RAFT_MSG_TIMEOUT_NOW:
        return true;
    default:
        return false;
    }
}

int raft_decode(struct slice in, struct raft_decoder *d)
{
    struct reader rd = reader_of(in);
    struct raft_message *m = &d->m;
    uint8_t flags;

    if (in.len > RAFT_MESSAGE_MAX)
        return ERR_MALFORMED;
    memset(m, 0, sizeof(*m));
    m->type = reader_u8(&rd);
    flags = reader_u8(&rd);
    m->granted = flags & FLAG_GRANTED;
    m->transfer = flags & FLAG_TRANSFER;
    if (flags > (FLAG_GRANTED | FLAG_TRANSFER) || !read_node(&rd, &m->from) || !read_node(&rd, &m->to))
        return ERR_MALFORMED;
    m->term = reader_uvarint(&rd);
    /* A peer that names a term near the end of numbers would end all elections. */
    if (m->term > UINT64_MAX / 2 || !read_body(&rd, d) || rd.bad || reader_left(&rd) != 0)
        return ERR_MALFORMED;
    return 0;
}

void raft_decoder_fini(struct raft_decoder *d)
{
    mem_free(d->entries);
    *d = (struct raft_decoder){0};
}
