/* A node: the loop that raft.h prescribes, over a simulated disk and network. */
#include "sim.h"

static uint64_t local(const struct world *w, const struct node *n)
{
    return w->now + n->clock_offset;
}

static void set_tick(struct node *n)
{
    uint64_t at = raft_deadline(n->r);

    n->tick_at = at == UINT64_MAX ? at : at - n->clock_offset;
}

static void disk_kick(struct world *w, struct node *n)
{
    uint64_t us;

    if (n->disk.busy != 0 || n->disk.n == 0)
        return;
    n->disk.busy = n->disk.n;
    us = w->p.disk_us + below(w, w->p.disk_jitter_us + 1);
    if (!w->calm && chance(w, w->p.slow_disk))
        us += below(w, 800000);
    world_push(w, w->now + us, EV_DISK, n, NULL);
}

void host_start(struct world *w, struct node *n)
{
    struct raft_recovered rec;
    struct raft_options o = {.self = n->self,
                             .seed = rand_u64(&w->rand),
                             .now_us = local(w, n),
                             .election_timeout_us = ELECTION_US,
                             .heartbeat_us = HEARTBEAT_US,
                             .window = 1 + (uint32_t)below(w, w->p.figure_8 ? 1 : w->p.stingy ? 2 : 8),
                             .append_bytes_max = w->p.figure_8 ? 1 : w->p.stingy ? 1 + (uint32_t)below(w, below(w, 2) == 0 ? 64 : 1) : 64 + (uint32_t)below(w, 1000),
                             .chunk_bytes = 16 + (uint32_t)below(w, 64)};

    CHECK(n->exists && !n->up);
    disk_recover(&n->disk, &rec);
    n->r = raft_new(&o, &rec);
    mem_free((void *)rec.entries);
    n->applied = rec.snapshot.index;
    n->hash = 0;
    if (n->applied != 0)
        memcpy(&n->hash, n->disk.snapshot.payload.data, 8);
    n->up = true;
    n->life++;
    n->saving = n->was_leader = false;
    n->paused_until = 0;
    n->restart_at = 0;
    set_tick(n);
    TRACE(w, "n%u starts: term %llu, log %llu..%llu", n->id, (unsigned long long)rec.term, (unsigned long long)raft_first_index(n->r),
          (unsigned long long)raft_last_index(n->r));
}

void host_crash(struct world *w, struct node *n)
{
    TRACE(w, "n%u dies, %zu writes under way", n->id, n->disk.n);
    w->crashes++;
    raft_free(n->r);
    n->r = NULL;
    n->up = false;
    n->life++;
    n->tick_at = UINT64_MAX;
    buf_clear(&n->recv);
    disk_crash(&n->disk, &w->rand);
}

void host_wipe(struct world *w, struct node *n)
{
    if (n->up)
        host_crash(w, n);
    disk_fini(&n->disk);
    disk_init(&n->disk);
    memset(n->self.uuid, 0, 16);
    be64_put(n->self.uuid, ++w->next_uuid);
    n->exists = true;
    TRACE(w, "n%u gets an empty disk", n->id);
}

/* ---- the update -------------------------------------------------------------------------------------------------------- */

static void persist(struct world *w, struct node *n, const struct raft_update *up)
{
    uint64_t prev_term;

    if (up->seq == 0)
        return;
    disk_submit(&n->disk, up);
    prev_term = up->entry_count == 0 ? 0 : raft_term_at(n->r, up->first_index - 1);
    for (size_t i = 0; i < up->entry_count; i++) {
        check_appended(w, n, up->first_index + i, &up->entries[i], prev_term);
        prev_term = up->entries[i].term;
    }
}

static void take_chunk(struct node *n, const struct raft_chunk *c)
{
    if (c->offset == 0)
        buf_clear(&n->recv);
    CHECK(n->recv.len == c->offset);
    buf_put_slice(&n->recv, c->data);
    if (c->last)
        disk_install(&n->disk, &c->snapshot, &n->recv);
}

