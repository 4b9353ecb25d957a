/* DescribeGroups 0-6, ListGroups 0-5, DeleteGroups 0-2, and the listing for the admin commands. */
#include "protocols/kafka/session.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"

#define GROUP_OPERATIONS 0x0148 /* READ, DELETE, DESCRIBE: all of a group's, KIP-430 */

/* ---- DescribeGroups ----------------------------------------------------------------------------------- */

static void put_members(struct kout *o, const struct group *g)
{
    bool stable = g->state == GROUP_STABLE;

    LIST_FOREACH (n, &g->members) {
        const struct group_member *m = LIST_ENTRY(n, struct group_member, node);

        kout_item(o);
        kout_str(o, "MemberId", m->id);
        kout_str(o, "GroupInstanceId", m->instance);
        kout_str(o, "ClientId", m->client_id);
        kout_str(o, "ClientHost", m->client_host);
        kout_bytes(o, "MemberMetadata", stable ? group_member_metadata(g, m) : slice_str(""));
        kout_bytes(o, "MemberAssignment", stable ? buf_slice(&m->assignment) : SLICE_NONE);
    }
}

static void put_described(struct kout *o, const struct kafka_request *rq, struct slice id, int16_t code,
                          const struct group *g, bool operations)
{
    const char *why = NULL;

    if (code == 0 && g == NULL &&
        rq->version >= 6) { /* KIP-1043; before, a group that is not there was "Dead" */
        code = KAFKA_ERR_GROUP_ID_NOT_FOUND;
        why = kafka_error_text(code);
    }
    kout_item(o);
    kout_i16(o, "ErrorCode", code);
    kout_str(o, "ErrorMessage", why);
    kout_string(o, "GroupId", id);
    kout_str(o, "GroupState",
             g != NULL                                           ? group_state_name(g->state)
             : code == 0 || code == KAFKA_ERR_GROUP_ID_NOT_FOUND ? "Dead"
                                                                 : "");
    kout_str(o, "ProtocolType", g != NULL && g->protocol_type != NULL ? g->protocol_type : "");
    kout_str(o, "ProtocolData",
             g != NULL && g->state == GROUP_STABLE && g->protocol != NULL ? g->protocol : "");
    kout_array(o, "Members");
    if (g != NULL)
        put_members(o, g);
    kout_array_end(o);
    kout_i32(o, "AuthorizedOperations", operations ? GROUP_OPERATIONS : INT32_MIN);
}

int kafka_handle_describe_groups(struct kafka_session *s, struct kafka_request *rq)
{
    struct kafka_reply r;
    struct kin in, flags;
    struct kout *o;
    bool operations;
    int64_t n;

    kin_init(&flags, rq->api->request, rq->version, rq->body);
    operations = kin_bool(&flags, "IncludeAuthorizedOperations", false);
    o = kafka_reply_begin(s, rq, &r);
    kout_i32(o, "ThrottleTimeMs", 0);
    kin_init(&in, rq->api->request, rq->version, rq->body);
    kout_array(o, "Groups");
    for (n = kin_list(&in, "Groups"); n > 0; n--) {
        struct slice id = kin_elem_string(&in);
        uint32_t partition = kafka_group_partition(s, id);
        struct partition_guard g;
        int entered = kafka_enter_coordinator(s, partition, &g);

        if (entered == KAFKA_RETRY) {
            kafka_reply_drop(&r);
            return KAFKA_RETRY;
        }
        if (entered != 0) {
            put_described(o, rq, id, kafka_coordinator_code(entered), NULL, operations);
            continue;
        }
        put_described(o, rq, id, 0, kafka_group_get(s, &g, partition, id), operations);
        (void)kafka_group_leave(s->front, &g, partition, NULL);
    }
    kout_array_end(o);
    kafka_reply_end(s, &r);
    return KAFKA_DONE;
}

/* ---- ListGroups --------------------------------------------------------------------------------------- */

struct listing {
    struct kout *o;
    const struct kafka_request *rq;
};

/* Whether a filter, read anew for each group, lets the word through; an empty one lets all. Case does not
 * count. */
static bool passes(const struct kafka_request *rq, const char *filter, const char *word)
{
    struct kin in;
    int64_t n;
    bool any;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    n = kin_list(&in, filter);
    any = n <= 0;
    for (; n > 0; n--)
        any = slice_ieq(kin_elem_string(&in), word) || any;
    return any;
}

static void put_listed(struct group *g, void *arg)
{
    struct listing *l = arg;

    if (!passes(l->rq, "StatesFilter", group_state_name(g->state)) ||
        !passes(l->rq, "TypesFilter", "classic"))
        return;
    if (g->state == GROUP_EMPTY && g->generation == 0 && g->empty_since_ms < 0)
        return; /* asked for, never joined: it leaves no trace */
    kout_item(l->o);
    kout_str(l->o, "GroupId", g->id);
    kout_str(l->o, "ProtocolType", g->protocol_type != NULL ? g->protocol_type : "");
    kout_str(l->o, "GroupState", group_state_name(g->state));
    kout_str(l->o, "GroupType", "classic");
}

static void load_all(struct kafka_front *f, struct partition_guard *g, uint32_t partition, uint64_t now_ms)
{
    struct kafka_group_part *part = &f->parts[partition];

    kafka_groups_refresh(f, g, partition);
    if (!part->all_loaded)
        group_load_all(&g->kv, &part->groups, now_ms);
    part->all_loaded = true;
}

