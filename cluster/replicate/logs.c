/* The logs that are replicated: found on disk at the start, opened by engines while this node leads, told of by leaders while it follows.
 *
 * A log is known by its key, which both sides derive from the topology; its directory follows from the key and, for topics, the topic's name (rule 9). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/diag.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/mem.h"
#include "cluster/replicate/private.h"

#define TOPIC_INDEX_BITS 20 /* of a topic log's identity, as src/stream makes it */

/* What stands in a log's identity file. */
static uint64_t identity_of(const struct log_key *k)
{
    return k->kind == LOG_TOPIC ? k->id << TOPIC_INDEX_BITS | k->index : k->id;
}

/* ---- the table ----------------------------------------------------------------------------------------------------------- */

static uint32_t slot_of(const struct replication *r, const struct log_key *k)
{
    uint64_t h = (k->id * 0x9e3779b97f4a7c15ull) ^ ((uint64_t)k->index << 32 | (uint64_t)k->partition << 2 | k->kind);

    h *= 0xff51afd7ed558ccdull;
    return (uint32_t)(h >> 32) & (r->hash_size - 1);
}

static bool key_eq(const struct log_key *a, const struct log_key *b)
{
    return a->partition == b->partition && a->kind == b->kind && a->index == b->index && a->id == b->id;
}

static void table_grow(struct replication *r)
{
    struct rlog **old = r->hash;
    uint32_t n = r->hash_size;

    r->hash_size = n == 0 ? 256 : n * 2;
    r->hash = mem_calloc(r->hash_size, sizeof(r->hash[0]));
    for (uint32_t i = 0; i < n; i++) {
        for (struct rlog *l = old[i], *next; l != NULL; l = next) {
            uint32_t slot = slot_of(r, &l->key);

            next = l->hash_next;
            l->hash_next = r->hash[slot];
            r->hash[slot] = l;
        }
    }
    mem_free(old);
}

struct rlog *rlog_find(struct replication *r, const struct log_key *key)
{
    for (struct rlog *l = r->hash_size == 0 ? NULL : r->hash[slot_of(r, key)]; l != NULL; l = l->hash_next)
        if (key_eq(&l->key, key))
            return l;
    return NULL;
}

/* ---- directories ----------------------------------------------------------------------------------------------------------- */

/* Owned by the caller; NULL: the topology does not name it (yet, or any more). */
static char *dir_of(struct replication *r, const struct log_key *k)
{
    const struct topology *v = topology_view(r->o.topology);
    const struct topo_topic *t;

    switch ((enum log_kind)k->kind) {
    case LOG_MAIN:
        return mem_printf("p-%04u/main", k->partition);
    case LOG_QUEUE:
        if (topo_queue_by_id(v, k->id) == NULL)
            return NULL;
        return mem_printf("p-%04u/queue/%016llx", k->partition, (unsigned long long)k->id);
    case LOG_TOPIC:
        t = record_topic(r, k->id);
        if (t == NULL || k->index >= t->partitions)
            return NULL;
        return mem_printf("p-%04u/topic/%.*s-%u", k->partition, (int)t->name.len, (const char *)t->name.data, k->index);
    }
    return NULL;
}

/* The key of a directory's log. */
static bool key_of_dir(const struct replication *r, const char *dir, uint64_t log_id, struct log_key *ret)
{
    const char *rest, *dash;
    char *end;
    unsigned long partition;

    if (strncmp(dir, "p-", 2) != 0)
        return false;
    partition = strtoul(dir + 2, &end, 10);
    if (end == dir + 2 || *end != '/' || partition >= r->count)
        return false;
    rest = end + 1;
    *ret = (struct log_key){.partition = (uint32_t)partition, .id = log_id};
    if (strcmp(rest, "main") == 0) {
        ret->kind = LOG_MAIN;
        ret->id = partition;
    } else if (strncmp(rest, "queue/", 6) == 0) {
        ret->kind = LOG_QUEUE;
    } else if (strncmp(rest, "topic/", 6) == 0 && (dash = strrchr(rest, '-')) != NULL) {
        ret->kind = LOG_TOPIC;
        ret->index = (uint32_t)(log_id & ((1u << TOPIC_INDEX_BITS) - 1));
        ret->id = log_id >> TOPIC_INDEX_BITS;
        if (strtoul(dash + 1, NULL, 10) != ret->index)
            return false;
    } else {
        return false;
    }
    return true;
}

