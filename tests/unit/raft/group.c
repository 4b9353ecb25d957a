#include "group.h"

struct raft_node node_of(uint32_t id, uint8_t uuid)
{
    struct raft_node n = {.id = id};

    n.uuid[0] = (uint8_t)id;
    n.uuid[1] = uuid;
    return n;
}

static void config_of(unsigned voters, struct buf *out)
{
    struct raft_member m[MAX] = {0};

    for (unsigned i = 0; i < voters; i++)
        m[i] = (struct raft_member){.node = node_of(i + 1, 0), .voter = true, .address = SLICE_LIT("host:1")};
    raft_config_encode(m, voters, out);
}

static void start(struct group *g, struct server *s, const struct raft_recovered *rec)
{
    struct raft_options o = {.self = s->self, .seed = s->id, .now_us = g->now, .election_timeout_us = ELECTION, .heartbeat_us = HEARTBEAT, .chunk_bytes = 8};

    s->r = raft_new(&o, rec);
    s->applied = rec->snapshot.index;
    g->n = s->id > g->n ? s->id : g->n;
}

void group_server(struct group *g, uint32_t id, unsigned voters, uint64_t term, const uint64_t *terms, size_t n)
{
    struct server *s = &g->s[id];
    struct raft_entry entries[32] = {0};
    struct raft_recovered rec = {.term = term, .entries = entries, .entry_count = n};
    struct buf config = {0};

    config_of(voters, &config);
    for (size_t i = 0; i < n; i++)
        entries[i] = (struct raft_entry){.term = terms[i], .data = (const uint8_t *)"\1", .len = 1};
    entries[0] = (struct raft_entry){.term = terms[0], .data = config.data, .len = (uint32_t)config.len, .kind = RAFT_ENTRY_CONFIG};
    s->id = id;
    s->self = node_of(id, 0);
    start(g, s, &rec);
    buf_fini(&config);
}

void group_blank(struct group *g, uint32_t id, uint8_t uuid)
{
    struct server *s = &g->s[id];

    raft_free(s->r);
    memset(s, 0, sizeof(*s));
    s->id = id;
    s->self = node_of(id, uuid);
    start(g, s, &(struct raft_recovered){0});
}

void group_new(struct group *g, unsigned n)
{
    memset(g, 0, sizeof(*g));
    g->now = 1000000;
    for (unsigned i = 1; i <= n; i++)
        group_server(g, i, n, 1, (const uint64_t[]){1}, 1);
}

void group_free(struct group *g)
{
    drop_all(g);
    for (unsigned i = 1; i <= MAX; i++) {
        raft_free(g->s[i].r);
        buf_fini(&g->s[i].recv);
    }
}

/* ---- steps ------------------------------------------------------------------------------------------------------------ */

static void post(struct group *g, const struct raft_message *m)
{
    struct letter *l;

    if (g->cut[m->from.id][m->to.id])
        return;
    cr_assert_lt(g->letter_n, 4096u);
    l = &g->letters[g->letter_n++];
    memset(l, 0, sizeof(*l));
    l->from = m->from.id;
    l->to = m->to.id;
    l->type = m->type;
    raft_encode(m, &l->bytes);
}

static void take_chunk(struct group *g, struct server *s, const struct raft_chunk *c)
{
    struct raft_event ev = {.type = RAFT_SNAPSHOT_INSTALLED, .snapshot = c->snapshot};
    struct buf config = {0};

    s->steps_chunk++;
    if (c->offset == 0)
        buf_clear(&s->recv);
    cr_assert_eq(s->recv.len, c->offset);
    buf_put_slice(&s->recv, c->data);
    if (!c->last || s->slow)
        return;
    buf_put_slice(&config, c->snapshot.config);
    ev.snapshot.config = buf_slice(&config);
    if (crc32c(0, s->recv.data, s->recv.len) != c->snapshot.crc) {
        ev.err = ERR_MISMATCH;
    } else {
        memcpy(&s->sum, s->recv.data, 8);
        s->applied = c->snapshot.index;
    }
    step(g, s->id, ev);
    if (ev.err == 0)
        step(g, s->id, (struct raft_event){.type = RAFT_APPLIED, .applied = s->applied});
    buf_fini(&config);
}

static void apply(struct group *g, struct server *s, uint64_t commit)
{
    struct raft_entry e;

    if (s->applied >= commit)
        return;
    while (s->applied < commit) {
        cr_assert(raft_entry(s->r, ++s->applied, &e));
        if (e.kind == RAFT_ENTRY_COMMAND)
            s->sum += e.data[0];
    }
    step(g, s->id, (struct raft_event){.type = RAFT_APPLIED, .applied = s->applied});
}

int step(struct group *g, uint32_t id, struct raft_event ev)
{
    struct server *s = &g->s[id];
    struct raft_chunk chunk;
    struct buf copy = {0};
    struct raft_update up;
    int err;

    ev.now_us = g->now;
    err = raft_step(s->r, &ev, &up);
    s->up = up;
    if (up.seq != 0)
        s->asked_seq = up.seq;
    for (size_t i = 0; i < up.message_count; i++) {
        struct raft_message m = up.messages[i];

        if (m.type == RAFT_MSG_SNAPSHOT)
            m.data = slice_of(s->payload + m.offset, m.chunk);
        post(g, &m);
    }
    for (size_t i = 0; i < up.read_count && s->read_n < 16; i++)
        s->reads[s->read_n++] = up.reads[i];
    apply(g, s, up.commit);
    if (up.seq != 0 && !s->slow)
        persist(g, id);
    if (up.chunk != NULL) {
        chunk = *up.chunk;
        buf_put_slice(&copy, chunk.snapshot.config);
        chunk.snapshot.config = buf_slice(&copy);
        take_chunk(g, s, &chunk);
        buf_fini(&copy);
    }
    return err;
}

