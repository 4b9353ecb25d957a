/* JoinGroup 0-9, SyncGroup 0-5, Heartbeat 0-4, LeaveGroup 0-5 over the state machine of stream/group.h, and
 * the deadlines of all groups.
 *
 * A join or sync that waits is a struct kafka_group_wait. Whoever makes it ready, on any worker, encodes the
 * answer under the partition's lock and, having left it, mails the wait to its connection's worker, which
 * sends it once the group's state is committed (rule 14). */
#include "protocols/kafka/session.h"

#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/rand.h"

#define SESSION_TIMEOUT_MIN_MS 6000
#define SESSION_TIMEOUT_MAX_MS 1800000

struct kafka_group_wait {
    struct kafka_async async;
    struct mail mail;
    struct list node; /* in part->ready */
    struct kafka_group_part *part;
    struct buf reply;
    struct log *log; /* to be committed up to `end` first; NULL: nothing */
    int64_t end;
    uint64_t mark;
    int err;       /* the partition failed to store the group */
    int16_t error; /* what the answer says */
};

int16_t kafka_group_code(enum group_error err)
{
    static const int16_t codes[] = {
        [GROUP_OK] = KAFKA_ERR_NONE,
        [GROUP_ERR_UNKNOWN_MEMBER] = KAFKA_ERR_UNKNOWN_MEMBER_ID,
        [GROUP_ERR_ILLEGAL_GENERATION] = KAFKA_ERR_ILLEGAL_GENERATION,
        [GROUP_ERR_REBALANCING] = KAFKA_ERR_REBALANCE_IN_PROGRESS,
        [GROUP_ERR_INCONSISTENT_PROTOCOL] = KAFKA_ERR_INCONSISTENT_GROUP_PROTOCOL,
        [GROUP_ERR_FENCED_INSTANCE] = KAFKA_ERR_FENCED_INSTANCE_ID,
        [GROUP_ERR_MEMBER_ID_REQUIRED] = KAFKA_ERR_MEMBER_ID_REQUIRED,
        [GROUP_ERR_NOT_AVAILABLE] = KAFKA_ERR_COORDINATOR_NOT_AVAILABLE,
        [GROUP_ERR_MOVED] = KAFKA_ERR_NOT_COORDINATOR,
    };

    return codes[err];
}

uint32_t kafka_group_partition(const struct kafka_session *s, struct slice group)
{
    return placement_of_group(group, s->front->partition_count);
}

struct group *kafka_group_get(struct kafka_session *s, struct partition_guard *g, uint32_t partition,
                              struct slice id)
{
    kafka_groups_refresh(s->front, g, partition);
    return group_load(&g->kv, &s->front->parts[partition].groups, id, kafka_now_ms(s));
}

/* A leadership that ended took with it whatever was not stored, and another leader may have changed the rest since. */
void kafka_groups_refresh(struct kafka_front *f, struct partition_guard *g, uint32_t partition)
{
    struct kafka_group_part *part = &f->parts[partition];
    int32_t epoch = partition_epoch(g->p);

    if (atomic_load(&part->epoch) != epoch) {
        groups_clear(&part->groups);
        part->all_loaded = false;
        atomic_store(&part->epoch, epoch);
    }
    atomic_store(&part->used, true);
}

/* ---- answers that come later -------------------------------------------------------------------------- */

static void wait_deliver(struct worker *w, struct mail *m)
{
    struct kafka_group_wait *wait = CONTAINER_OF(m, struct kafka_group_wait, mail);
    struct kafka_session *s = wait->async.session;

    (void)w;
    if (s != NULL && wait->err != 0) {
        conn_abort(s->conn, wait->err);
    } else if (s != NULL) {
        if (wait->log != NULL)
            kafka_commit_log(s, wait->log, wait->end, wait->mark);
        conn_write(s->conn, wait->reply.data, wait->reply.len);
        kafka_count_error(s->front, wait->error, 1);
    }
    kafka_async_end(&wait->async);
    buf_fini(&wait->reply);
    mem_free(wait);
}

static struct kafka_group_wait *wait_new(struct kafka_session *s, const struct kafka_request *rq,
                                         uint32_t partition)
{
    struct kafka_group_wait *wait = mem_zalloc(sizeof(*wait));

    kafka_async_begin(&wait->async, s, rq, false);
    wait->mail.deliver = wait_deliver;
    wait->part = &s->front->parts[partition];
    return wait;
}

