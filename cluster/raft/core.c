/* Life of a core, the step, and the book of what is durable. */
#include "cluster/raft/private.h"

/* ---- life --------------------------------------------------------------------------------------------------------- */

static void set_defaults(struct raft_options *o)
{
    if (o->election_timeout_us == 0)
        o->election_timeout_us = 300000;
    if (o->heartbeat_us == 0)
        o->heartbeat_us = 30000;
    if (o->append_bytes_max == 0 || o->append_bytes_max > RAFT_PROPOSAL_MAX)
        o->append_bytes_max = 256u << 10;
    if (o->window == 0)
        o->window = 32;
    if (o->window > WINDOW_MAX)
        o->window = WINDOW_MAX;
    if (o->chunk_bytes == 0 || o->chunk_bytes > 512u << 10)
        o->chunk_bytes = 256u << 10;
    if (o->uncommitted_bytes_max == 0)
        o->uncommitted_bytes_max = 64u << 20;
}

bool raft_has_config(const struct raft_recovered *rec)
{
    if (rec->snapshot.config.len != 0)
        return true;
    for (size_t i = 0; i < rec->entry_count; i++) {
        if (rec->entries[i].kind == RAFT_ENTRY_CONFIG)
            return true;
    }
    return false;
}

struct raft *raft_new(const struct raft_options *o, const struct raft_recovered *rec)
{
    struct raft *r = mem_zalloc(sizeof(*r));

    CHECK(o->self.id != 0 && rec->base <= rec->snapshot.index);
    r->o = *o;
    set_defaults(&r->o);
    r->now = o->now_us;
    rand_seed(&r->rand, o->seed);
    r->term = rec->term;
    r->vote = rec->vote;
    entries_reset(&r->log, rec->base, rec->base_term);
    if (rec->snapshot.index != 0) {
        snap_set(&r->snap, &rec->snapshot);
        if (rec->snapshot.config.len != 0)
            CHECK(configs_push(&r->configs, rec->snapshot.index, rec->snapshot.config) == 0);
    }
    for (size_t i = 0; i < rec->entry_count; i++) {
        const struct raft_entry *e = &rec->entries[i];
        uint64_t index = rec->base + i + 1;

        entries_append(&r->log, e->term, e->kind, slice_of(e->data, e->len));
        if (e->kind == RAFT_ENTRY_CONFIG && index > rec->snapshot.index &&
            configs_push(&r->configs, index, slice_of(e->data, e->len)) < 0)
            r->failed = ERR_CORRUPT;
    }
    CHECK(entries_last(&r->log) >= rec->snapshot.index);
    /* Before there was a group of several no vote was kept; the log's term is one this node has seen. */
    if (r->term < entries_last_term(&r->log)) {
        r->term = entries_last_term(&r->log);
        r->vote = (struct raft_node){0};
    }
    r->persisted = entries_last(&r->log);
    r->persisted_term = r->term;
    r->persisted_vote = r->vote;
    r->commit = r->applied = r->verified = rec->snapshot.index;
    raft_peers_rebuild(r);
    election_reset_timer(r);
    if (raft_is_voter(r) && raft_quorum(r) == 1)
        r->election_at = r->now; /* nobody to wait for */
    return r;
}

static void snap_fini(struct snap *s)
{
    buf_fini(&s->config);
}

void raft_free(struct raft *r)
{
    if (r == NULL)
        return;
    entries_fini(&r->log);
    configs_fini(&r->configs);
    snap_fini(&r->snap);
    snap_fini(&r->former);
    snap_fini(&r->recv);
    mem_free(r->out);
    mem_free(r->peers);
    mem_free(r->reads);
    mem_free(r->messages);
    mem_free(r->answers);
    mem_free(r);
}

/* ---- members -------------------------------------------------------------------------------------------------------- */

struct peer *raft_peer(struct raft *r, uint32_t id)
{
    for (size_t i = 0; i < r->peer_n; i++) {
        if (r->peers[i].node.id == id)
            return &r->peers[i];
    }
    return NULL;
}

struct peer *raft_peer_exact(struct raft *r, const struct raft_node *node)
{
    struct peer *p = raft_peer(r, node->id);

    return p != NULL && node_eq(&p->node, node) ? p : NULL;
}

bool raft_is_voter(const struct raft *r)
{
    struct peer *p = raft_peer_exact((struct raft *)r, &r->o.self);

    return p != NULL && p->voter;
}

size_t raft_quorum(const struct raft *r)
{
    size_t voters = 0;

    for (size_t i = 0; i < r->peer_n; i++)
        voters += r->peers[i].voter;
    return voters / 2 + 1;
}

