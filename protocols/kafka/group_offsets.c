/* OffsetCommit 2-10, OffsetFetch 1-10, OffsetDelete 0. Offsets live in the store of the group's partition
 * (stream/group_store.h) under its lock and are answered when committed. */
#include "protocols/kafka/session.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"

#define METADATA_MAX 4096 /* offset.metadata.max.bytes */

/* A topic as versions up to 9 (name) or 10 (id) name it, within an item of Topics. */
static const struct topo_topic *read_topic(struct kafka_session *s, const struct kafka_request *rq,
                                           struct kin *in, struct kafka_topic_ref *ref, int16_t *ret_code)
{
    const struct topo_topic *t;

    ref->name = kin_string(in, "Name");
    ref->uuid = rq->version >= 10 ? kin_uuid(in, "TopicId") : NULL;
    t = kafka_topic_resolve(kafka_view(s), ref);
    *ret_code = t != NULL           ? 0
                : ref->uuid != NULL ? KAFKA_ERR_UNKNOWN_TOPIC_ID
                                    : KAFKA_ERR_UNKNOWN_TOPIC_OR_PARTITION;
    return t;
}

/* ---- OffsetCommit ------------------------------------------------------------------------------------- */

static int16_t partition_code(const struct topo_topic *t, int32_t index, struct slice metadata,
                              int16_t topic_code)
{
    if (topic_code != 0)
        return topic_code;
    if (index < 0 || (uint32_t)index >= t->partitions)
        return KAFKA_ERR_UNKNOWN_TOPIC_OR_PARTITION;
    return metadata.len > METADATA_MAX ? KAFKA_ERR_OFFSET_METADATA_TOO_LARGE : 0;
}

/* Stores every offset of the request that may be. */
static void store_offsets(struct kafka_session *s, const struct kafka_request *rq, struct partition_guard *g,
                          struct slice group)
{
    struct kin in;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    (void)kin_array(&in, "Topics");
    while (kin_item(&in)) {
        struct kafka_topic_ref ref;
        int16_t code;
        const struct topo_topic *t = read_topic(s, rq, &in, &ref, &code);

        (void)kin_array(&in, "Partitions");
        while (kin_item(&in)) {
            struct group_offset o = {.topic_id = t == NULL ? 0 : t->id, .commit_ms = g->kv.now_ms};
            int32_t index = kin_i32(&in, "PartitionIndex", 0);

            o.offset = kin_i64(&in, "CommittedOffset", -1);
            o.leader_epoch = kin_i32(&in, "CommittedLeaderEpoch", -1);
            o.metadata = kin_string(&in, "CommittedMetadata");
            if (partition_code(t, index, o.metadata, code) == 0)
                group_offset_put(&g->kv, group, t->name, (uint32_t)index, &o);
        }
    }
}

static void put_committed(struct kafka_session *s, const struct kafka_request *rq, int16_t group_code)
{
    struct kafka_reply r;
    struct kin in;
    struct kout *o = kafka_reply_begin(s, rq, &r);

    kin_init(&in, rq->api->request, rq->version, rq->body);
    kout_i32(o, "ThrottleTimeMs", 0);
    (void)kin_array(&in, "Topics");
    kout_array(o, "Topics");
    while (kin_item(&in)) {
        struct kafka_topic_ref ref;
        int16_t code;
        const struct topo_topic *t = read_topic(s, rq, &in, &ref, &code);

        kout_item(o);
        kout_string(o, "Name", ref.name);
        kout_uuid(o, "TopicId", ref.uuid);
        (void)kin_array(&in, "Partitions");
        kout_array(o, "Partitions");
        while (kin_item(&in)) {
            int32_t index = kin_i32(&in, "PartitionIndex", 0);
            int16_t own = partition_code(t, index, kin_string(&in, "CommittedMetadata"), code);

            kout_item(o);
            kout_i32(o, "PartitionIndex", index);
            kout_i16(o, "ErrorCode", own != 0 ? own : group_code);
        }
        kout_array_end(o);
    }
    kout_array_end(o);
    kafka_reply_end(s, &r);
}