static void wait_drop(struct kafka_group_wait *wait)
{
    kafka_async_end(&wait->async);
    mem_free(wait);
}

static void put_join(struct kout *o, int16_t code, const struct group *g, const struct group_member *m,
                     struct slice member_id)
{
    bool ok = code == 0;

    kout_i32(o, "ThrottleTimeMs", 0);
    kout_i16(o, "ErrorCode", code);
    kout_i32(o, "GenerationId", ok ? g->generation : -1);
    kout_str(o, "ProtocolType", ok ? g->protocol_type : NULL);
    kout_str(o, "ProtocolName", ok ? g->protocol : NULL);
    kout_str(o, "Leader", ok && g->leader != NULL ? g->leader : "");
    kout_bool(o, "SkipAssignment", ok && m->skip_assignment);
    kout_string(o, "MemberId", member_id);
    kout_array(o, "Members");
    if (ok && group_is_leader(g, m))
        LIST_FOREACH (n, &g->members) {
            const struct group_member *other = LIST_ENTRY(n, struct group_member, node);

            kout_item(o);
            kout_str(o, "MemberId", other->id);
            kout_str(o, "GroupInstanceId", other->instance);
            kout_bytes(o, "Metadata", group_member_metadata(g, other));
        }
    kout_array_end(o);
}

static void put_sync(struct kout *o, int16_t code, const struct group *g, const struct group_member *m)
{
    bool ok = code == 0;

    kout_i32(o, "ThrottleTimeMs", 0);
    kout_i16(o, "ErrorCode", code);
    kout_str(o, "ProtocolType", ok ? g->protocol_type : NULL);
    kout_str(o, "ProtocolName", ok ? g->protocol : NULL);
    kout_bytes(o, "Assignment", ok ? buf_slice(&m->assignment) : SLICE_NONE);
}

static void joined(void *arg, struct group *g, struct group_member *m, enum group_error err)
{
    struct kafka_group_wait *wait = arg;
    struct kafka_reply r;

    kafka_frame_begin(&r, &wait->async.rq, &wait->reply);
    put_join(&r.out, kafka_group_code(err), g, m, m == NULL ? slice_str("") : slice_str(m->id));
    kafka_frame_end(&r);
    wait->error = r.out.error;
    list_push_back(&wait->part->ready, &wait->node);
}

static void synced(void *arg, struct group *g, struct group_member *m, enum group_error err)
{
    struct kafka_group_wait *wait = arg;
    struct kafka_reply r;

    kafka_frame_begin(&r, &wait->async.rq, &wait->reply);
    put_sync(&r.out, kafka_group_code(err), g, m);
    kafka_frame_end(&r);
    wait->error = r.out.error;
    list_push_back(&wait->part->ready, &wait->node);
}

const struct group_ops kafka_group_ops = {joined, synced};

static void note_deadline(struct kafka_group_part *part, const struct group *g)
{
    uint64_t at = group_deadline(g);

    if (at < atomic_load_explicit(&part->deadline_ms, memory_order_relaxed))
        atomic_store_explicit(&part->deadline_ms, at, memory_order_relaxed);
}

/* Leaves the partition, then mails the answers that became ready inside. */
static int leave_and_mail(struct kafka_group_part *part, struct partition_guard *g)
{
    struct list ready, *n;
    int err;

    list_init(&ready);
    list_splice(&ready, &part->ready);
    err = partition_leave(g);
    while ((n = list_pop_front(&ready)) != NULL) {
        struct kafka_group_wait *wait = LIST_ENTRY(n, struct kafka_group_wait, node);

        wait->err = err;
        wait->log = g->wrote ? g->main : NULL;
        wait->end = g->end;
        wait->mark = g->mark;
        worker_post(wait->async.worker, &wait->mail);
    }
    return err;
}

int kafka_group_leave(struct kafka_front *f, struct partition_guard *g, uint32_t partition,
                      struct group *group)
{
    struct kafka_group_part *part = &f->parts[partition];

    if (group != NULL) {
        group_save(&g->kv, group, g->kv.now_ms);
        note_deadline(part, group);
    }
    return leave_and_mail(part, g);
}

/* ---- deadlines ---------------------------------------------------------------------------------------- */

struct tick {
    struct kafka_group_part *part;
    struct kv_ctx *kv;
    uint64_t now_ms, next_ms;
};