/* Brings the peers in line with the configuration in force; who stays keeps what is known of it. */
void raft_peers_rebuild(struct raft *r)
{
    const struct config *c = configs_now(&r->configs);
    struct peer *old = r->peers;
    size_t old_n = r->peer_n;

    r->peers = mem_calloc(c->n == 0 ? 1 : c->n, sizeof(*r->peers));
    r->peer_n = c->n;
    for (size_t i = 0; i < c->n; i++) {
        struct peer *p = &r->peers[i];
        bool known = false;

        for (size_t k = 0; k < old_n && !known; k++) {
            known = node_eq(&old[k].node, &c->members[i].node);
            if (known)
                *p = old[k];
        }
        p->node = c->members[i].node;
        p->voter = c->members[i].voter;
        if (!known && r->role == RAFT_LEADER)
            replicate_peer_reset(r, p);
    }
    mem_free(old);
}

uint64_t raft_majority_of(struct raft *r, uint64_t (*value)(const struct raft *, const struct peer *))
{
    uint64_t few[16], *v = few, result = 0;
    size_t n = 0;

    if (r->peer_n > ARRAY_LEN(few))
        v = mem_alloc(r->peer_n * sizeof(*v));
    for (size_t i = 0; i < r->peer_n; i++) {
        uint64_t x;
        size_t k;

        if (!r->peers[i].voter)
            continue;
        x = value(r, &r->peers[i]);
        for (k = n++; k > 0 && v[k - 1] < x; k--)
            v[k] = v[k - 1];
        v[k] = x;
    }
    if (n != 0)
        result = v[n / 2];
    if (v != few)
        mem_free(v);
    return result;
}

/* ---- the update -------------------------------------------------------------------------------------------------------- */

struct raft_message *raft_send(struct raft *r, uint8_t type, const struct raft_node *to)
{
    struct raft_message *m;

    if (r->message_n == r->message_cap) {
        r->message_cap = r->message_cap == 0 ? 16 : 2 * r->message_cap;
        r->messages = mem_realloc(r->messages, r->message_cap * sizeof(*r->messages));
    }
    m = &r->messages[r->message_n++];
    memset(m, 0, sizeof(*m));
    m->type = type;
    m->from = r->o.self;
    m->to = *to;
    m->term = r->term;
    return m;
}

/* A leader of the same term, or an entry at or below the commit index that differs: some promise was broken, and going on would spread it. */
int raft_contradiction(struct raft *r)
{
    r->failed = ERR_CORRUPT;
    return r->failed;
}

void raft_append_entry(struct raft *r, uint64_t term, uint8_t kind, struct slice data)
{
    uint64_t index = entries_last(&r->log) + 1;

    entries_append(&r->log, term, kind, data);
    if (r->appended == 0)
        r->appended = index;
    if (kind == RAFT_ENTRY_CONFIG) {
        if (configs_push(&r->configs, index, data) < 0)
            r->failed = ERR_CORRUPT;
        else
            raft_peers_rebuild(r);
    }
}

void raft_drop_from(struct raft *r, uint64_t from)
{
    CHECK(from > r->commit || RAFT_BUG != 0);
    CHECK(r->appended == 0 && r->truncated == 0); /* once a step, before what it appends */
    entries_truncate(&r->log, from);
    r->truncated = from;
    if (configs_truncate(&r->configs, from))
        raft_peers_rebuild(r);
    /* Writes on their way to the disk may still bring entries that are no longer the log. */
    r->persisted = MIN_OF(r->persisted, from - 1);
    for (size_t i = 0; i < r->out_n; i++) {
        struct outstanding *o = &r->out[r->out_head + i];

        o->last = MIN_OF(o->last, from - 1);
    }
}

static void push_outstanding(struct raft *r)
{
    if (r->out_head + r->out_n == r->out_cap) {
        if (r->out_head > r->out_cap / 2) {
            memmove(r->out, r->out + r->out_head, r->out_n * sizeof(*r->out));
            r->out_head = 0;
        } else {
            r->out_cap = r->out_cap == 0 ? 16 : 2 * r->out_cap;
            r->out = mem_realloc(r->out, r->out_cap * sizeof(*r->out));
        }
    }
    r->out[r->out_head + r->out_n++] = (struct outstanding){r->seq, entries_last(&r->log), r->term, r->vote};
}

static void persisted(struct raft *r, uint64_t seq)
{
    uint64_t before = r->persisted;

    while (r->out_n > 0 && r->out[r->out_head].seq <= seq) {
        const struct outstanding *o = &r->out[r->out_head];

        r->persisted = o->last;
        r->persisted_term = o->term;
        r->persisted_vote = o->vote;
        r->out_head++;
        r->out_n--;
    }
    election_persisted(r);
    if (r->role == RAFT_LEADER)
        replicate_commit(r);
    else if (r->persisted > before && r->leader != 0)
        r->respond = true;
}