int kafka_handle_offset_commit(struct kafka_session *s, struct kafka_request *rq)
{
    struct partition_guard g;
    struct group *group;
    struct kin in;
    struct slice id, member, instance;
    int32_t generation;
    uint32_t partition;
    enum group_error err = GROUP_OK;
    int entered;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    id = kin_string(&in, "GroupId");
    generation = kin_i32(&in, "GenerationIdOrMemberEpoch", -1);
    member = kin_string(&in, "MemberId");
    instance = kin_string(&in, "GroupInstanceId");
    partition = kafka_group_partition(s, id);
    entered = kafka_enter_coordinator(s, partition, &g);
    if (entered == KAFKA_RETRY)
        return KAFKA_RETRY;
    if (entered != 0) {
        put_committed(s, rq, kafka_coordinator_code(entered));
        return KAFKA_DONE;
    }
    group = kafka_group_get(s, &g, partition, id);
    if (group == NULL && generation >= 0) {
        err = GROUP_ERR_ILLEGAL_GENERATION;
    } else {
        if (group == NULL) { /* a consumer that only keeps its offsets here */
            group = group_add(&s->front->parts[partition].groups, id);
            group->changed = true;
        }
        err = group_may_commit(&s->front->parts[partition].groups, group, member, instance, generation,
                               kafka_now_ms(s));
        if (err == GROUP_OK)
            store_offsets(s, rq, &g, id);
    }
    if (kafka_group_leave(s->front, &g, partition, group) != 0)
        err = GROUP_ERR_NOT_AVAILABLE;
    else if (g.wrote)
        kafka_commit_log(s, g.main, g.end, g.mark);
    put_committed(s, rq, kafka_group_code(err));
    return KAFKA_DONE;
}

/* ---- OffsetFetch -------------------------------------------------------------------------------------- */

struct fetched {
    struct kafka_session *s;
    const struct kafka_request *rq;
    struct kout *o;
    struct slice group;
    struct kv_ctx *kv;
    struct kafka_commit *commit; /* what is shown is committed when it is told (rule 14) */
};

static void put_offset(struct kout *o, int32_t index, const struct group_offset *at, int16_t code)
{
    kout_item(o);
    kout_i32(o, "PartitionIndex", index);
    kout_i64(o, "CommittedOffset", at == NULL ? -1 : at->offset);
    kout_i32(o, "CommittedLeaderEpoch", at == NULL ? -1 : at->leader_epoch);
    kout_string(o, "Metadata", at == NULL ? slice_str("") : at->metadata);
    kout_i16(o, "ErrorCode", code);
}

static void put_asked_topic(struct fetched *x, struct kin *in)
{
    struct group_offset at;
    struct kafka_topic_ref ref;
    int16_t code;
    const struct topo_topic *t = read_topic(x->s, x->rq, in, &ref, &code);
    int64_t n;

    kout_item(x->o);
    kout_string(x->o, "Name", ref.name);
    if (x->rq->version >= 8)
        kout_uuid(x->o, "TopicId", ref.uuid);
    kout_array(x->o, "Partitions");
    for (n = kin_list(in, "PartitionIndexes"); n > 0; n--) {
        int32_t index = kin_elem_i32(in);
        bool found = t != NULL && index >= 0 &&
                     group_offset_get(x->kv, x->group, t->name, (uint32_t)index, &at) && at.topic_id == t->id;

        put_offset(x->o, index, found ? &at : NULL, ref.uuid != NULL ? code : 0);
    }
    kout_array_end(x->o);
}

/* All offsets of a group, gathered so that those of a topic stand together. */
struct stored_offset {
    struct slice topic;
    uint32_t index;
    struct group_offset at;
};
struct all_offsets {
    struct stored_offset *rows;
    size_t count, cap;
};

static void gather(struct slice topic, uint32_t index, const struct group_offset *at, void *arg)
{
    struct all_offsets *a = arg;

    if (a->count == a->cap) {
        a->cap = a->cap == 0 ? 16 : a->cap * 2;
        a->rows = mem_realloc(a->rows, a->cap * sizeof(*a->rows));
    }
    a->rows[a->count++] = (struct stored_offset){topic, index, *at};
}

