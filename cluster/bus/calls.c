/* Requests of ours: a hash of those that wait, a wheel of their deadlines, an inbox a worker for those that are over.
 *
 *   bus_call -> waiting (in a bucket and the wheel) -> over (in the inbox of its worker) -> done
 *
 * Cancelling takes it out of wherever it is, so that its memory is the caller's again at once; that is why it travels in a list under a lock and not as a mail of its own. */
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster/bus/private.h"

enum { CALL_NONE, CALL_WAITS, CALL_OVER };

static void inbox_deliver(struct worker *w, struct mail *m);

void calls_init(struct bus *b)
{
    struct calls *s = &b->calls;
    unsigned n = workers_count(b->options.workers);

    mutex_init(&s->lock);
    s->bucket_mask = 63;
    s->buckets = mem_alloc((s->bucket_mask + 1) * sizeof(s->buckets[0]));
    for (size_t i = 0; i <= s->bucket_mask; i++)
        list_init(&s->buckets[i]);
    for (unsigned i = 0; i < WHEEL_SIZE; i++)
        list_init(&s->wheel[i]);
    s->wheel_at = clock_mono_us() / 1000 / WHEEL_STEP_MS;
    s->inboxes = mem_calloc(n, sizeof(s->inboxes[0]));
    for (unsigned i = 0; i < n; i++) {
        s->inboxes[i].bus = b;
        s->inboxes[i].mail.deliver = inbox_deliver;
        list_init(&s->inboxes[i].done);
    }
}

void calls_fini(struct bus *b)
{
    CHECK(b->calls.count == 0);
    for (unsigned i = 0; i < workers_count(b->options.workers); i++)
        CHECK(!b->calls.inboxes[i].posted && list_empty(&b->calls.inboxes[i].done));
    mutex_fini(&b->calls.lock);
    mem_free(b->calls.buckets);
    mem_free(b->calls.inboxes);
}

static void grow(struct calls *s)
{
    size_t mask = s->bucket_mask * 2 + 1;
    struct list *buckets = mem_alloc((mask + 1) * sizeof(buckets[0])), *n;

    for (size_t i = 0; i <= mask; i++)
        list_init(&buckets[i]);
    for (size_t i = 0; i <= s->bucket_mask; i++) {
        while ((n = list_pop_front(&s->buckets[i])) != NULL) {
            struct bus_call *c = LIST_ENTRY(n, struct bus_call, node);

            list_push_back(&buckets[c->id & mask], n);
        }
    }
    mem_free(s->buckets);
    s->buckets = buckets;
    s->bucket_mask = mask;
}

uint64_t calls_add(struct bus *b, struct bus_call *c, const struct link *l, uint32_t timeout_ms)
{
    struct calls *s = &b->calls;
    uint64_t id;

    CHECK(c->worker != NULL && c->done != NULL && c->state == CALL_NONE);
    c->bus = b;
    c->link = l;
    c->payload = NULL;
    c->len = 0;
    c->deadline_us = clock_mono_us() + timeout_ms * 1000ull;
    mutex_lock(&s->lock);
    id = c->id = ++s->last_id;
    c->state = CALL_WAITS;
    if (s->count++ > s->bucket_mask)
        grow(s);
    list_push_back(&s->buckets[id & s->bucket_mask], &c->node);
    list_push_back(&s->wheel[c->deadline_us / 1000 / WHEEL_STEP_MS % WHEEL_SIZE], &c->wheel);
    mutex_unlock(&s->lock);
    return id;
}

/* The rest under the lock. */
static struct bus_call *find(struct calls *s, uint64_t id)
{
    LIST_FOREACH (n, &s->buckets[id & s->bucket_mask]) {
        struct bus_call *c = LIST_ENTRY(n, struct bus_call, node);

        if (c->id == id)
            return c;
    }
    return NULL;
}

static void stop_waiting(struct calls *s, struct bus_call *c)
{
    list_remove(&c->node);
    list_remove(&c->wheel);
    s->count--;
    c->state = CALL_NONE;
}

static void put_into_inbox(struct calls *s, struct bus_call *c, int err, struct slice payload)
{
    struct inbox *box = &s->inboxes[worker_index(c->worker)];

    stop_waiting(s, c);
    c->state = CALL_OVER;
    c->err = err;
    c->len = payload.len;
    if (payload.len > sizeof(c->small))
        c->payload = mem_alloc(payload.len);
    if (payload.len != 0)
        memcpy(c->payload != NULL ? c->payload : c->small, payload.data, payload.len);
    list_push_back(&box->done, &c->node);
    if (!box->posted) {
        box->posted = true;
        worker_post(c->worker, &box->mail);
    }
}

