/* Peers: whom to keep connections to, who was found there, who is up.
 *
 * A peer is an address that somebody named. Who lives there is known from the hello: the same node under two addresses is kept as one (the later one rests: dialled once in a while, in case that changes), and our own
 * address rests too. Matching new targets with peers goes by uuid, then id, then address, so that a node whose address or id becomes known keeps its connections. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster/bus/private.h"

enum { REFUSED_AGAIN_US = 30000000 };

static const uint8_t nobody[16];

static bool known(const uint8_t uuid[16])
{
    return memcmp(uuid, nobody, sizeof(nobody)) != 0;
}

static bool same_uuid(const uint8_t a[16], const uint8_t b[16])
{
    return known(a) && memcmp(a, b, sizeof(nobody)) == 0;
}

/* ---- asking a link's worker to do something ---- */

struct errand {
    struct mail mail;
    struct link *link; /* counted */
    void (*fn)(struct link *l);
};

static void run_errand(struct worker *w, struct mail *m)
{
    struct errand *e = CONTAINER_OF(m, struct errand, mail);

    (void)w;
    if (e->link->state != LINK_GONE)
        e->fn(e->link);
    link_unref(e->link);
    mem_free(e);
}

static void on_link(struct link *l, void (*fn)(struct link *l))
{
    struct errand *e = mem_alloc(sizeof(*e));

    *e = (struct errand){{NULL, run_errand}, link_ref(l), fn};
    worker_post(l->worker, &e->mail);
}

static void start(struct link *l)
{
    if (l->bus->closing) {
        l->state = LINK_GONE;
        link_unref(l);
        return;
    }
    list_push_back(&l->bus->links[l->channel], &l->node);
    link_dial(l);
}

static void wake(struct link *l)
{
    l->resting = false;
    if (l->state == LINK_IDLE)
        link_dial(l);
}

/* ---- any thread ---- */

static struct link *choose(struct bus *b, const struct peer *p, enum bus_channel channel)
{
    while (p->same_as != NULL)
        p = p->same_as;
    return link_ref(p->self ? b->loop[channel] : p->links[channel]);
}

struct link *peer_link(struct bus *b, uint32_t node_id, enum bus_channel channel)
{
    const struct peer *best = NULL;
    struct link *l = NULL;

    mutex_lock(&b->lock);
    if (node_id != 0 && node_id == b->node_id) {
        l = link_ref(b->loop[channel]);
    } else if (node_id != 0) {
        LIST_FOREACH (n, &b->peers) {
            const struct peer *p = LIST_ENTRY(n, struct peer, node);

            if (p->node_id == node_id && !p->self && (best == NULL || p->up[channel]))
                best = p;
        }
        if (best != NULL)
            l = choose(b, best, channel);
    }
    mutex_unlock(&b->lock);
    return l;
}

struct link *peer_link_at(struct bus *b, const char *address, enum bus_channel channel)
{
    struct link *l = NULL;

    mutex_lock(&b->lock);
    LIST_FOREACH (n, &b->peers) {
        const struct peer *p = LIST_ENTRY(n, struct peer, node);

        if (l == NULL && strcmp(p->address, address) == 0)
            l = choose(b, p, channel);
    }
    mutex_unlock(&b->lock);
    return l;
}

/* Builds that keep no epoch on disk say none before they are registered. */
bool peers_knows_newer(struct bus *b, const struct hello *h)
{
    bool newer = false;

    if (h->node_epoch == 0)
        return false;
    mutex_lock(&b->lock);
    LIST_FOREACH (n, &b->peers) {
        const struct peer *p = LIST_ENTRY(n, struct peer, node);

        newer |= same_uuid(p->target_uuid, h->uuid) && p->target_epoch > h->node_epoch;
    }
    mutex_unlock(&b->lock);
    return newer;
}

bool peers_id_taken(struct bus *b, const struct hello *h)
{
    bool taken = false;

    if (h->node_id == 0)
        return false;
    mutex_lock(&b->lock);
    LIST_FOREACH (n, &b->peers) {
        const struct peer *p = LIST_ENTRY(n, struct peer, node);

        if (p->target_id == h->node_id && known(p->target_uuid) && memcmp(p->target_uuid, h->uuid, sizeof(h->uuid)) != 0)
            taken = true;
    }
    mutex_unlock(&b->lock);
    return taken;
}

void bus_cast(struct bus *b, enum bus_type type, struct slice payload)
{
    enum bus_channel channel = bus_row(type)->channel;
    struct link *to[256];
    unsigned n = 0;

    mutex_lock(&b->lock);
    LIST_FOREACH (i, &b->peers) {
        struct peer *p = LIST_ENTRY(i, struct peer, node);

        if (p->up[channel] && !p->self && p->same_as == NULL && n < ARRAY_LEN(to))
            to[n++] = link_ref(p->links[channel]);
    }
    mutex_unlock(&b->lock);
    for (unsigned i = 0; i < n; i++) {
        link_queue(to[i], (uint16_t)type, 0, 0, payload);
        link_unref(to[i]);
    }
}