/* ---- one log ---------------------------------------------------------------------------------------------------------------- */

static void changed(struct log_watch *w, struct log *log)
{
    (void)log;
    rlog_flag(CONTAINER_OF(w, struct rlog, watch));
}

void rlog_flag(struct rlog *l)
{
    struct replication *r = l->part->r;
    struct rlog *head;

    if (__atomic_exchange_n(&l->flagged, true, __ATOMIC_SEQ_CST))
        return;
    head = __atomic_load_n(&r->news, __ATOMIC_RELAXED);
    do {
        l->news_next = head;
    } while (!__atomic_compare_exchange_n(&r->news, &head, l, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED));
    if (!__atomic_exchange_n(&r->news_posted, true, __ATOMIC_SEQ_CST))
        worker_post(r->w, &r->news_mail);
}

static uint32_t topic_min_insync(struct replication *r, const struct log_key *k)
{
    const struct topo_topic *t = k->kind == LOG_TOPIC ? record_topic(r, k->id) : NULL;
    struct slice v = t == NULL ? SLICE_NONE : topo_topic_config(t, "min.insync.replicas");
    int64_t n;

    return v.data != NULL && slice_to_i64(v, &n) && n > 0 && n <= TOPO_REPLICAS_MAX ? (uint32_t)n : 0;
}

int rlog_open(struct rlog *l)
{
    struct rpart *part = l->part;
    struct replication *r = part->r;
    char *dir;
    int err;

    if (l->log != NULL)
        return 0;
    dir = dir_of(r, &l->key);
    if (dir == NULL) {
        r->unnamed += !l->unnamed;
        l->unnamed = true;
        return ERR_NOT_FOUND;
    }
    r->unnamed -= l->unnamed;
    l->unnamed = false;
    err = log_open(r->o.logs,
                   &(struct log_options){.kind = (enum log_kind)l->key.kind, .dir = dir, .log_id = identity_of(&l->key),
                                         .segment_bytes = l->key.kind != LOG_QUEUE ? 0 : r->o.queue_segment_bytes != 0 ? r->o.queue_segment_bytes : QUEUE_SEGMENT_BYTES},
                   &l->log);
    mem_free(dir);
    if (err != 0 && err != ERR_CORRUPT) { /* what is damaged is opened all the same, to be told of and repaired */
        if (l->log != NULL)
            log_close(l->log);
        l->log = NULL;
        return err;
    }
    l->min_insync = topic_min_insync(r, &l->key);
    if (ALOADX(&part->replicated) && !log_replicated(l->log))
        log_set_replicated(l->log, true, log_hw_stored(l->log));
    log_set_watch(l->log, &l->watch);
    return 0;
}

static void rlog_positions_drop(struct rlog *l)
{
    if (l->pos == NULL)
        return;
    for (unsigned i = 0; i < l->part->follower_count; i++)
        list_remove(&l->pos[i].ready);
    mem_free(l->pos);
    l->pos = NULL;
}

static struct rpos *positions_new(struct rlog *l)
{
    struct rpos *pos = mem_calloc(MAX_OF(l->part->follower_count, 1u), sizeof(*pos));
    uint64_t now = replication_now_us();

    for (unsigned i = 0; i < l->part->follower_count; i++) {
        /* R6, R21: who had everything so far has it in a log that is new here, until something is appended. */
        pos[i].caught_us = l->part->followers[i].caught_us == 0 ? 0 : now;
        pos[i].log = l;
        pos[i].slot = i;
        pos[i].hw_sent = pos[i].start_sent = -1;
    }
    return pos;
}

struct rlog *rlog_get(struct rpart *part, const struct log_key *key)
{
    struct replication *r = part->r;
    struct rlog *l = rlog_find(r, key);
    uint32_t slot;