static void fill_update(struct raft *r, struct raft_update *up)
{
    if (r->vote_changed || r->truncated != 0 || r->appended != 0) {
        r->seq++;
        push_outstanding(r);
        up->seq = r->seq;
        up->vote_changed = r->vote_changed;
        up->truncate_from = r->truncated;
        up->vote = r->vote;
        if (RAFT_BUG == BUG_VOTE_NOT_PERSISTED)
            up->vote = (struct raft_node){0};
        if (r->appended != 0) {
            up->first_index = r->appended;
            up->entries = entries_at(&r->log, r->appended);
            up->entry_count = (size_t)(entries_last(&r->log) - r->appended + 1);
        }
    }
    up->term = r->term;
    up->messages = r->messages;
    up->message_count = r->message_n;
    up->chunk = r->have_chunk ? &r->chunk : NULL;
    up->commit = r->commit;
    up->reads = r->answers;
    up->read_count = r->answer_n;
    up->progress = r->progress;
    up->transfer_failed = r->transfer_failed;
    up->role = (uint8_t)r->role;
    up->leader = r->leader;
}

/* ---- the step -------------------------------------------------------------------------------------------------------------- */

static int recv(struct raft *r, const struct raft_message *m)
{
    if (!node_eq(&m->to, &r->o.self) || m->from.id == r->o.self.id)
        return 0;
    switch (m->type) {
    case RAFT_MSG_PRE_VOTE:
    case RAFT_MSG_VOTE:
        election_recv_request(r, m, m->type == RAFT_MSG_PRE_VOTE);
        return 0;
    case RAFT_MSG_PRE_VOTE_RESP:
    case RAFT_MSG_VOTE_RESP:
        election_recv_answer(r, m, m->type == RAFT_MSG_PRE_VOTE_RESP);
        return 0;
    case RAFT_MSG_APPEND:
    case RAFT_MSG_SNAPSHOT:
    case RAFT_MSG_TIMEOUT_NOW:
        if (m->term < r->term) {
            /* The sender was deposed and may not know; its next term begins above ours. */
            if (m->type != RAFT_MSG_TIMEOUT_NOW)
                raft_send(r, RAFT_MSG_APPEND_RESP, &m->from);
            return 0;
        }
        if (m->term == r->term && r->role == RAFT_LEADER)
            return raft_contradiction(r);
        if (m->type == RAFT_MSG_TIMEOUT_NOW) {
            if (m->term == r->term)
                election_campaign(r, true);
            return 0;
        }
        follow_heard(r, m);
        return m->type == RAFT_MSG_APPEND ? follow_recv_append(r, m) : snapshot_recv(r, m);
    case RAFT_MSG_APPEND_RESP:
    case RAFT_MSG_SNAPSHOT_RESP:
        if (m->term > r->term)
            election_follow(r, m->term, NULL);
        if (m->term != r->term || r->role != RAFT_LEADER)
            return 0;
        if (m->type == RAFT_MSG_APPEND_RESP)
            replicate_recv(r, m);
        else
            snapshot_recv_answer(r, m);
        return 0;
    default:
        return 0;
    }
}

static int propose(struct raft *r, const struct slice *payloads, size_t n)
{
    if (r->role != RAFT_LEADER)
        return ERR_NOT_LEADER;
    if (r->transfer_to != 0)
        return ERR_BUSY;
    for (size_t i = 0; i < n; i++) {
        if (payloads[i].len > RAFT_PROPOSAL_MAX)
            return ERR_TOO_LARGE;
    }
    if (entries_bytes_above(&r->log, r->commit) > r->o.uncommitted_bytes_max)
        return ERR_LIMIT;
    for (size_t i = 0; i < n; i++)
        raft_append_entry(r, r->term, RAFT_ENTRY_COMMAND, payloads[i]);
    return 0;
}

static void applied(struct raft *r, uint64_t index)
{
    struct peer *self;

    CHECK(index <= r->commit);
    if (index <= r->applied)
        return;
    r->applied = index;
    if (r->role != RAFT_LEADER) {
        r->respond |= r->leader != 0;
        return;
    }
    self = raft_peer_exact(r, &r->o.self);
    if (self != NULL)
        self->applied = index;
    r->progress = true;
}

