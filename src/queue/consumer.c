/* Consumers: who is granted what. A grant is only a count; it makes the round robin exact (one message to
 * each in turn, as RabbitMQ deals them) without deciding which message, and it wakes no more consumers than
 * there are messages. */
#include "queue/internal.h"

static uint32_t room_of(const struct queue_consumer *c)
{
    uint32_t room = QUEUE_TAKE_MAX - c->granted;

    if (c->prefetch == 0)
        return room;
    if (c->unsettled + c->granted >= c->prefetch)
        return 0;
    return MIN_OF(room, c->prefetch - c->unsettled - c->granted);
}

/* Behind its equals, before the lower priorities. */
static void turn_insert(struct queue *q, struct queue_consumer *c)
{
    struct list *at = q->turn.prev;

    while (at != &q->turn && LIST_ENTRY(at, struct queue_consumer, turn)->priority < c->priority)
        at = at->prev;
    list_insert_between(&c->turn, at, at->next);
}

void queue_turn_update(struct queue_consumer *c)
{
    struct queue *q = c->queue;
    bool wants = q != NULL && !c->paused && (!q->spec.single_active || q->active == c) && room_of(c) > 0;

    if (!wants)
        list_remove(&c->turn);
    else if (c->turn.next == NULL)
        turn_insert(q, c);
}

static void tell(struct queue_consumer *c)
{
    if (c->told)
        return;
    c->told = true;
    c->news(c);
}

static void refresh_reservation(struct queue *q)
{
    if (q->reserve_end == 0 || (q->pending != NULL && q->pending->reserved))
        return;
    if (log_committed(q->log, q->reserve_end)) {
        q->reserve_committed = q->reserve_logged;
        q->reserve_end = 0;
    }
}

bool queue_reserve_stalls(struct queue *q)
{
    struct queue_next n;

    if (!q->on_disk)
        return false;
    n = queue_next_ready(q, queue_visible_end(q));
    if (n.source == QUEUE_FROM_NOWHERE || queue_entry_offset(&n.entry) < q->reserve_committed)
        return false;
    refresh_reservation(q);
    return queue_entry_offset(&n.entry) >= q->reserve_committed;
}

/* What is ready and may be delivered; when that is not all, the high watermark's next move is news. */
static uint64_t grantable(struct queue *q)
{
    uint64_t visible = queue_visible_ready(q);

    if (visible < q->ready) {
        atomic_store(&q->hw_wanted, true);
        visible = queue_visible_ready(q); /* it may have moved just before */
    }
    return visible;
}

void queue_grant(struct queue *q)
{
    uint64_t left;

    if (list_empty(&q->turn) || q->ready <= q->granted || q->failed != 0)
        return;
    left = grantable(q);
    if (left <= q->granted)
        return;
    left -= q->granted;
    if (q->waiter != NULL && q->wait_cold)
        return;
    if (queue_reserve_stalls(q)) {
        if (q->waiter == NULL) {
            q->waiter = LIST_ENTRY(q->turn.next, struct queue_consumer, turn);
            q->wait_cold = false;
            tell(q->waiter);
        }
        return;
    }
    while (left > 0 && !list_empty(&q->turn)) {
        struct queue_consumer *c = LIST_ENTRY(q->turn.next, struct queue_consumer, turn);
        uint32_t n = 1;

        if (q->turn.next == q->turn.prev) /* alone: all it can take */
            n = (uint32_t)MIN_OF(left, (uint64_t)room_of(c));
        c->granted += n;
        q->granted += n;
        left -= n;
        list_remove(&c->turn);
        queue_turn_update(c);
        tell(c);
    }
}

static void give_back_grants(struct queue_consumer *c)
{
    struct queue *q = c->queue;

    CHECK(q->granted >= c->granted);
    q->granted -= c->granted;
    c->granted = 0;
    queue_mark_dirty(q);
}

/* The first of the highest priority. */
static struct queue_consumer *choose_active(struct queue *q)
{
    struct queue_consumer *best = NULL;

    LIST_FOREACH (n, &q->consumers) {
        struct queue_consumer *c = LIST_ENTRY(n, struct queue_consumer, node);

        if (best == NULL || c->priority > best->priority)
            best = c;
    }
    return best;
}

int queue_consumer_add(struct queue *q, struct queue_consumer *c, int64_t now_ms)
{
    CHECK(c->queue == NULL && c->news != NULL);
    queue_see_time(q->table, now_ms);
    if (q->consumer_count > 0) {
        struct queue_consumer *first = LIST_ENTRY(q->consumers.next, struct queue_consumer, node);

        if (c->exclusive || first->exclusive)
            return ERR_LOCKED;
    }
    c->node = c->turn = (struct list){NULL, NULL};
    c->unsettled = c->granted = 0;
    c->paused = c->cancelled = c->lost = false; /* `told` stays: news of a former attachment may be on its way, and a second one beside it would be the same mail twice in a box */
    c->queue = q;
    c->queue_id = q->spec.id;
    list_push_back(&q->consumers, &c->node);
    q->consumer_count++;
    q->had_consumer = true;
    q->unused_since = INT64_MAX;
    if (q->spec.single_active && q->active == NULL)
        q->active = c;
    if (q->on_disk && log_end(q->log) > 0)
        queue_reserve(q); /* ahead of the first delivery; an empty log gets it with its first message */
    queue_turn_update(c);
    queue_mark_dirty(q);
    return 0;
}

static void detach(struct queue_consumer *c)
{
    struct queue *q = c->queue;

    give_back_grants(c);
    list_remove(&c->node);
    list_remove(&c->turn);
    q->consumer_count--;
    if (q->waiter == c)
        q->waiter = NULL; /* somebody else is told when the queue is flushed */
    c->queue = NULL;
}

bool queue_consumer_remove(struct queue_consumer *c, int64_t now_ms)
{
    struct queue *q = c->queue;

    if (q == NULL)
        return c->told;
    queue_see_time(q->table, now_ms);
    detach(c);
    if (q->active == c) {
        q->active = choose_active(q);
        if (q->active != NULL)
            queue_turn_update(q->active);
    }
    if (q->consumer_count == 0) {
        q->unused_since = q->table->now_ms;
        if (q->spec.expires_ms >= 0)
            queue_mark_timed(q, q->unused_since + q->spec.expires_ms);
        if (q->spec.auto_delete && !q->ending) {
            q->ending = true;
            if (q->table->options.ended != NULL)
                q->table->options.ended(q->table->options.arg, q->spec.id, QUEUE_END_AUTO_DELETE);
        }
    }
    return c->told;
}

void queue_detach_all(struct queue *q, bool lost)
{
    while (!list_empty(&q->consumers)) {
        struct queue_consumer *c = LIST_ENTRY(q->consumers.next, struct queue_consumer, node);

        detach(c);
        c->cancelled = !lost;
        c->lost = lost;
        tell(c);
    }
    q->active = NULL;
}

void queue_consumer_resume(struct queue_consumer *c)
{
    c->paused = false;
    if (c->queue == NULL)
        return;
    queue_turn_update(c);
    queue_mark_dirty(c->queue);
}

void queue_consumer_pause(struct queue_consumer *c)
{
    c->paused = true;
    if (c->queue == NULL)
        return;
    give_back_grants(c);
    if (c->queue->waiter == c)
        c->queue->waiter = NULL;
    queue_turn_update(c);
}