/* ---- leadership that ended ---------------------------------------------------------------------------- */

struct drop_job {
    struct bg_job bg;
    struct kafka_front *f;
    uint32_t partition;
};

static void drop_run(struct bg_job *bg)
{
    struct drop_job *d = CONTAINER_OF(bg, struct drop_job, bg);
    struct kafka_group_part *part = &d->f->parts[d->partition];
    struct partition *p = partitions_get(d->f->options.partitions, d->partition);
    struct partition_guard g;

    partition_enter_background(p, KV_DB_INTERNAL, &g);
    if (partition_role(p) != PARTITION_LEADER || partition_epoch(p) != atomic_load(&part->epoch)) {
        groups_clear(&part->groups);
        part->all_loaded = false;
        atomic_store(&part->epoch, partition_epoch(p));
        atomic_store(&part->deadline_ms, UINT64_MAX);
        atomic_store(&part->used, false);
    }
    (void)leave_and_mail(part, &g);
    atomic_store(&part->dropping, false);
    mem_free(d);
}

/* Members that wait are told to look for their coordinator; without this they would wait for their connection to end. */
static void drop_lost(struct kafka_front *f, uint32_t partition)
{
    struct kafka_group_part *part = &f->parts[partition];
    struct partition *p = partitions_get(f->options.partitions, partition);
    enum partition_role role = partition_role(p);
    struct drop_job *d;

    if (!atomic_load(&part->used) || atomic_load(&part->dropping) || role == PARTITION_PARKED ||
        (role == PARTITION_LEADER && partition_epoch(p) == atomic_load(&part->epoch)))
        return;
    d = mem_zalloc(sizeof(*d));
    d->f = f;
    d->partition = partition;
    d->bg.run = drop_run;
    atomic_store(&part->dropping, true);
    bg_submit(f->options.workers, BG_FREE, &d->bg);
}

/* ---- deadlines, continued ----------------------------------------------------------------------------- */

static void tick_group(struct group *g, void *arg)
{
    struct tick *t = arg;

    group_tick(&t->part->groups, g, t->now_ms);
    group_save(t->kv, g, t->kv->now_ms);
    t->next_ms = MIN_OF(t->next_ms, group_deadline(g));
}

void kafka_groups_tick(struct kafka_front *f, struct worker *w)
{
    uint64_t now_ms = worker_now_us(w) / 1000;

    for (uint32_t i = 0; i < f->partition_count; i++) {
        struct kafka_group_part *part = &f->parts[i];
        struct partition_guard g;
        struct tick t = {.part = part, .kv = &g.kv, .now_ms = now_ms, .next_ms = UINT64_MAX};

        drop_lost(f, i);
        if (atomic_load_explicit(&part->deadline_ms, memory_order_relaxed) > now_ms)
            continue;
        if (partition_enter(partitions_get(f->options.partitions, i), KV_DB_INTERNAL, NULL, &g) != 0)
            continue; /* busy: the next tick comes soon */
        kafka_groups_refresh(f, &g, i);
        groups_each(&part->groups, tick_group, &t);
        atomic_store_explicit(&part->deadline_ms, t.next_ms, memory_order_relaxed);
        (void)leave_and_mail(part, &g);
    }
}

/* ---- the end ------------------------------------------------------------------------------------------ */

static void free_wait(void *arg)
{
    struct kafka_group_wait *wait = arg;

    if (wait == NULL)
        return;
    buf_fini(&wait->async.frame);
    buf_fini(&wait->reply);
    mem_free(wait);
}

static void free_waits(struct group *g, void *arg)
{
    (void)arg;
    LIST_FOREACH(n, &g->members)
    {
        struct group_member *m = LIST_ENTRY(n, struct group_member, node);

        free_wait(m->join_wait);
        free_wait(m->sync_wait);
        m->join_wait = m->sync_wait = NULL;
    }
}

void kafka_groups_fini(struct kafka_front *f)
{
    for (uint32_t i = 0; i < f->partition_count; i++) {
        groups_each(&f->parts[i].groups, free_waits, NULL);
        groups_fini(&f->parts[i].groups);
    }
}

/* ---- JoinGroup ---------------------------------------------------------------------------------------- */