static int compare_rows(const void *x, const void *y)
{
    const struct stored_offset *a = x, *b = y;
    int c = slice_cmp(a->topic, b->topic);

    return c != 0 ? c : (a->index > b->index) - (a->index < b->index);
}

static void put_all_topics(struct fetched *x)
{
    struct all_offsets a = {0};

    group_offset_each(x->kv, x->group, gather, &a);
    if (a.count != 0)
        qsort(a.rows, a.count, sizeof(*a.rows), compare_rows);
    for (size_t i = 0; i < a.count;) {
        const struct topo_topic *t = topo_topic_find(kafka_view(x->s), a.rows[i].topic);
        size_t n = i;

        while (n < a.count && slice_eq(a.rows[n].topic, a.rows[i].topic))
            n++;
        if (t == NULL || a.rows[i].at.topic_id != t->id) { /* deleted meanwhile */
            i = n;
            continue;
        }
        kout_item(x->o);
        kout_string(x->o, "Name", t->name);
        if (x->rq->version >= 8)
            kout_uuid(x->o, "TopicId", t->uuid);
        kout_array(x->o, "Partitions");
        for (; i < n; i++)
            put_offset(x->o, (int32_t)a.rows[i].index, &a.rows[i].at, 0);
        kout_array_end(x->o);
    }
    mem_free(a.rows);
}

/* One group's topics, `in` being before the array. 0, KAFKA_RETRY, or an ERR_* of the partition. */
static int put_group_topics(struct fetched *x, struct kin *in)
{
    uint32_t partition = kafka_group_partition(x->s, x->group);
    struct partition_guard g;
    int entered = kafka_enter(x->s, partition, &g);
    int64_t n;
    int err;

    if (entered != 0)
        return entered;
    x->kv = &g.kv;
    n = kin_array(in, "Topics");
    kout_array(x->o, "Topics");
    while (kin_item(in))
        put_asked_topic(x, in);
    if (n < 0)
        put_all_topics(x);
    kout_array_end(x->o);
    err = kafka_group_leave(x->s->front, &g, partition, NULL);
    /* An offset that only this node has may be taken back by a failover, and who read it would have gone on from there. */
    if (err == 0 && log_replicated(g.main))
        log_commit_add(&x->commit->c, g.main, partition_guard_end(&g));
    return err;
}

static void put_no_topics(struct fetched *x, struct kin *in)
{
    (void)kin_array(in, "Topics");
    while (kin_item(in))
        ;
    kout_array(x->o, "Topics");
    kout_array_end(x->o);
}

int kafka_handle_offset_fetch(struct kafka_session *s, struct kafka_request *rq)
{
    struct fetched x = {.s = s, .rq = rq, .commit = kafka_commit_new(s)};
    uint64_t hold = conn_hold(s->conn);
    struct kafka_reply r;
    struct kin in;
    int err = 0;

    x.o = kafka_reply_begin(s, rq, &r);
    kout_i32(x.o, "ThrottleTimeMs", 0);
    kin_init(&in, rq->api->request, rq->version, rq->body);
    x.group = kin_string(&in, "GroupId");
    if (rq->version < 8) {
        err = put_group_topics(&x, &in);
        if (err != 0 && err != KAFKA_RETRY)
            put_no_topics(&x, &in);
    } else {
        put_no_topics(&x, &in); /* muted: the version has groups instead */
    }
    if (err == KAFKA_RETRY) {
        kafka_reply_drop(&r);
        kafka_commit_drop(x.commit, hold);
        return KAFKA_RETRY;
    }
    kout_i16(x.o, "ErrorCode", kafka_coordinator_code(err));
    (void)kin_array(&in, "Groups");
    kout_array(x.o, "Groups");
    while (kin_item(&in)) {
        kout_item(x.o);
        x.group = kin_string(&in, "GroupId");
        kout_string(x.o, "GroupId", x.group);
        err = put_group_topics(&x, &in);
        if (err == KAFKA_RETRY) { /* nothing was changed: once more from the beginning */
            kafka_reply_drop(&r);
            kafka_commit_drop(x.commit, hold);
            return KAFKA_RETRY;
        }
        if (err != 0)
            put_no_topics(&x, &in);
        kout_i16(x.o, "ErrorCode", kafka_coordinator_code(err));
    }
    kout_array_end(x.o);
    kafka_reply_end(s, &r);
    (void)kafka_commit_arm_held(x.commit, hold);
    return KAFKA_DONE;
}