static bool fill_chunk(struct node *n, struct raft_message *m)
{
    const struct sim_snapshot *s = &n->disk.snapshot;

    if (s->s.index != m->snapshot.index)
        s = &n->disk.former;
    if (s->s.index != m->snapshot.index)
        return false;
    CHECK(m->offset + m->chunk <= s->payload.len);
    m->data = slice_of(s->payload.data + m->offset, m->chunk);
    return true;
}

static void apply(struct world *w, struct node *n, uint64_t commit)
{
    struct raft_event ev = {.type = RAFT_APPLIED};
    struct raft_entry e;

    if (n->applied >= commit)
        return;
    while (n->applied < commit) {
        CHECK(raft_entry(n->r, n->applied + 1, &e));
        n->hash = check_chain(n->hash, &e);
        n->applied++;
        check_committed(w, n, n->applied, &e, n->hash);
    }
    ev.applied = n->applied;
    host_step(w, n, &ev);
}

static const char *const role_names[] = {"follower", "pre-candidate", "candidate", "leader"};

static void watch_role(struct world *w, struct node *n, const struct raft_update *up)
{
    if (!up->role_changed)
        return;
    TRACE(w, "n%u is %s in term %llu, leader %u", n->id, role_names[up->role], (unsigned long long)up->term, up->leader);
    if (up->role == RAFT_LEADER && (!n->was_leader || n->led_term != up->term)) {
        check_leader(w, n);
        n->led_term = up->term;
    }
    n->was_leader = up->role == RAFT_LEADER;
}

static void strand(struct world *w, struct node *n, const struct raft_update *up)
{
    unsigned confidant = (unsigned)below(w, NODES_MAX);

    if (w->calm || !up->role_changed || up->role != RAFT_LEADER || !chance(w, w->p.strand))
        return;
    TRACE(w, "n%u is stranded with n%u", n->id, confidant + 1);
    for (unsigned i = 0; i < w->node_n; i++)
        w->cut[n->id - 1][i] = i != confidant;
    world_push(w, w->now + below(w, 20000), EV_BOUNCE, n, NULL);
}

static void sharpen(struct world *w, struct node *n, const struct raft_update *up)
{
    if (!w->calm && (up->vote_changed || up->role_changed || up->truncate_from != 0) && chance(w, w->p.sharp))
        world_push(w, w->now + below(w, below(w, 3) != 0 ? 6000 : 50000), EV_BOUNCE, n, NULL);
}

int host_step(struct world *w, struct node *n, struct raft_event *ev)
{
    struct raft_update up;
    int err;

    ev->now_us = local(w, n);
    err = raft_step(n->r, ev, &up);
    if (err == ERR_CORRUPT)
        violation(w, n, "the core found a contradiction to what is committed");
    persist(w, n, &up);
    strand(w, n, &up);
    if (up.chunk != NULL)
        take_chunk(n, up.chunk);
    for (size_t i = 0; i < up.message_count; i++) {
        struct raft_message m = up.messages[i];

        if (m.type != RAFT_MSG_SNAPSHOT || fill_chunk(n, &m))
            net_send(w, n, &m);
    }
    for (size_t i = 0; i < up.read_count; i++)
        check_read_end(w, n, &up.reads[i]);
    watch_role(w, n, &up);
    sharpen(w, n, &up);
    apply(w, n, up.commit);
    disk_kick(w, n);
    set_tick(n);
    return err;
}

/* ---- what happens to a node ------------------------------------------------------------------------------------------------ */

static const char *const message_names[] = {"?", "pre-vote", "pre-vote answer", "vote", "vote answer", "append", "append answer", "snapshot", "snapshot answer", "timeout-now"};

static void trace_message(struct world *w, const struct node *n, const struct raft_message *m)
{
    TRACE(w, "n%u <- n%u %s term %llu index %llu/%llu n %zu commit %llu %s hint %llu/%llu offset %llu", n->id, m->from.id, message_names[m->type],
          (unsigned long long)m->term, (unsigned long long)m->index, (unsigned long long)m->index_term, m->entry_count, (unsigned long long)m->commit,
          m->granted ? "granted" : "-", (unsigned long long)m->hint, (unsigned long long)m->hint_term, (unsigned long long)m->offset);
}

