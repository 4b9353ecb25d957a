/* What a follower keeps of a queue: exactly what a checkpoint holds (live offsets, the last reservation, the numbers of forwarding nodes), replayed from the log as it comes. Nothing is ready, delivered or
 * counted here: that is the leader's.
 *
 * Replayed is only what lies below the high watermark, so a cut that follows an election takes nothing of it away; who cuts below all the same lets go of it and of the checkpoints (queue_unfollow,
 * queue_checkpoint_cut). A checkpoint is encoded at S <= HW and written when the log is durable up to there (rule 7): what a power cut may take is not in one, or its offsets would be taken for others' later. It is written without
 * syncing, as at a clean stop: nothing is dropped on its strength. When a segment can go, the checkpoint that says so is synced first.
 *
 * A queue that this node comes to lead opens with what is kept here and replays only what arrived since the last call: a mebibyte, not a backlog. */
#include "queue/internal.h"

#define SLICE_BYTES (1u << 20)

struct queue_frozen {
    struct buf bytes;
    int64_t end;
    int64_t *dead; /* bases of segments that nothing was live in at `end` */
    size_t dead_count;
    bool durable;
};

void queue_frozen_free(struct queue_frozen *f)
{
    if (f == NULL)
        return;
    buf_fini(&f->bytes);
    mem_free(f->dead);
    mem_free(f);
}

/* Under follow_mutex. */
static struct queue *find(struct queue_table *t, uint64_t id)
{
    LIST_FOREACH (n, &t->followed) {
        struct queue *q = LIST_ENTRY(n, struct queue, follow_node);

        if (q->spec.id == id)
            return q;
    }
    return NULL;
}

struct queue *queue_followed_take(struct queue_table *t, uint64_t id)
{
    struct queue *q;

    mutex_lock(&t->follow_mutex);
    q = find(t, id);
    if (q != NULL)
        list_remove(&q->follow_node);
    mutex_unlock(&t->follow_mutex);
    return q;
}

static void keep(struct queue *q)
{
    q->log = NULL; /* borrowed for a call */
    mutex_lock(&q->table->follow_mutex);
    list_push_back(&q->table->followed, &q->follow_node);
    mutex_unlock(&q->table->follow_mutex);
}

void queue_await_writers(struct queue_table *t)
{
    mutex_lock(&t->files_mutex);
    mutex_unlock(&t->files_mutex);
}

void queue_unfollow(struct queue_table *t, uint64_t id)
{
    struct queue *q;

    for (;;) {
        mutex_lock(&t->follow_mutex);
        q = id != 0 ? find(t, id) : list_empty(&t->followed) ? NULL : LIST_ENTRY(t->followed.next, struct queue, follow_node);
        if (q != NULL)
            list_remove(&q->follow_node);
        mutex_unlock(&t->follow_mutex);
        if (q == NULL)
            return;
        queue_free(q);
    }
}

static int begin(struct queue_table *t, uint64_t id, struct log *log, struct queue **ret)
{
    struct queue_spec spec;
    struct queue *q;
    bool found;
    int err;

    queue_spec_init(&spec, id);
    spec.durable = true;
    q = queue_new(t, &spec);
    q->apart = q->followed = true;
    q->log = log;
    err = queue_load_state(q, &found);
    if (err != 0)
        queue_free(q);
    else
        *ret = q;
    return err;
}

static void freeze(struct queue *q, bool durable)
{
    struct queue_frozen *f = mem_zalloc(sizeof(*f));

    queue_frozen_free(q->frozen); /* one that waits in vain while a synced one is wanted */
    q->frozen = f;
    f->end = q->acks.end;
    f->dead = queue_checkpoint_dead(q, &f->dead_count);
    f->durable = durable || f->dead_count != 0;
    queue_checkpoint_encode(q, &f->bytes);
    q->bytes_since = 0;
}

static int write_checkpoint(struct queue *q, bool durable, struct queue_followed *ret)
{
    struct queue_frozen *f = q->frozen;
    int err;

    if (f == NULL || (durable && !f->durable)) {
        /* An empty log has no directory; a checkpoint of a leader may lie ahead of this log for a while. */
        if (q->acks.end == 0 || q->acks.end > log_hw(q->log) || (!durable && q->bytes_since < q->table->options.checkpoint_bytes))
            return 0;
        freeze(q, durable);
        f = q->frozen;
    }
    if (log_durable(q->log) < f->end) {
        ret->waits = true;
        return 0;
    }
    err = queue_checkpoint_put(q, buf_slice(&f->bytes), f->end, f->durable);
    if (err != 0)
        return err;
    if (f->durable) {
        ret->covers = f->end;
        for (size_t i = 0; i < f->dead_count; i++)
            ret->dropped += log_drop_segment(q->log, f->dead[i]) == 0;
    }
    queue_frozen_free(f);
    q->frozen = NULL;
    return 0;
}

int queue_follow(struct queue_table *t, uint64_t id, struct log *log, bool durable, struct queue_followed *ret)
{
    struct queue *q = queue_followed_take(t, id);
    int err = 0;

    queue_await_writers(t);
    *ret = (struct queue_followed){.covers = -1};
    if (q == NULL)
        err = begin(t, id, log, &q);
    if (err != 0)
        return err;
    q->log = log;
    queue_follow_start(q);
    if (q->acks.end < log_hw(log))
        err = queue_replay(q, log_hw(log), SLICE_BYTES, &ret->more);
    ret->end = q->acks.end;
    if (err == 0)
        err = write_checkpoint(q, durable && !ret->more, ret);
    if (err == 0)
        keep(q);
    else
        queue_free(q);
    return err;
}