    if (l != NULL)
        return l;
    if (r->hash_count >= r->hash_size)
        table_grow(r);
    l = mem_zalloc(sizeof(*l));
    l->watch.changed = changed;
    l->part = part;
    l->key = *key;
    l->covers = l->missed_hw = -1;
    if (rpart_leads(part))
        l->pos = positions_new(l);
    slot = slot_of(r, key);
    l->hash_next = r->hash[slot];
    r->hash[slot] = l;
    r->hash_count++;
    list_push_back(&part->logs, &l->node);
    if (key->kind == LOG_MAIN)
        part->main = l;
    return l;
}

void rlog_positions_reset(struct rlog *l)
{
    struct rpart *part = l->part;

    rlog_positions_drop(l);
    if (part->followers != NULL)
        l->pos = positions_new(l);
}

/* Not while its partition has work under way that may look at it. */
void rlog_drop(struct rlog *l, bool delete_files)
{
    struct rpart *part = l->part;
    struct replication *r = part->r;
    struct rlog **at = &r->hash[slot_of(r, &l->key)];

    CHECK(part->working == WORK_NONE && !l->busy);
    r->unnamed -= l->unnamed;
    if (l->log != NULL) {
        log_set_watch(l->log, NULL); /* it is not called any more */
        log_set_replicated(l->log, false, 0);
        if (delete_files)
            log_delete(l->log);
        else
            log_close(l->log);
        l->log = NULL;
    }
    /* It may stand in the news, which only we empty. */
    if (ALOAD(&l->flagged)) {
        struct rlog *all = __atomic_exchange_n(&r->news, NULL, __ATOMIC_ACQ_REL), *next;

        for (; all != NULL; all = next) {
            next = all->news_next;
            ASTORE(&all->flagged, false);
            if (all != l)
                rlog_flag(all);
        }
    }
    while (*at != l)
        at = &(*at)->hash_next;
    *at = l->hash_next;
    r->hash_count--;
    if (l->pos != NULL) {
        for (unsigned i = 0; i < part->follower_count; i++) {
            if (l->pos[i].behind)
                ASTOREX(&part->followers[i].behind, part->followers[i].behind - 1);
        }
    }
    rlog_positions_drop(l);
    list_remove(&l->report);
    list_remove(&l->cut_node);
    list_remove(&l->follow_node);
    list_remove(&l->node);
    if (part->main == l)
        part->main = NULL;
    mem_free(l);
}

/* ---- opened by engines -------------------------------------------------------------------------------------------------------- */

struct opened_log {
    struct list node;
    struct log_key key;
};

/* Any thread, before its first append: from then on commits wait for its high watermark. */
static void opened(void *arg, struct log *log, uint64_t log_id)
{
    struct replication *r = arg;
    struct opened_log *o;
    struct log_key key;
    struct rpart *part;

    if (!key_of_dir(r, log_dir(log), log_id, &key))
        return;
    part = &r->parts[key.partition];
    if (key.kind != LOG_MAIN) {
        int32_t epoch = partition_epoch(part->p);

        if (epoch > log_epoch(log))
            log_set_epoch(log, epoch);
        if (ALOAD(&part->replicated) && !log_replicated(log))
            log_set_replicated(log, true, log_hw_stored(log));
    }
    o = mem_zalloc(sizeof(*o));
    o->key = key;
    mutex_lock(&r->opened_mutex);
    list_push_back(&r->opened, &o->node);
    if (!r->opened_posted) {
        r->opened_posted = true;
        worker_post(r->w, &r->opened_mail);
    }
    mutex_unlock(&r->opened_mutex);
}

static void adopt(struct rpart *part, const struct log_key *key)
{
    struct rlog *l = rlog_get(part, key);
    int err = rlog_open(l);

    if (err != 0 && err != ERR_NOT_FOUND)
        diag_warn("a log cannot be replicated", "partition=%u kind=%u id=%llu error=%s", key->partition, key->kind,
                  (unsigned long long)key->id, err_name(err));
    if (err == 0)
        rlog_flag(l);
}