static int dispatch(struct raft *r, const struct raft_event *ev)
{
    switch (ev->type) {
    case RAFT_TICK:
        if (r->role == RAFT_LEADER)
            replicate_tick(r);
        else
            election_tick(r);
        return 0;
    case RAFT_MSG:
        return recv(r, ev->message);
    case RAFT_PERSISTED:
        persisted(r, ev->seq);
        return 0;
    case RAFT_SNAPSHOT_SAVED:
        snapshot_saved(r, &ev->snapshot, ev->log_first);
        return 0;
    case RAFT_SNAPSHOT_INSTALLED:
        snapshot_installed(r, &ev->snapshot, ev->err);
        return 0;
    case RAFT_APPLIED:
        applied(r, ev->applied);
        return 0;
    case RAFT_PROPOSE:
        return propose(r, ev->payloads, ev->payload_count);
    case RAFT_CHANGE:
        return change_propose(r, ev->change, &ev->member);
    case RAFT_TRANSFER:
        return change_transfer(r, ev->target);
    case RAFT_READ:
        return read_begin(r, ev->ctx);
    case RAFT_LEADER_GONE:
        election_leader_gone(r, ev->target);
        return 0;
    default:
        UNREACHABLE();
    }
}

int raft_step(struct raft *r, const struct raft_event *ev, struct raft_update *up)
{
    enum raft_role role = r->role;
    uint32_t leader = r->leader;
    uint64_t term = r->term;
    int err;

    *up = (struct raft_update){0};
    r->message_n = r->answer_n = 0;
    r->vote_changed = r->progress = r->transfer_failed = r->have_chunk = false;
    r->truncated = r->appended = 0;
    if (r->failed < 0)
        return r->failed;
    r->now = MAX_OF(r->now, ev->now_us);
    err = dispatch(r, ev);
    if (r->failed < 0)
        return r->failed;
    if (r->role == RAFT_LEADER && r->appended != 0)
        replicate_all(r, false);
    follow_respond(r);
    fill_update(r, up);
    up->role_changed = role != r->role || leader != r->leader || term != r->term;
    return err;
}

/* ---- looking ----------------------------------------------------------------------------------------------------------------- */

uint64_t raft_deadline(const struct raft *r)
{
    if (r->failed < 0)
        return UINT64_MAX;
    if (r->role != RAFT_LEADER)
        return r->election_at;
    if (raft_is_alone(r))
        return UINT64_MAX;
    return r->transfer_to != 0 ? MIN_OF(r->heartbeat_at, r->transfer_until) : r->heartbeat_at;
}

bool raft_entry(const struct raft *r, uint64_t index, struct raft_entry *ret)
{
    if (index <= r->log.base || index > entries_last(&r->log))
        return false;
    *ret = *entries_at(&r->log, index);
    return true;
}

uint64_t raft_term_at(const struct raft *r, uint64_t index)
{
    return entries_term(&r->log, index);
}

uint64_t raft_first_index(const struct raft *r)
{
    return r->log.base + 1;
}

uint64_t raft_last_index(const struct raft *r)
{
    return entries_last(&r->log);
}

uint64_t raft_log_bytes_above(const struct raft *r, uint64_t index)
{
    return entries_bytes_above(&r->log, index);
}

uint64_t raft_commit(const struct raft *r)
{
    return r->commit;
}

uint64_t raft_current_term(const struct raft *r)
{
    return r->term;
}

enum raft_role raft_role(const struct raft *r)
{
    return r->role;
}

uint32_t raft_leader(const struct raft *r)
{
    return r->leader;
}

bool raft_is_alone(const struct raft *r)
{
    return r->peer_n == 1 && raft_is_voter(r);
}

struct slice raft_config(const struct raft *r)
{
    return buf_slice(&configs_now(&r->configs)->encoded);
}

struct slice raft_config_at(const struct raft *r, uint64_t index)
{
    return buf_slice(&configs_at(&r->configs, index)->encoded);
}

uint64_t raft_config_index(const struct raft *r)
{
    return configs_now(&r->configs)->index;
}

size_t raft_peers(const struct raft *r, struct raft_peer_status *ret, size_t max)
{
    size_t n = MIN_OF(max, r->peer_n);

    for (size_t i = 0; i < n; i++) {
        const struct peer *p = &r->peers[i];
        bool self = node_eq(&p->node, &r->o.self);

        ret[i] = (struct raft_peer_status){.node = p->node,
                                           .voter = p->voter,
                                           .match = self ? r->persisted : p->match,
                                           .applied = self ? r->applied : p->applied,
                                           .heard_us = self ? r->now : p->heard_us,
                                           .snapshot = p->state == PEER_SNAPSHOT,
                                           .lost = p->lost};
    }
    return n;
}
