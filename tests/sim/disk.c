/* A disk: what is durable, and a queue of what was asked. */
#include "sim.h"

static void entries_put(struct sim_entries *l, const struct raft_entry *e)
{
    struct sim_entry *s;

    if (l->n == l->cap) {
        l->cap = l->cap == 0 ? 4 : 2 * l->cap;
        l->v = mem_realloc(l->v, l->cap * sizeof(*l->v));
    }
    s = &l->v[l->n++];
    *s = (struct sim_entry){.term = e->term, .kind = e->kind, .len = e->len};
    if (e->len == 8)
        memcpy(&s->value, e->data, 8);
    else if (e->len != 0) {
        s->blob = mem_alloc(e->len);
        memcpy(s->blob, e->data, e->len);
    }
}

static struct raft_entry entry_of(const struct sim_entry *s)
{
    return (struct raft_entry){
        .term = s->term, .kind = s->kind, .len = s->len, .data = s->blob != NULL ? s->blob : (const uint8_t *)&s->value};
}

static void entries_cut(struct sim_entries *l, size_t n)
{
    while (l->n > n)
        mem_free(l->v[--l->n].blob);
}

static void entries_free(struct sim_entries *l)
{
    entries_cut(l, 0);
    mem_free(l->v);
    *l = (struct sim_entries){0};
}

static void snapshot_free(struct sim_snapshot *s)
{
    buf_fini(&s->config);
    buf_fini(&s->payload);
    *s = (struct sim_snapshot){0};
}

static void snapshot_copy(struct sim_snapshot *to, const struct raft_snapshot *s, struct slice payload)
{
    *to = (struct sim_snapshot){.s = *s};
    buf_put_slice(&to->config, s->config);
    buf_put_slice(&to->payload, payload);
    to->s.config = buf_slice(&to->config);
}

void disk_init(struct disk *d)
{
    *d = (struct disk){0};
}

void op_free(struct op *op)
{
    entries_free(&op->entries);
    snapshot_free(&op->snapshot);
    mem_free(op);
}

void disk_fini(struct disk *d)
{
    entries_free(&d->log);
    snapshot_free(&d->snapshot);
    snapshot_free(&d->former);
    for (size_t i = 0; i < d->n; i++)
        op_free(d->ops[i]);
    mem_free(d->ops);
    *d = (struct disk){0};
}

void disk_form(struct disk *d, struct slice config)
{
    entries_put(&d->log, &(struct raft_entry){.term = 1, .kind = RAFT_ENTRY_CONFIG, .data = config.data, .len = (uint32_t)config.len});
    d->term = 1;
}

static struct op *push(struct disk *d, uint8_t type)
{
    struct op *op = mem_zalloc(sizeof(*op));

    if (d->n == d->cap) {
        d->cap = d->cap == 0 ? 8 : 2 * d->cap;
        d->ops = mem_realloc(d->ops, d->cap * sizeof(*d->ops));
    }
    op->type = type;
    d->ops[d->n++] = op;
    return op;
}

void disk_submit(struct disk *d, const struct raft_update *up)
{
    struct op *op = push(d, OP_WRITE);

    op->seq = up->seq;
    op->vote_changed = up->vote_changed;
    op->term = up->term;
    op->vote = up->vote;
    op->truncate_from = up->truncate_from;
    op->first = up->first_index;
    for (size_t i = 0; i < up->entry_count; i++)
        entries_put(&op->entries, &up->entries[i]);
}

void disk_save(struct disk *d, const struct raft_snapshot *s, const struct buf *payload)
{
    snapshot_copy(&push(d, OP_SAVE)->snapshot, s, buf_slice(payload));
}

void disk_install(struct disk *d, const struct raft_snapshot *s, const struct buf *payload)
{
    struct op *op = push(d, OP_INSTALL);

    snapshot_copy(&op->snapshot, s, buf_slice(payload));
    if (payload->len != s->size || crc32c(0, payload->data, payload->len) != s->crc)
        op->err = ERR_CORRUPT;
}

static void write_log(struct disk *d, const struct op *op, size_t entries)
{
    if (op->truncate_from != 0)
        entries_cut(&d->log, (size_t)(op->truncate_from - d->base - 1));
    if (entries != 0)
        CHECK(op->first == d->base + d->log.n + 1);
    for (size_t i = 0; i < entries; i++) {
        struct raft_entry e = entry_of(&op->entries.v[i]);

        entries_put(&d->log, &e);
    }
}

static void write_vote(struct disk *d, const struct op *op)
{
    if (op->vote_changed) {
        d->term = op->term;
        d->vote = op->vote;
    }
}

static void replace_snapshot(struct disk *d, const struct op *op)
{
    snapshot_free(&d->former);
    d->former = d->snapshot;
    snapshot_copy(&d->snapshot, &op->snapshot.s, buf_slice(&op->snapshot.payload));
}

static void drop_log_below(struct disk *d, uint64_t first)
{
    size_t k = (size_t)(first - d->base - 1);

    if (k == 0)
        return;
    d->base_term = d->log.v[k - 1].term;
    for (size_t i = 0; i < k; i++)
        mem_free(d->log.v[i].blob);
    memmove(d->log.v, d->log.v + k, (d->log.n - k) * sizeof(*d->log.v));
    d->log.n -= k;
    d->base += k;
}

void disk_apply(struct disk *d, const struct op *op)
{
    const struct raft_snapshot *s = &op->snapshot.s;

    switch (op->type) {
    case OP_WRITE:
        write_vote(d, op);
        write_log(d, op, op->entries.n);
        break;
    case OP_SAVE:
        replace_snapshot(d, op);
        /* A few entries stay behind it, as in raft_store.h. */
        drop_log_below(d, MAX_OF(d->base + 1, s->index > 5 ? s->index - 4 : 1));
        break;
    default:
        if (op->err < 0)
            break;
        replace_snapshot(d, op);
        entries_cut(&d->log, 0);
        d->base = s->index;
        d->base_term = s->term;
    }
}

void disk_crash(struct disk *d, struct rand *rand)
{
    size_t votes = (size_t)rand_below(rand, d->n + 1), logs = (size_t)rand_below(rand, d->n + 1);

    /* Vote and log are different files: one may have come further than the other. */
    for (size_t i = 0; i < d->n; i++) {
        struct op *op = d->ops[i];

        if (op->type == OP_WRITE && i < votes)
            write_vote(d, op);
        if (i > logs)
            continue;
        if (op->type != OP_WRITE) {
            if (i < logs)
                disk_apply(d, op);
        } else if (i < logs) {
            write_log(d, op, op->entries.n);
        } else if (op->entries.n != 0 || op->truncate_from != 0) {
            if (rand_below(rand, 2) == 0) /* torn */
                write_log(d, op, (size_t)rand_below(rand, op->entries.n + 1));
        }
    }
    for (size_t i = 0; i < d->n; i++)
        op_free(d->ops[i]);
    d->n = d->busy = 0;
}

void disk_recover(const struct disk *d, struct raft_recovered *rec)
{
    struct raft_entry *v = mem_calloc(d->log.n == 0 ? 1 : d->log.n, sizeof(*v));

    for (size_t i = 0; i < d->log.n; i++)
        v[i] = entry_of(&d->log.v[i]);
    *rec = (struct raft_recovered){.term = d->term,
                                   .vote = d->vote,
                                   .snapshot = d->snapshot.s,
                                   .base = d->base,
                                   .base_term = d->base_term,
                                   .entries = v,
                                   .entry_count = d->log.n};
}