unsigned bus_peers(struct bus *b, struct bus_peer_info *ret, unsigned max)
{
    unsigned count = 0;

    mutex_lock(&b->lock);
    LIST_FOREACH (n, &b->peers) {
        const struct peer *p = LIST_ENTRY(n, struct peer, node);
        struct bus_peer_info *i = &ret[count];

        if (p->self || p->same_as != NULL || count++ >= max)
            continue;
        memset(i, 0, sizeof(*i));
        i->node_id = p->node_id;
        snprintf(i->address, sizeof(i->address), "%s", p->address);
        i->control_up = p->up[BUS_CONTROL];
        i->data_up = p->up[BUS_DATA];
        snprintf(i->refused, sizeof(i->refused), "%s", p->refused);
        i->round_trip_us = atomic_load_explicit(&p->links[BUS_CONTROL]->round_trip_us, memory_order_relaxed);
        for (unsigned c = 0; c < BUS_CHANNELS; c++) {
            i->bytes_in += atomic_load_explicit(&p->links[c]->bytes_in, memory_order_relaxed);
            i->bytes_out += atomic_load_explicit(&p->links[c]->bytes_out, memory_order_relaxed);
            i->frames_in += atomic_load_explicit(&p->links[c]->frames_in, memory_order_relaxed);
            i->frames_out += atomic_load_explicit(&p->links[c]->frames_out, memory_order_relaxed);
            i->reconnects += atomic_load_explicit(&p->links[c]->reconnects, memory_order_relaxed);
        }
    }
    mutex_unlock(&b->lock);
    return count;
}

unsigned bus_links(struct bus *b, struct bus_link_info *ret, unsigned max)
{
    unsigned count = 0;

    mutex_lock(&b->lock);
    LIST_FOREACH (n, &b->all_links) {
        struct link *l = LIST_ENTRY(n, struct link, all);

        if (l->loopback)
            continue;
        mutex_lock(&l->lock);
        if (l->up && l->up_node != 0 && count++ < max)
            ret[count - 1] = (struct bus_link_info){l->up_node, l->channel, l->dialled, l->up_wall_ms, l->out_bytes, l->out.cap + l->spare.cap + l->out_bytes - MIN_OF(l->out_bytes, l->out.len)};
        mutex_unlock(&l->lock);
    }
    mutex_unlock(&b->lock);
    return count;
}

/* ---- the control worker: what happened to a link ---- */

static void tell_up(struct bus *b, struct peer *p)
{
    if (!p->told_up)
        diag_info("a node is reachable", "node=%u address=%s", p->node_id, p->address);
    show_peer(b, p->node_id);
    p->told_up = true;
    if (b->options.peer_up != NULL)
        b->options.peer_up(b->options.arg, &p->who);
}

static void tell_down(struct bus *b, struct peer *p, enum bus_down why)
{
    p->told_up = false;
    if (b->options.peer_down != NULL)
        b->options.peer_down(b->options.arg, &p->who, why);
}

static void rest(struct bus *b, struct peer *p, bool self, struct peer *same_as)
{
    mutex_lock(&b->lock);
    p->self = self;
    p->same_as = same_as;
    p->up[BUS_CONTROL] = p->up[BUS_DATA] = false;
    mutex_unlock(&b->lock);
    for (unsigned c = 0; b->started && c < BUS_CHANNELS; c++)
        on_link(p->links[c], link_rest);
}

static struct peer *other_up_with(struct bus *b, const struct peer *p, const uint8_t uuid[16])
{
    LIST_FOREACH (n, &b->peers) {
        struct peer *o = LIST_ENTRY(n, struct peer, node);

        if (o != p && o->same_as == NULL && !o->self && (o->up[BUS_CONTROL] || o->up[BUS_DATA]) && same_uuid(o->uuid, uuid))
            return o;
    }
    return NULL;
}

/* The address of a link's peer, of the link's thread's making: a copy, as the link lives elsewhere. */
struct news {
    struct mail mail;
    struct link *link; /* counted */
    enum link_event event;
    enum bus_down why;
    bool ourselves;
    struct hello theirs;
    char address[HELLO_ADDRESS_MAX + 1];
    char reason[200];
};

static void note_who(struct bus *b, struct peer *p, const struct news *v)
{
    mutex_lock(&b->lock);
    memcpy(p->uuid, v->theirs.uuid, sizeof(p->uuid));
    p->node_id = v->theirs.node_id != 0 ? v->theirs.node_id : p->target_id;
    p->who.node_id = p->node_id;
    p->who.node_epoch = v->theirs.node_epoch;
    memcpy(p->who.uuid, p->uuid, sizeof(p->uuid));
    snprintf(p->who_address, sizeof(p->who_address), "%s", v->address);
    p->refused[0] = '\0';
    mutex_unlock(&b->lock);
}