void calls_complete(struct bus *b, const struct link *l, uint64_t id, int err, struct slice payload)
{
    struct calls *s = &b->calls;
    struct bus_call *c;
    bool here = false;

    mutex_lock(&s->lock);
    c = find(s, id); /* not there: timed out or cancelled meanwhile */
    if (c != NULL && c->link != l)
        c = NULL; /* a peer answers another's */
    if (c != NULL) {
        here = !l->loopback && c->worker == worker_current();
        if (here)
            stop_waiting(s, c);
        else
            put_into_inbox(s, c, err, payload);
    }
    mutex_unlock(&s->lock);
    if (here)
        c->done(c, err, payload);
}

void calls_refuse(struct bus *b, uint64_t id, int err)
{
    struct calls *s = &b->calls;
    struct bus_call *c;

    mutex_lock(&s->lock);
    c = find(s, id);
    if (c != NULL)
        put_into_inbox(s, c, err, SLICE_NONE);
    mutex_unlock(&s->lock);
}

void calls_fail_link(struct bus *b, const struct link *l, int err)
{
    struct calls *s = &b->calls;

    mutex_lock(&s->lock);
    for (size_t i = 0; i <= s->bucket_mask; i++) {
        LIST_FOREACH_SAFE (n, &s->buckets[i]) {
            struct bus_call *c = LIST_ENTRY(n, struct bus_call, node);

            if (l == NULL || c->link == l)
                put_into_inbox(s, c, err, SLICE_NONE);
        }
    }
    mutex_unlock(&s->lock);
}

void calls_tick(struct bus *b, uint64_t now_us)
{
    struct calls *s = &b->calls;
    uint64_t to = now_us / 1000 / WHEEL_STEP_MS;

    mutex_lock(&s->lock);
    if (to > s->wheel_at + WHEEL_SIZE)
        s->wheel_at = to - WHEEL_SIZE;
    /* The step that has begun is looked at again next time: some of its calls are still in time. */
    for (uint64_t step = s->wheel_at; step <= to; step++) {
        LIST_FOREACH_SAFE (n, &s->wheel[step % WHEEL_SIZE]) {
            struct bus_call *c = LIST_ENTRY(n, struct bus_call, wheel);

            if (c->deadline_us <= now_us)
                put_into_inbox(s, c, ERR_TIMEOUT, SLICE_NONE);
        }
    }
    s->wheel_at = to;
    mutex_unlock(&s->lock);
}

static struct bus_call *take_from_inbox(struct inbox *box)
{
    struct bus_call *c = NULL;
    struct list *n;

    mutex_lock(&box->bus->calls.lock);
    n = list_pop_front(&box->done);
    if (n != NULL) {
        c = LIST_ENTRY(n, struct bus_call, node);
        c->state = CALL_NONE;
    }
    mutex_unlock(&box->bus->calls.lock);
    return c;
}

static void inbox_deliver(struct worker *w, struct mail *m)
{
    struct inbox *box = CONTAINER_OF(m, struct inbox, mail);
    struct bus_call *c;

    (void)w;
    mutex_lock(&box->bus->calls.lock);
    box->posted = false; /* what comes from now on posts again, so that one who always calls anew cannot keep this turn */
    mutex_unlock(&box->bus->calls.lock);
    for (unsigned i = 0; i < 1000 && (c = take_from_inbox(box)) != NULL; i++) {
        uint8_t *owned = c->payload;
        uint8_t small[sizeof(c->small)];
        struct slice payload = slice_of(owned, c->len);

        if (owned == NULL) {
            memcpy(small, c->small, sizeof(small)); /* `done` may call anew with the same struct */
            payload.data = small;
        }
        c->payload = NULL;
        c->done(c, c->err, payload);
        mem_free(owned);
    }
    mutex_lock(&box->bus->calls.lock);
    if (!list_empty(&box->done) && !box->posted) {
        box->posted = true;
        worker_post(w, &box->mail);
    }
    mutex_unlock(&box->bus->calls.lock);
}

void bus_call_cancel(struct bus_call *c)
{
    struct calls *s;

    if (c->bus == NULL)
        return;
    s = &c->bus->calls;
    mutex_lock(&s->lock);
    if (c->state == CALL_WAITS) {
        stop_waiting(s, c);
    } else if (c->state == CALL_OVER) {
        list_remove(&c->node);
        mem_free(c->payload);
        c->payload = NULL;
        c->state = CALL_NONE;
    }
    mutex_unlock(&s->lock);
}