void rlogs_adopt(struct replication *r)
{
    struct list later;

    list_init(&later);
    for (;;) {
        struct opened_log *o;
        struct rpart *part;
        struct list *n;

        mutex_lock(&r->opened_mutex);
        n = list_pop_front(&r->opened);
        if (n == NULL) {
            r->opened_posted = false;
            r->opened_waiting = !list_empty(&later);
            list_splice(&r->opened, &later); /* taken up again when their partitions' work is done */
            mutex_unlock(&r->opened_mutex);
            return;
        }
        mutex_unlock(&r->opened_mutex);
        o = LIST_ENTRY(n, struct opened_log, node);
        part = &r->parts[o->key.partition];
        if (part->working == WORK_STEP) {
            list_push_back(&later, &o->node);
            continue;
        }
        if (rlog_find(r, &o->key) == NULL || rlog_find(r, &o->key)->log == NULL)
            adopt(part, &o->key);
        mem_free(o);
    }
}

static void deliver_opened(struct worker *w, struct mail *m)
{
    (void)w;
    rlogs_adopt(CONTAINER_OF(m, struct replication, opened_mail));
}

/* ---- start, stop, sweeping ------------------------------------------------------------------------------------------------------ */

struct found {
    struct replication *r;
    struct log_key *keys;
    size_t n, cap;
};

static void note_found(void *arg, const char *dir, uint64_t log_id)
{
    struct found *f = arg;
    struct log_key key;

    if (!key_of_dir(f->r, dir, log_id, &key))
        return;
    if (f->n == f->cap) {
        f->cap = f->cap == 0 ? 64 : f->cap * 2;
        f->keys = mem_realloc(f->keys, f->cap * sizeof(f->keys[0]));
    }
    f->keys[f->n++] = key;
}

void rlogs_start(struct replication *r)
{
    struct found f = {.r = r};

    table_grow(r);
    r->opened_mail.deliver = deliver_opened;
    log_store_set_opened(r->o.logs, opened, r);
    for (uint32_t i = 0; i < r->count; i++)
        adopt(&r->parts[i], &(struct log_key){.partition = i, .kind = LOG_MAIN, .id = i});
    log_store_each(r->o.logs, note_found, &f);
    for (size_t i = 0; i < f.n; i++)
        adopt(&r->parts[f.keys[i].partition], &f.keys[i]);
    mem_free(f.keys);
}

void rlogs_stop(struct replication *r)
{
    struct list *n;

    log_store_set_opened(r->o.logs, NULL, NULL);
    for (uint32_t i = 0; i < r->count; i++) {
        while (!list_empty(&r->parts[i].logs))
            rlog_drop(LIST_ENTRY(r->parts[i].logs.next, struct rlog, node), false);
    }
    while ((n = list_pop_front(&r->opened)) != NULL)
        mem_free(LIST_ENTRY(n, struct opened_log, node));
    mem_free(r->hash);
    r->hash = NULL;
    r->hash_size = 0;
}

/* Looks at up to `max` slots of the table: logs whose object is gone from the topology are let go, and those the topology has come to name are opened. */
void rlogs_sweep(struct replication *r, unsigned max)
{
    for (unsigned i = 0; i < MIN_OF(max, r->hash_size); i++) {
        struct rlog *l = r->hash[r->sweep_at++ & (r->hash_size - 1)], *next;

        for (; l != NULL; l = next) {
            char *dir;

            next = l->hash_next;
            if (l->part->working != WORK_NONE || l->busy || l->key.kind == LOG_MAIN)
                continue;
            dir = dir_of(r, &l->key);
            if (dir == NULL) {
                if (l->log != NULL)
                    rlog_drop(l, true);
            } else if (l->log == NULL && rlog_open(l) == 0) {
                rlog_flag(l);
                if (l->part->role == PARTITION_FOLLOWER)
                    fetcher_report(l, true);
            } else if (l->log != NULL && log_failed(l->log) == ERR_NOT_FOUND) {
                rlog_drop(l, false); /* deleted by its engine */
            } else if (l->log != NULL && log_failed(l->log) == ERR_CORRUPT) {
                repair_look(l->part);
            }
            mem_free(dir);
        }
    }
}