void tick(struct group *g, uint32_t id, uint64_t us)
{
    g->now += us;
    step(g, id, (struct raft_event){.type = RAFT_TICK});
}

void persist(struct group *g, uint32_t id)
{
    step(g, id, (struct raft_event){.type = RAFT_PERSISTED, .seq = g->s[id].asked_seq});
}

/* ---- letters ----------------------------------------------------------------------------------------------------------- */

static void hand_over(struct group *g, struct letter *l)
{
    struct raft_decoder d = {0};
    struct letter mine = *l;

    memset(l, 0, sizeof(*l));
    cr_assert_eq(raft_decode(buf_slice(&mine.bytes), &d), 0);
    if (g->s[mine.to].r != NULL && !g->cut[mine.from][mine.to])
        step(g, mine.to, (struct raft_event){.type = RAFT_MSG, .message = &d.m});
    raft_decoder_fini(&d);
    buf_fini(&mine.bytes);
}

static void squeeze(struct group *g)
{
    size_t k = 0;

    for (size_t i = 0; i < g->letter_n; i++) {
        if (g->letters[i].to != 0)
            g->letters[k++] = g->letters[i];
    }
    g->letter_n = k;
}

size_t deliver_type(struct group *g, uint8_t type)
{
    size_t n = g->letter_n, done = 0;

    for (size_t i = 0; i < n; i++) {
        if (g->letters[i].to != 0 && g->letters[i].type == type) {
            hand_over(g, &g->letters[i]);
            done++;
        }
    }
    squeeze(g);
    return done;
}

void deliver(struct group *g)
{
    size_t i = 0;

    for (; i < g->letter_n; i++) {
        cr_assert_lt(i, 4000u, "they never stop talking");
        if (g->letters[i].to != 0)
            hand_over(g, &g->letters[i]);
    }
    g->letter_n = 0;
}

void drop_all(struct group *g)
{
    for (size_t i = 0; i < g->letter_n; i++)
        buf_fini(&g->letters[i].bytes);
    g->letter_n = 0;
}

size_t count(struct group *g, uint8_t type, uint32_t to)
{
    size_t n = 0;

    for (size_t i = 0; i < g->letter_n; i++)
        n += g->letters[i].type == type && (to == 0 || g->letters[i].to == to);
    return n;
}

void isolate(struct group *g, uint32_t id, bool cut)
{
    for (unsigned i = 1; i <= MAX; i++)
        g->cut[id][i] = g->cut[i][id] = cut;
}

/* ---- what servers are asked -------------------------------------------------------------------------------------------- */

void elect(struct group *g, uint32_t id)
{
    tick(g, id, 2 * ELECTION);
    deliver(g);
    cr_assert_eq(raft_role(g->s[id].r), RAFT_LEADER, "server %u was not elected", id);
}

uint64_t propose(struct group *g, uint32_t id, uint8_t value)
{
    struct slice payload = slice_of(&value, 1);

    cr_assert_eq(step(g, id, (struct raft_event){.type = RAFT_PROPOSE, .payloads = &payload, .payload_count = 1}), 0);
    return raft_last_index(g->s[id].r);
}

int change(struct group *g, uint32_t id, uint8_t type, uint32_t who, uint8_t uuid)
{
    struct raft_event ev = {.type = RAFT_CHANGE, .change = type, .member = {.node = node_of(who, uuid), .address = SLICE_LIT("host:2")}};

    return step(g, id, ev);
}

void heartbeat(struct group *g, uint32_t leader)
{
    tick(g, leader, HEARTBEAT);
    deliver(g);
}

void save_snapshot(struct group *g, uint32_t id, uint64_t keep)
{
    struct server *s = &g->s[id];
    struct buf config = {0};

    for (size_t i = 0; i < 4; i++)
        memcpy(s->payload + 8 * i, &s->sum, 8);
    buf_put_slice(&config, raft_config_at(s->r, s->applied));
    s->snapshot = (struct raft_snapshot){.index = s->applied,
                                         .term = raft_term_at(s->r, s->applied),
                                         .config = buf_slice(&config),
                                         .size = sizeof(s->payload),
                                         .crc = crc32c(0, s->payload, sizeof(s->payload))};
    step(g, id, (struct raft_event){.type = RAFT_SNAPSHOT_SAVED, .snapshot = s->snapshot, .log_first = s->applied + 1 - keep});
    buf_fini(&config);
}

struct raft_message message(struct group *g, uint8_t type, uint32_t from, uint32_t to, uint64_t term)
{
    return (struct raft_message){.type = type, .from = node_of(from, 0), .to = g->s[to].self, .term = term};
}

int give(struct group *g, const struct raft_message *m)
{
    return step(g, m->to.id, (struct raft_event){.type = RAFT_MSG, .message = m});
}
