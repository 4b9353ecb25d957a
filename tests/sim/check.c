/* The invariants. Each is checked where something could break it, so a whole event costs a few comparisons. */
#include <stdlib.h>

#include "sim.h"

struct world *sim_world;

void violation(struct world *w, const struct node *n, const char *fmt, ...)
{
    va_list ap;

    fflush(stdout);
    fprintf(stderr, "VIOLATION seed=%llu event=%llu time_ms=%llu node=%u: ", (unsigned long long)w->seed, (unsigned long long)w->events,
            (unsigned long long)w->now / 1000, n == NULL ? 0 : n->id);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\nreplay: raft_sim --seed %llu --trace\n", (unsigned long long)w->seed);
    fflush(stderr);
    _Exit(1);
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h ^= v + 0x9e3779b97f4a7c15ull + (h << 6) + (h >> 2);
    h *= 0xff51afd7ed558ccdull;
    return h ^ (h >> 33);
}

static uint64_t entry_hash(const struct raft_entry *e)
{
    uint64_t h = mix(e->kind, e->len), v;

    if (e->len == 8) {
        memcpy(&v, e->data, 8);
        return mix(h, v);
    }
    for (uint32_t i = 0; i < e->len; i++)
        h = mix(h, e->data[i]);
    return h;
}

uint64_t check_chain(uint64_t chain, const struct raft_entry *e)
{
    return mix(mix(chain, e->term), entry_hash(e)) | 1;
}

static struct index_seen *seen_at(struct world *w, uint64_t index)
{
    while (index >= w->seen_cap) {
        size_t old = w->seen_cap;

        w->seen_cap = old == 0 ? 256 : 2 * old;
        w->seen = mem_realloc(w->seen, w->seen_cap * sizeof(*w->seen));
        memset(w->seen + old, 0, (w->seen_cap - old) * sizeof(*w->seen));
    }
    return &w->seen[index];
}

/* Log matching (Figure 3): two logs that hold an entry of the same index and term hold the same entry, and the same before it. Checked at the moment an entry enters any log: equal
 * content, equal predecessor's term; the rest follows by induction. */
void check_appended(struct world *w, const struct node *n, uint64_t index, const struct raft_entry *e, uint64_t prev_term)
{
    struct index_seen *s = seen_at(w, index);
    uint64_t hash = entry_hash(e);

    for (uint32_t i = 0; i < s->n; i++) {
        if (s->v[i].term != e->term)
            continue;
        if (s->v[i].hash != hash || s->v[i].prev_term != prev_term)
            violation(w, n, "log matching: two entries with index %llu and term %llu", (unsigned long long)index, (unsigned long long)e->term);
        return;
    }
    if (s->n == s->cap) {
        s->cap = s->cap == 0 ? 2 : 2 * s->cap;
        s->v = mem_realloc(s->v, s->cap * sizeof(*s->v));
    }
    s->v[s->n++] = (struct entry_seen){e->term, prev_term, hash};
    if (e->kind == RAFT_ENTRY_CONFIG)
        check_config(w, index, slice_of(e->data, e->len));
}

/* ---- configurations: what the administrator and the faults must leave alone so that a group can live ------------------------ */

void check_config(struct world *w, uint64_t index, struct slice config)
{
    if (w->config_n == w->config_cap) {
        w->config_cap = w->config_cap == 0 ? 8 : 2 * w->config_cap;
        w->configs = mem_realloc(w->configs, w->config_cap * sizeof(*w->configs));
    }
    w->configs[w->config_n] = (struct config_seen){.index = index};
    buf_put_slice(&w->configs[w->config_n++].encoded, config);
}

static void config_committed(struct world *w, uint64_t index, struct slice config)
{
    size_t k = 0;

    for (size_t i = 0; i < w->config_n; i++) {
        if (w->configs[i].index <= index)
            buf_fini(&w->configs[i].encoded);
        else
            w->configs[k++] = w->configs[i];
    }
    w->config_n = k;
    check_config(w, index, config);
}

bool check_quorum_left(struct world *w, struct slice config)
{
    struct raft_member *m;
    size_t n, voters = 0, left = 0;

    CHECK(raft_config_decode(config, &m, &n) == 0);
    for (size_t i = 0; i < n; i++) {
        const struct node *node = world_node(w, m[i].node.id);

        voters += m[i].voter;
        left += m[i].voter && node->exists && memcmp(node->self.uuid, m[i].node.uuid, 16) == 0;
    }
    mem_free(m);
    return left >= voters / 2 + 1;
}