/* ---- OffsetDelete (KIP-496) --------------------------------------------------------------------------- */

/* Whether a member's subscription names the topic: ConsumerProtocolSubscription is int16 version, then an
 * array of names, in every version. */
static bool subscribes(struct slice metadata, struct slice topic)
{
    struct reader r = reader_of(metadata);
    int64_t n;

    (void)reader_be16(&r);
    for (n = kafka_read_len(&r, false); n > 0 && !r.bad; n--)
        if (slice_eq(kafka_read_string(&r, false), topic))
            return true;
    return false;
}

static bool group_subscribes(const struct group *g, struct slice topic)
{
    if (g->protocol_type == NULL || strcmp(g->protocol_type, "consumer") != 0)
        return false;
    LIST_FOREACH (n, &g->members)
        if (subscribes(group_member_metadata(g, LIST_ENTRY(n, struct group_member, node)), topic))
            return true;
    return false;
}

static int16_t delete_code(const struct group *g)
{
    if (g == NULL)
        return KAFKA_ERR_GROUP_ID_NOT_FOUND;
    if (g->state == GROUP_EMPTY || (g->protocol_type != NULL && strcmp(g->protocol_type, "consumer") == 0))
        return 0;
    return KAFKA_ERR_NON_EMPTY_GROUP;
}

int kafka_handle_offset_delete(struct kafka_session *s, struct kafka_request *rq)
{
    struct partition_guard g;
    struct kafka_reply r;
    struct buf scratch = {0};
    struct group *group = NULL;
    struct kin in;
    struct slice id;
    uint32_t partition;
    int16_t code;
    int entered;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    id = kin_string(&in, "GroupId");
    partition = kafka_group_partition(s, id);
    entered = kafka_enter_coordinator(s, partition, &g);
    if (entered == KAFKA_RETRY)
        return KAFKA_RETRY;
    code = kafka_coordinator_code(entered);
    if (entered == 0) {
        group = kafka_group_get(s, &g, partition, id);
        code = delete_code(group);
    }
    kafka_frame_begin(&r, rq, &scratch);
    kout_i16(&r.out, "ErrorCode", code);
    kout_i32(&r.out, "ThrottleTimeMs", 0);
    kout_array(&r.out, "Topics");
    (void)kin_array(&in, "Topics");
    while (code == 0 && kin_item(&in)) {
        struct slice name = kin_string(&in, "Name");
        bool subscribed = group_subscribes(group, name);

        kout_item(&r.out);
        kout_string(&r.out, "Name", name);
        (void)kin_array(&in, "Partitions");
        kout_array(&r.out, "Partitions");
        while (kin_item(&in)) {
            int32_t index = kin_i32(&in, "PartitionIndex", 0);

            if (!subscribed)
                (void)group_offset_delete(&g.kv, id, name, (uint32_t)index);
            kout_item(&r.out);
            kout_i32(&r.out, "PartitionIndex", index);
            kout_i16(&r.out, "ErrorCode", subscribed ? KAFKA_ERR_GROUP_SUBSCRIBED_TO_TOPIC : 0);
        }
        kout_array_end(&r.out);
    }
    kout_array_end(&r.out);
    kafka_frame_end(&r);
    if (entered == 0 && kafka_group_leave(s->front, &g, partition, group) != 0) {
        buf_fini(&scratch);
        return ERR_IO; /* the partition has just failed: the client finds out by asking again */
    }
    if (entered == 0 && g.wrote)
        kafka_commit_log(s, g.main, g.end, g.mark);
    conn_write(s->conn, scratch.data, scratch.len);
    buf_fini(&scratch);
    return KAFKA_DONE;
}