static void client_host(const struct kafka_session *s, char *text, size_t size)
{
    char peer[96], *colon;

    conn_peer_text(s->conn, peer, sizeof(peer));
    colon = strrchr(peer, ':');
    if (colon != NULL && strncmp(peer, "unix:", 5) != 0)
        *colon = '\0';
    snprintf(text, size, "/%s", peer);
}

/* Kafka's form: the instance or client id, a dash, a random UUID. */
static char *make_member_id(struct slice instance, struct slice client_id)
{
    struct slice base = instance.data != NULL ? instance : client_id;
    uint8_t u[16];

    rand_secure(u, sizeof(u));
    return mem_printf("%.*s-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
                      (int)base.len, base.len == 0 ? "" : (const char *)base.data, u[0], u[1], u[2], u[3],
                      u[4], u[5], (u[6] & 0x0f) | 0x40, u[7], (u[8] & 0x3f) | 0x80, u[9], u[10], u[11], u[12],
                      u[13], u[14], u[15]);
}

static int refuse_join(struct kafka_session *s, const struct kafka_request *rq, int16_t code,
                       struct slice member_id)
{
    struct kafka_reply r;

    put_join(kafka_reply_begin(s, rq, &r), code, NULL, NULL,
             member_id.data == NULL ? slice_str("") : member_id);
    kafka_reply_end(s, &r);
    return KAFKA_DONE;
}

struct join_request {
    struct slice group;
    struct group_join join;
    struct slice *names, *metadata;
};

static void parse_join(const struct kafka_request *rq, struct join_request *q)
{
    struct group_join *j = &q->join;
    struct kin in;
    int32_t rebalance_timeout_ms;
    int64_t n;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    q->group = kin_string(&in, "GroupId");
    j->session_timeout_ms = kin_i32(&in, "SessionTimeoutMs", 0);
    rebalance_timeout_ms = kin_i32(&in, "RebalanceTimeoutMs", j->session_timeout_ms);
    j->rebalance_timeout_ms = MAX_OF(rebalance_timeout_ms, 0);
    j->member_id = kin_string(&in, "MemberId");
    j->instance = kin_string(&in, "GroupInstanceId");
    j->protocol_type = kin_string(&in, "ProtocolType");
    n = kin_array(&in, "Protocols");
    q->names = mem_calloc((size_t)n + 1, sizeof(*q->names));
    q->metadata = mem_calloc((size_t)n + 1, sizeof(*q->metadata));
    for (unsigned i = 0; kin_item(&in); i++) {
        q->names[i] = kin_string(&in, "Name");
        q->metadata[i] = kin_bytes(&in, "Metadata");
        j->protocol_count = i + 1;
    }
    j->names = q->names;
    j->metadata = q->metadata;
    j->id_required = rq->version >= 4;
    j->may_skip_assignment = rq->version >= 9;
    j->client_id = rq->client_id.data == NULL ? slice_str("") : rq->client_id;
}

static int join_group(struct kafka_session *s, struct kafka_request *rq, struct join_request *q)
{
    uint32_t partition = kafka_group_partition(s, q->group);
    struct kafka_group_wait *wait;
    struct partition_guard g;
    struct group *group;
    enum group_error err;
    int entered;

    entered = kafka_enter_coordinator(s, partition, &g);
    if (entered == KAFKA_RETRY)
        return KAFKA_RETRY;
    if (entered != 0)
        return refuse_join(s, rq, kafka_coordinator_code(entered), q->join.member_id);
    group = kafka_group_get(s, &g, partition, q->group);
    if (group == NULL && q->join.member_id.len != 0) {
        (void)kafka_group_leave(s->front, &g, partition, NULL);
        return refuse_join(s, rq, KAFKA_ERR_UNKNOWN_MEMBER_ID, q->join.member_id);
    }
    if (group == NULL)
        group = group_add(&s->front->parts[partition].groups, q->group);
    q->join.wait = wait = wait_new(s, rq, partition);
    err = group_join(&s->front->parts[partition].groups, group, &q->join, kafka_now_ms(s));
    if (err == GROUP_OK) {
        (void)kafka_group_leave(s->front, &g, partition, group);
        return KAFKA_WAIT;
    }
    wait_drop(wait);
    (void)kafka_group_leave(s->front, &g, partition, group);
    return refuse_join(s, rq, kafka_group_code(err),
                       err == GROUP_ERR_MEMBER_ID_REQUIRED ? q->join.new_member_id : q->join.member_id);
}