static void link_is_up(struct bus *b, struct peer *p, const struct news *v)
{
    enum bus_channel channel = v->link->channel;
    struct peer *other = other_up_with(b, p, v->theirs.uuid);

    if (other != NULL) {
        rest(b, p, false, other);
        return;
    }
    if (p->same_as != NULL || p->self) { /* it was somebody's second address */
        mutex_lock(&b->lock);
        p->same_as = NULL;
        p->self = false;
        mutex_unlock(&b->lock);
        for (unsigned c = 0; c < BUS_CHANNELS; c++)
            on_link(p->links[c], wake);
    }
    if (p->up[!channel] && memcmp(p->uuid, v->theirs.uuid, sizeof(p->uuid)) != 0) {
        /* Another node answers there now; the older connection is about to notice. */
        on_link(p->links[!channel], link_rest);
        on_link(p->links[!channel], wake);
    }
    note_who(b, p, v);
    mutex_lock(&b->lock);
    p->up[channel] = true;
    mutex_unlock(&b->lock);
    if (p->up[!channel] && !p->told_up)
        tell_up(b, p);
}

static void note_refused(struct bus *b, struct peer *p, const char *reason)
{
    uint64_t now = clock_mono_us();

    if (strcmp(p->refused, reason) != 0 || now - p->refused_us > REFUSED_AGAIN_US) {
        diag_warn("cannot talk to a node", "address=%s node=%u reason=\"%s\"", p->address, p->node_id, reason);
        p->refused_us = now;
    }
    mutex_lock(&b->lock);
    snprintf(p->refused, sizeof(p->refused), "%s", reason);
    mutex_unlock(&b->lock);
}

static void link_is_down(struct bus *b, struct peer *p, const struct news *v)
{
    enum bus_channel channel = v->link->channel;
    bool resting = p->self || p->same_as != NULL;

    if (v->ourselves) {
        if (!p->self)
            rest(b, p, true, NULL);
        return;
    }
    mutex_lock(&b->lock);
    p->up[channel] = false;
    mutex_unlock(&b->lock);
    if (resting)
        return;
    if (v->why == BUS_DOWN_REJECTED)
        note_refused(b, p, v->reason);
    if (p->told_up || channel == BUS_CONTROL || p->up[BUS_CONTROL])
        tell_down(b, p, v->why);
}

static void take_news(const struct news *v)
{
    struct link *l = v->link;
    struct peer *p = l->peer;
    struct bus *b = l->bus;

    if (p == NULL || b->closing)
        return;
    switch (v->event) {
    case EVENT_UP:
        link_is_up(b, p, v);
        break;
    case EVENT_IDENTITY:
        note_who(b, p, v);
        if (p->told_up)
            tell_up(b, p);
        break;
    case EVENT_DOWN:
        link_is_down(b, p, v);
        break;
    case EVENT_SILENT:
    case EVENT_HEARD:
        if (p->told_up && b->options.peer_silent != NULL)
            b->options.peer_silent(b->options.arg, &p->who, v->event == EVENT_SILENT);
        break;
    }
}

static void deliver_news(struct worker *w, struct mail *m)
{
    struct news *v = CONTAINER_OF(m, struct news, mail);

    (void)w;
    take_news(v);
    link_unref(v->link);
    mem_free(v);
}

/* Always by mail: no callback runs inside what a link is doing. */
void peer_tell(struct link *l, enum link_event event, enum bus_down why, const char *reason)
{
    struct news *v = mem_zalloc(sizeof(*v));

    v->mail.deliver = deliver_news;
    v->link = link_ref(l);
    v->event = event;
    v->why = why;
    v->theirs = l->theirs;
    v->ourselves = event == EVENT_DOWN && strcmp(reason, refusal_text(REFUSAL_OURSELVES)) == 0;
    snprintf(v->address, sizeof(v->address), "%s", l->who_address);
    snprintf(v->reason, sizeof(v->reason), "%s", reason);
    worker_post(l->bus->workers[BUS_CONTROL], &v->mail);
}

/* ---- targets ---- */

static struct peer *find_target(struct bus *b, const struct bus_target *t, unsigned by)
{
    LIST_FOREACH (n, &b->peers) {
        struct peer *p = LIST_ENTRY(n, struct peer, node);

        if (p->kept)
            continue;
        if ((by == 0 && (same_uuid(t->uuid, p->uuid) || same_uuid(t->uuid, p->target_uuid)) && p->same_as == NULL) ||
            (by == 1 && t->node_id != 0 && (t->node_id == p->node_id || t->node_id == p->target_id) && (!known(t->uuid) || !known(p->uuid))) ||
            (by == 2 && strcmp(p->address, t->address) == 0 && (!known(t->uuid) || !known(p->uuid) || same_uuid(t->uuid, p->uuid))))
            return p;
    }
    return NULL;
}