int kafka_handle_list_groups(struct kafka_session *s, struct kafka_request *rq)
{
    struct listing l = {.rq = rq};
    struct kafka_reply r;
    int16_t code = 0;

    l.o = kafka_reply_begin(s, rq, &r);
    for (uint32_t i = 0; i < s->front->partition_count && code == 0; i++) {
        struct partition *p = partitions_get(s->front->options.partitions, i);

        if (partition_role(p) == PARTITION_LEADER && partition_state(p) != PARTITION_OPEN)
            code = KAFKA_ERR_COORDINATOR_NOT_AVAILABLE; /* of those led elsewhere that node tells */
    }
    kout_i32(l.o, "ThrottleTimeMs", 0);
    kout_i16(l.o, "ErrorCode", code);
    kout_array(l.o, "Groups");
    for (uint32_t i = 0; i < s->front->partition_count; i++) {
        struct partition_guard g;
        int entered = kafka_enter(s, i, &g);

        if (entered == KAFKA_RETRY) {
            kafka_reply_drop(&r);
            return KAFKA_RETRY;
        }
        if (entered != 0)
            continue;
        load_all(s->front, &g, i, kafka_now_ms(s));
        groups_each(&s->front->parts[i].groups, put_listed, &l);
        (void)kafka_group_leave(s->front, &g, i, NULL);
    }
    kout_array_end(l.o);
    kafka_reply_end(s, &r);
    return KAFKA_DONE;
}

/* ---- DeleteGroups ------------------------------------------------------------------------------------- */

static int16_t delete_group(struct kafka_session *s, struct partition_guard *g, uint32_t partition,
                            struct slice id)
{
    struct group *group = kafka_group_get(s, g, partition, id);

    if (group == NULL)
        return KAFKA_ERR_GROUP_ID_NOT_FOUND;
    if (group->state != GROUP_EMPTY)
        return KAFKA_ERR_NON_EMPTY_GROUP;
    group_remove(&s->front->parts[partition].groups, group);
    group_erase(&g->kv, id);
    return 0;
}

int kafka_handle_delete_groups(struct kafka_session *s, struct kafka_request *rq)
{
    struct kafka_commit *commit = kafka_commit_new(s);
    struct kafka_reply r;
    struct kin in;
    struct kout *o;
    int16_t *codes;
    int64_t n, i;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    n = kin_list(&in, "GroupsNames");
    codes = mem_calloc((size_t)n + 1, sizeof(*codes));
    for (i = 0; i < n; i++) {
        struct slice id = kin_elem_string(&in);
        uint32_t partition = kafka_group_partition(s, id);
        struct partition_guard g;
        /* Only the first may be parked: what was deleted before would not be there the second time. */
        int entered = i == 0 ? kafka_enter_coordinator(s, partition, &g)
                             : partition_enter(partitions_get(s->front->options.partitions, partition),
                                               KV_DB_INTERNAL, NULL, &g);

        if (entered == KAFKA_RETRY) {
            mem_free(codes);
            mem_free(commit);
            return KAFKA_RETRY;
        }
        if (entered != 0) {
            codes[i] = kafka_coordinator_code(entered);
            continue;
        }
        codes[i] = delete_group(s, &g, partition, id);
        if (kafka_group_leave(s->front, &g, partition, NULL) != 0)
            codes[i] = KAFKA_ERR_COORDINATOR_NOT_AVAILABLE;
        else if (g.wrote)
            log_commit_add(&commit->c, g.main, g.end);
    }
    (void)kafka_commit_arm(commit);
    o = kafka_reply_begin(s, rq, &r);
    kout_i32(o, "ThrottleTimeMs", 0);
    kout_array(o, "Results");
    kin_init(&in, rq->api->request, rq->version, rq->body);
    (void)kin_list(&in, "GroupsNames");
    for (i = 0; i < n; i++) {
        kout_item(o);
        kout_string(o, "GroupId", kin_elem_string(&in));
        kout_i16(o, "ErrorCode", codes[i]);
    }
    kout_array_end(o);
    kafka_reply_end(s, &r);
    mem_free(codes);
    return KAFKA_DONE;
}

/* ---- the admin listing -------------------------------------------------------------------------------- */

struct each {
    void (*fn)(const struct kafka_group_info *g, void *arg);
    void *arg;
};

static void tell_group(struct group *g, void *arg)
{
    struct each *e = arg;
    struct kafka_group_info info = {
        .id = slice_str(g->id),
        .protocol_type = slice_str(g->protocol_type != NULL ? g->protocol_type : ""),
        .protocol = slice_str(g->protocol != NULL ? g->protocol : ""),
        .state = group_state_name(g->state),
        .members = g->member_count,
        .generation = g->generation,
    };

    e->fn(&info, e->arg);
}

void kafka_front_each_group(struct kafka_front *f, void (*fn)(const struct kafka_group_info *g, void *arg),
                            void *arg)
{
    struct each e = {fn, arg};

    for (uint32_t i = 0; i < f->partition_count; i++) {
        struct partition_guard g;

        if (partition_state(partitions_get(f->options.partitions, i)) != PARTITION_OPEN)
            continue;
        partition_enter_background(partitions_get(f->options.partitions, i), KV_DB_INTERNAL, &g);
        if (partition_role(g.p) == PARTITION_LEADER) {
            load_all(f, &g, i, clock_mono_us() / 1000);
            groups_each(&f->parts[i].groups, tell_group, &e);
        }
        (void)partition_leave(&g);
    }
}