int kafka_handle_join_group(struct kafka_session *s, struct kafka_request *rq)
{
    struct join_request q = {0};
    char host[112], *new_id;
    int outcome;

    parse_join(rq, &q);
    client_host(s, host, sizeof(host));
    q.join.client_host = slice_str(host);
    new_id = make_member_id(q.join.instance, q.join.client_id);
    q.join.new_member_id = slice_str(new_id);
    if (q.group.len == 0)
        outcome = refuse_join(s, rq, KAFKA_ERR_INVALID_GROUP_ID, q.join.member_id);
    else if (q.join.session_timeout_ms < SESSION_TIMEOUT_MIN_MS ||
             q.join.session_timeout_ms > SESSION_TIMEOUT_MAX_MS)
        outcome = refuse_join(s, rq, KAFKA_ERR_INVALID_SESSION_TIMEOUT, q.join.member_id);
    else
        outcome = join_group(s, rq, &q);
    mem_free(new_id);
    mem_free(q.names);
    mem_free(q.metadata);
    return outcome;
}

/* ---- SyncGroup ---------------------------------------------------------------------------------------- */

static int refuse_sync(struct kafka_session *s, const struct kafka_request *rq, int16_t code)
{
    struct kafka_reply r;

    put_sync(kafka_reply_begin(s, rq, &r), code, NULL, NULL);
    kafka_reply_end(s, &r);
    return KAFKA_DONE;
}

static int sync_group(struct kafka_session *s, struct kafka_request *rq, struct slice id,
                      struct group_sync *y)
{
    uint32_t partition = kafka_group_partition(s, id);
    struct partition_guard g;
    struct group *group;
    enum group_error err = GROUP_ERR_UNKNOWN_MEMBER;
    int entered = kafka_enter_coordinator(s, partition, &g);

    if (entered == KAFKA_RETRY)
        return KAFKA_RETRY;
    if (entered != 0)
        return refuse_sync(s, rq, kafka_coordinator_code(entered));
    group = kafka_group_get(s, &g, partition, id);
    if (group != NULL) {
        struct kafka_group_wait *wait = wait_new(s, rq, partition);

        y->wait = wait;
        err = group_sync(&s->front->parts[partition].groups, group, y, kafka_now_ms(s));
        if (err != GROUP_OK)
            wait_drop(wait);
    }
    (void)kafka_group_leave(s->front, &g, partition, group);
    return err == GROUP_OK ? KAFKA_WAIT : refuse_sync(s, rq, kafka_group_code(err));
}

int kafka_handle_sync_group(struct kafka_session *s, struct kafka_request *rq)
{
    struct group_sync y = {0};
    struct slice id, *members, *assignments;
    struct kin in;
    int64_t n;
    int outcome;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    id = kin_string(&in, "GroupId");
    y.generation = kin_i32(&in, "GenerationId", -1);
    y.member_id = kin_string(&in, "MemberId");
    y.instance = kin_string(&in, "GroupInstanceId");
    y.protocol_type = kin_string(&in, "ProtocolType");
    y.protocol = kin_string(&in, "ProtocolName");
    n = kin_array(&in, "Assignments");
    y.members = members = mem_calloc((size_t)n + 1, sizeof(*members));
    y.assignments = assignments = mem_calloc((size_t)n + 1, sizeof(*assignments));
    while (kin_item(&in)) {
        members[y.assignment_count] = kin_string(&in, "MemberId");
        assignments[y.assignment_count++] = kin_bytes(&in, "Assignment");
    }
    outcome = id.len == 0 ? refuse_sync(s, rq, KAFKA_ERR_INVALID_GROUP_ID) : sync_group(s, rq, id, &y);
    mem_free(members);
    mem_free(assignments);
    return outcome;
}

/* ---- Heartbeat and LeaveGroup ------------------------------------------------------------------------- */