static void set_address(struct peer *p, const char *address)
{
    snprintf(p->address, sizeof(p->address), "%s", address);
    for (unsigned c = 0; c < BUS_CHANNELS; c++) {
        mutex_lock(&p->links[c]->lock);
        snprintf(p->links[c]->dial_address, sizeof(p->links[c]->dial_address), "%s", address);
        mutex_unlock(&p->links[c]->lock);
    }
}

static struct peer *peer_new(struct bus *b, const char *address)
{
    struct peer *p = mem_zalloc(sizeof(*p));

    p->who.address = p->who_address;
    snprintf(p->who_address, sizeof(p->who_address), "%s", address);
    for (unsigned c = 0; c < BUS_CHANNELS; c++) {
        p->links[c] = link_new(b, (enum bus_channel)c);
        p->links[c]->dialled = true;
        p->links[c]->peer = p;
        link_ref(p->links[c]); /* the worker's, from `start` on */
    }
    set_address(p, address);
    return p;
}

void peer_free(struct peer *p)
{
    for (unsigned c = 0; c < BUS_CHANNELS; c++) {
        p->links[c]->peer = NULL;
        link_unref(p->links[c]);
    }
    mem_free(p);
}

static void drop(struct bus *b, struct peer *p)
{
    mutex_lock(&b->lock);
    list_remove(&p->node);
    LIST_FOREACH (n, &b->peers) {
        struct peer *o = LIST_ENTRY(n, struct peer, node);

        if (o->same_as == p) {
            o->same_as = NULL;
            for (unsigned c = 0; c < BUS_CHANNELS; c++)
                on_link(o->links[c], wake);
        }
    }
    mutex_unlock(&b->lock);
    for (unsigned c = 0; c < BUS_CHANNELS; c++) {
        if (b->started)
            on_link(p->links[c], link_remove);
        else
            link_remove(p->links[c]);
    }
    if (p->told_up)
        tell_down(b, p, BUS_DOWN_CLOSED);
    peer_free(p);
}

static void keep(struct bus *b, struct peer *p, const struct bus_target *t)
{
    bool us = same_uuid(t->uuid, b->options.node_uuid) || (t->node_id != 0 && t->node_id == b->node_id);

    p->kept = true;
    mutex_lock(&b->lock);
    if (strcmp(p->address, t->address) != 0)
        set_address(p, t->address);
    p->target_id = t->node_id;
    memcpy(p->target_uuid, t->uuid, sizeof(p->target_uuid));
    p->target_epoch = t->node_epoch;
    if (t->node_id != 0 || !known(p->uuid)) {
        p->node_id = t->node_id;
        p->who.node_id = t->node_id;
    }
    if (known(t->uuid)) {
        memcpy(p->uuid, t->uuid, sizeof(p->uuid));
        memcpy(p->who.uuid, t->uuid, sizeof(p->uuid));
    }
    mutex_unlock(&b->lock);
    if (us && !p->self)
        rest(b, p, true, NULL);
}

static void add(struct bus *b, const struct bus_target *t)
{
    struct peer *p = peer_new(b, t->address);

    mutex_lock(&b->lock);
    list_push_back(&b->peers, &p->node);
    mutex_unlock(&b->lock);
    if (b->started)
        peer_start(p);
    keep(b, p, t);
}

void peer_start(struct peer *p)
{
    for (unsigned c = 0; c < BUS_CHANNELS; c++) {
        on_link(p->links[c], start);
        if (p->self)
            on_link(p->links[c], link_rest);
    }
}

void bus_set_targets(struct bus *b, const struct bus_target *targets, unsigned n)
{
    struct peer **found = mem_calloc(n + 1, sizeof(found[0]));

    MAGIC_CHECK(b, BUS_MAGIC);
    LIST_FOREACH (i, &b->peers)
        LIST_ENTRY(i, struct peer, node)->kept = false;
    for (unsigned by = 0; by < 3; by++) {
        for (unsigned i = 0; i < n; i++) {
            if (found[i] == NULL && (found[i] = find_target(b, &targets[i], by)) != NULL)
                keep(b, found[i], &targets[i]);
        }
    }
    LIST_FOREACH_SAFE (i, &b->peers) {
        struct peer *p = LIST_ENTRY(i, struct peer, node);

        if (!p->kept)
            drop(b, p);
    }
    for (unsigned i = 0; i < n; i++) {
        if (found[i] == NULL)
            add(b, &targets[i]);
    }
    if (b->started)
        bus_judge_again(b);
    mem_free(found);
}