bool check_quorum_left_everywhere(struct world *w)
{
    for (size_t i = 0; i < w->config_n; i++) {
        if (!check_quorum_left(w, buf_slice(&w->configs[i].encoded)))
            return false;
    }
    return true;
}

/* A committed entry never changes; state machines are equal at equal index (the chain is the state's hash). */
void check_committed(struct world *w, const struct node *n, uint64_t index, const struct raft_entry *e, uint64_t chain)
{
    struct index_seen *s = seen_at(w, index);

    if (s->chain == 0) {
        s->chain = chain;
        s->committed_term = e->term;
        s->known_term = raft_current_term(n->r);
        w->commits++;
        if (e->kind == RAFT_ENTRY_CONFIG)
            config_committed(w, index, slice_of(e->data, e->len));
    } else if (s->chain != chain || s->committed_term != e->term) {
        violation(w, n, "state machine safety: another entry was committed at index %llu (term %llu, before: %llu)", (unsigned long long)index,
                  (unsigned long long)e->term, (unsigned long long)s->committed_term);
    }
    w->commit = MAX_OF(w->commit, index);
}

void check_snapshot(struct world *w, const struct node *n, uint64_t index, uint64_t term, uint64_t chain)
{
    struct index_seen *s = seen_at(w, index);

    if (s->chain != chain || s->committed_term != term)
        violation(w, n, "a snapshot at index %llu holds another state", (unsigned long long)index);
}

/* At most one leader a term; leader completeness: it holds every entry that was committed in a term before. */
void check_leader(struct world *w, const struct node *n)
{
    uint64_t term = raft_current_term(n->r);

    while (term >= w->leaders_cap) {
        size_t old = w->leaders_cap;

        w->leaders_cap = old == 0 ? 64 : 2 * old;
        w->leaders = mem_realloc(w->leaders, w->leaders_cap * sizeof(*w->leaders));
        memset(w->leaders + old, 0, (w->leaders_cap - old) * sizeof(*w->leaders));
    }
    /* A leader that forgot and won again is as wrong as two. */
    if (w->leaders[term].id != 0)
        violation(w, n, "election safety: term %llu had a leader before, node %u", (unsigned long long)term, w->leaders[term].id);
    w->leaders[term] = n->self;
    w->elections++;
    for (uint64_t i = raft_first_index(n->r); i <= w->commit; i++) {
        const struct index_seen *s = seen_at(w, i);

        /* An election may be won late, when a later term has its leader already: that one's entries are none of its concern. */
        if (s->known_term < term && raft_term_at(n->r, i) != s->committed_term)
            violation(w, n, "leader completeness: the leader of term %llu lacks entry %llu, committed in term %llu", (unsigned long long)term, (unsigned long long)i,
                      (unsigned long long)s->known_term);
    }
}

/* Linearizable reads: a read sees every commit that anybody could have been told of before it began. */
void check_read_begin(struct world *w, uint64_t ctx)
{
    if (w->read_n == w->read_cap) {
        w->read_cap = w->read_cap == 0 ? 16 : 2 * w->read_cap;
        w->reads = mem_realloc(w->reads, w->read_cap * sizeof(*w->reads));
    }
    w->reads[w->read_n++] = (struct read){ctx, w->commit};
}

void check_read_end(struct world *w, const struct node *n, const struct raft_read_answer *a)
{
    size_t i = 0;

    while (i < w->read_n && w->reads[i].ctx != a->ctx)
        i++;
    if (i == w->read_n)
        violation(w, n, "a read was answered twice");
    if (a->err == 0) {
        w->reads_served++;
        if (a->index < w->reads[i].floor)
            violation(w, n, "stale read: index %llu, but %llu was committed before it began", (unsigned long long)a->index, (unsigned long long)w->reads[i].floor);
    }
    w->reads[i] = w->reads[--w->read_n];
}

void check_fini(struct world *w)
{
    for (size_t i = 0; i < w->seen_cap; i++)
        mem_free(w->seen[i].v);
    mem_free(w->seen);
    for (size_t i = 0; i < w->config_n; i++)
        buf_fini(&w->configs[i].encoded);
    mem_free(w->configs);
    mem_free(w->leaders);
    mem_free(w->reads);
}