int kafka_handle_heartbeat(struct kafka_session *s, struct kafka_request *rq)
{
    struct kafka_reply r;
    struct kin in;
    struct kout *o;
    struct slice id, member, instance;
    int32_t generation;
    int16_t code = KAFKA_ERR_INVALID_GROUP_ID;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    id = kin_string(&in, "GroupId");
    generation = kin_i32(&in, "GenerationId", -1);
    member = kin_string(&in, "MemberId");
    instance = kin_string(&in, "GroupInstanceId");
    if (id.len != 0) {
        uint32_t partition = kafka_group_partition(s, id);
        struct partition_guard g;
        int entered = kafka_enter_coordinator(s, partition, &g);

        if (entered == KAFKA_RETRY)
            return KAFKA_RETRY;
        code = kafka_coordinator_code(entered == 0 ? ERR_IO : entered);
        if (entered == 0) {
            struct group *group = kafka_group_get(s, &g, partition, id);
            enum group_error err = group == NULL
                                       ? GROUP_ERR_UNKNOWN_MEMBER
                                       : group_heartbeat(&s->front->parts[partition].groups, group, member,
                                                         instance, generation, kafka_now_ms(s));

            code = kafka_group_leave(s->front, &g, partition, group) != 0
                       ? KAFKA_ERR_COORDINATOR_NOT_AVAILABLE
                       : kafka_group_code(err);
        }
    }
    o = kafka_reply_begin(s, rq, &r);
    kout_i32(o, "ThrottleTimeMs", 0);
    kout_i16(o, "ErrorCode", code);
    kafka_reply_end(s, &r);
    return KAFKA_DONE;
}

/* Version 3 and newer name several members, each with its own error. */
static void leave_members(struct kafka_session *s, const struct kafka_request *rq, struct groups *gs,
                          struct group *group, int16_t *codes)
{
    struct kin in;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    if (rq->version < 3) {
        struct slice member = kin_string(&in, "MemberId");

        codes[0] =
            kafka_group_code(group == NULL ? GROUP_ERR_UNKNOWN_MEMBER
                                           : group_leave(gs, group, member, SLICE_NONE, kafka_now_ms(s)));
        return;
    }
    (void)kin_array(&in, "Members");
    for (unsigned i = 0; kin_item(&in); i++) {
        struct slice member = kin_string(&in, "MemberId"), instance = kin_string(&in, "GroupInstanceId");

        codes[i] =
            kafka_group_code(group == NULL ? GROUP_ERR_UNKNOWN_MEMBER
                                           : group_leave(gs, group, member, instance, kafka_now_ms(s)));
    }
}

static void put_left(struct kafka_session *s, const struct kafka_request *rq, int16_t code,
                     const int16_t *codes)
{
    struct kafka_reply r;
    struct kin in;
    struct kout *o = kafka_reply_begin(s, rq, &r);

    kin_init(&in, rq->api->request, rq->version, rq->body);
    kout_i32(o, "ThrottleTimeMs", 0);
    kout_i16(o, "ErrorCode", code != 0 || rq->version >= 3 ? code : codes[0]);
    (void)kin_array(&in, "Members");
    kout_array(o, "Members");
    for (unsigned i = 0; kin_item(&in); i++) {
        kout_item(o);
        kout_string(o, "MemberId", kin_string(&in, "MemberId"));
        kout_string(o, "GroupInstanceId", kin_string(&in, "GroupInstanceId"));
        kout_i16(o, "ErrorCode", codes[i]);
    }
    kout_array_end(o);
    kafka_reply_end(s, &r);
}

int kafka_handle_leave_group(struct kafka_session *s, struct kafka_request *rq)
{
    struct partition_guard g;
    struct slice id;
    struct kin in, at;
    uint32_t partition;
    int16_t *codes, code = KAFKA_ERR_INVALID_GROUP_ID;
    int64_t n;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    id = kin_string(&in, "GroupId");
    at = in;
    n = kin_array(&at, "Members");
    codes = mem_calloc((size_t)n + 1, sizeof(*codes));
    if (id.len != 0) {
        int entered;

        partition = kafka_group_partition(s, id);
        entered = kafka_enter_coordinator(s, partition, &g);
        if (entered == KAFKA_RETRY) {
            mem_free(codes);
            return KAFKA_RETRY;
        }
        code = kafka_coordinator_code(entered == 0 ? ERR_IO : entered);
        if (entered == 0) {
            struct group *group = kafka_group_get(s, &g, partition, id);

            leave_members(s, rq, &s->front->parts[partition].groups, group, codes);
            if (kafka_group_leave(s->front, &g, partition, group) == 0) {
                code = 0;
                if (g.wrote)
                    kafka_commit_log(s, g.main, g.end, g.mark);
            }
        }
    }
    put_left(s, rq, code, codes);
    mem_free(codes);
    return KAFKA_DONE;
}