void host_deliver(struct world *w, struct node *n, const struct msg *m)
{
    struct raft_event ev = {.type = RAFT_MSG};

    CHECK(raft_decode(slice_of(m->bytes, m->len), &w->decoder) == 0);
    /* A piece of a snapshot that was damaged on its way: only its CRC tells. */
    if (w->decoder.m.data.len != 0 && !w->calm && chance(w, 10))
        ((uint8_t *)w->decoder.m.data.data)[0] ^= 0x40;
    if (w->trace)
        trace_message(w, n, &w->decoder.m);
    ev.message = &w->decoder.m;
    host_step(w, n, &ev);
}

static void load_snapshot(struct world *w, struct node *n, const struct op *op)
{
    n->applied = op->snapshot.s.index;
    memcpy(&n->hash, op->snapshot.payload.data, 8);
    check_snapshot(w, n, n->applied, op->snapshot.s.term, n->hash);
    w->installs++;
}

static void tell(struct world *w, struct node *n, const struct op *op)
{
    struct raft_event ev = {0};

    if (op->type == OP_SAVE) {
        ev.type = RAFT_SNAPSHOT_SAVED;
        ev.log_first = n->disk.base + 1;
        n->saving = false;
    } else {
        ev.type = RAFT_SNAPSHOT_INSTALLED;
        ev.err = op->err;
        if (op->err == 0)
            load_snapshot(w, n, op);
    }
    ev.snapshot = op->snapshot.s;
    host_step(w, n, &ev);
    if (ev.type == RAFT_SNAPSHOT_INSTALLED && ev.err == 0) {
        ev = (struct raft_event){.type = RAFT_APPLIED, .applied = n->applied};
        host_step(w, n, &ev);
    }
}

void host_disk_done(struct world *w, struct node *n)
{
    struct disk *d = &n->disk;
    struct raft_event ev = {.type = RAFT_PERSISTED};
    size_t group = d->busy;

    TRACE(w, "n%u disk: %zu writes durable", n->id, group);
    for (size_t i = 0; i < group; i++) {
        /* Steps may ask for more behind, but nothing is done before the group is through. */
        struct op *op = d->ops[0];

        disk_apply(d, op);
        memmove(d->ops, d->ops + 1, --d->n * sizeof(*d->ops));
        if (op->type == OP_WRITE) {
            ev.seq = op->seq;
            if (i + 1 == group || d->ops[0]->type != OP_WRITE)
                host_step(w, n, &ev);
        } else {
            tell(w, n, op);
        }
        op_free(op);
    }
    d->busy = 0;
    disk_kick(w, n);
}

void host_snapshot(struct world *w, struct node *n)
{
    struct raft_snapshot s = {.index = n->applied, .term = raft_term_at(n->r, n->applied)};
    struct buf payload = {0};
    size_t more = w->p.big_snapshots ? (size_t)below(w, 400) : 0;

    if (n->saving || n->applied == 0 || n->applied <= n->disk.snapshot.s.index)
        return;
    /* One behind another in the queue would be out of order. */
    for (size_t i = 0; i < n->disk.n; i++) {
        if (n->disk.ops[i]->type != OP_WRITE)
            return;
    }
    buf_put(&payload, &n->hash, 8);
    memset(buf_reserve(&payload, more), 7, more);
    buf_advance(&payload, more);
    s.config = raft_config_at(n->r, n->applied);
    s.size = payload.len;
    s.crc = crc32c(0, payload.data, payload.len);
    n->saving = true;
    TRACE(w, "n%u saves a snapshot at %llu", n->id, (unsigned long long)s.index);
    disk_save(&n->disk, &s, &payload);
    buf_fini(&payload);
    disk_kick(w, n);
}
