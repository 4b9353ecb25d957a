/* DescribeConfigs 1-4, AlterConfigs 0-2 and IncrementalAlterConfigs 0-1 (KIP-339). Topics can be changed; a
 * node's settings are in its configuration file and can be read. */
#include "protocols/kafka/admin.h"
#include "protocols/kafka/config_table.h"

#include <stdio.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster/topology/commands.h"

enum { RESOURCE_TOPIC = 2, RESOURCE_BROKER = 4 };
enum { OP_SET, OP_DELETE, OP_APPEND, OP_SUBTRACT };

/* ---- DescribeConfigs ---------------------------------------------------------------------------------- */

struct describe {
    struct kout *o;
    bool synonyms, documentation;
    struct kin keys; /* at the list of names asked for */
    bool all;
};

static bool asked(const struct describe *d, const char *name)
{
    struct kin keys = d->keys;
    int64_t n = kin_list(&keys, "ConfigurationKeys");

    for (; n > 0; n--)
        if (slice_eq(kin_elem_string(&keys), slice_str(name)))
            return true;
    return n < 0;
}

static void put_synonym(struct kout *o, const char *name, struct slice value, int8_t source)
{
    kout_item(o);
    kout_str(o, "Name", name);
    kout_string(o, "Value", value);
    kout_i8(o, "Source", source);
}

static void put_topic_setting(struct kafka_session *s, struct describe *d, const struct topo_topic *t,
                              const struct kafka_config_row *row)
{
    char text[KAFKA_CONFIG_TEXT];
    enum kafka_config_source source = kafka_topic_config_default(s->front->options.config, row, text);
    struct slice set = topo_topic_config(t, row->name);
    struct kout *o = d->o;

    kout_item(o);
    kout_str(o, "Name", row->name);
    kout_string(o, "Value", set.data != NULL ? set : slice_str(text));
    kout_bool(o, "ReadOnly", false);
    kout_i8(o, "ConfigSource", (int8_t)(set.data != NULL ? KAFKA_SOURCE_TOPIC : source));
    kout_bool(o, "IsSensitive", false);
    kout_array(o, "Synonyms"); /* the most specific first, itself included */
    if (d->synonyms) {
        if (set.data != NULL)
            put_synonym(o, row->name, set, KAFKA_SOURCE_TOPIC);
        if (row->synonym[0] != '\0')
            put_synonym(o, row->synonym, slice_str(text), (int8_t)source);
    }
    kout_array_end(o);
    kout_i8(o, "ConfigType", row->type);
    kout_str(o, "Documentation", d->documentation ? row->help : NULL);
}

static void put_node_settings(struct kafka_session *s, struct describe *d)
{
    char text[KAFKA_CONFIG_TEXT];
    const char *name;
    int8_t type;

    for (unsigned i = 0; kafka_node_config(s->front->options.config, i, &name, &type, text); i++) {
        if (!asked(d, name))
            continue;
        kout_item(d->o);
        kout_str(d->o, "Name", name);
        kout_str(d->o, "Value", text);
        kout_bool(d->o, "ReadOnly", true);
        kout_i8(d->o, "ConfigSource", KAFKA_SOURCE_STATIC);
        kout_bool(d->o, "IsSensitive", false);
        kout_array(d->o, "Synonyms");
        if (d->synonyms)
            put_synonym(d->o, name, slice_str(text), KAFKA_SOURCE_STATIC);
        kout_array_end(d->o);
        kout_i8(d->o, "ConfigType", type);
        kout_str(d->o, "Documentation", NULL);
    }
}

static bool is_this_node(const struct kafka_session *s, struct slice name)
{
    int64_t id;

    return name.len == 0 || (slice_to_i64(name, &id) && id == kafka_node_id(s));
}

/* The code of a resource, with the topic when it is one. */
static int16_t check_resource(const struct kafka_session *s, int8_t type, struct slice name,
                              const struct topo_topic **ret, const char **ret_why)
{
    *ret = NULL;
    *ret_why = NULL;
    if (type == RESOURCE_TOPIC) {
        if (!kafka_topic_name_ok(name)) {
            *ret_why = kafka_error_text(KAFKA_ERR_INVALID_TOPIC_EXCEPTION);
            return KAFKA_ERR_INVALID_TOPIC_EXCEPTION;
        }
        *ret = topo_topic_find(kafka_view(s), name);
        if (*ret == NULL)
            *ret_why = kafka_error_text(KAFKA_ERR_UNKNOWN_TOPIC_OR_PARTITION);
        return *ret == NULL ? KAFKA_ERR_UNKNOWN_TOPIC_OR_PARTITION : 0;
    }
    if (type == RESOURCE_BROKER && is_this_node(s, name))
        return 0;
    *ret_why =
        type == RESOURCE_BROKER ? "there is no node of this id" : "only topics and nodes have settings here";
    return KAFKA_ERR_INVALID_REQUEST;
}

int kafka_handle_describe_configs(struct kafka_session *s, struct kafka_request *rq)
{
    struct describe d = {0};
    struct kafka_reply r;
    struct kin in, flags;

    kin_init(&flags, rq->api->request, rq->version, rq->body);
    d.synonyms = kin_bool(&flags, "IncludeSynonyms", false);
    d.documentation = kin_bool(&flags, "IncludeDocumentation", false);
    d.o = kafka_reply_begin(s, rq, &r);
    kout_i32(d.o, "ThrottleTimeMs", 0);
    kin_init(&in, rq->api->request, rq->version, rq->body);
    (void)kin_array(&in, "Resources");
    kout_array(d.o, "Results");
    while (kin_item(&in)) {
        int8_t type = kin_i8(&in, "ResourceType", 0);
        struct slice name = kin_string(&in, "ResourceName");
        const struct topo_topic *t;
        const char *why;
        int16_t code = check_resource(s, type, name, &t, &why);

        d.keys = in;
        kout_item(d.o);
        kout_i16(d.o, "ErrorCode", code);
        kout_str(d.o, "ErrorMessage", why);
        kout_i8(d.o, "ResourceType", type);
        kout_string(d.o, "ResourceName", name);
        kout_array(d.o, "Configs");
        for (unsigned i = 0; t != NULL && i < kafka_topic_config_count(); i++)
            if (asked(&d, kafka_topic_config_row(i)->name))
                put_topic_setting(s, &d, t, kafka_topic_config_row(i));
        if (code == 0 && type == RESOURCE_BROKER)
            put_node_settings(s, &d);
        kout_array_end(d.o);
    }
    kout_array_end(d.o);
    kafka_reply_end(s, &r);
    return KAFKA_DONE;
}

/* ---- changing ----------------------------------------------------------------------------------------- */

/* Adds or takes words of a list setting. */
static void change_list(struct buf *out, struct slice was, struct slice words, bool add)
{
    for (unsigned pass = 0; pass < (add ? 2u : 1u); pass++) {
        struct slice from = pass == 0 ? was : words, other = pass == 0 ? words : was;
        size_t at = 0;

        while (at < from.len) {
            const uint8_t *comma = memchr(from.data + at, ',', from.len - at);
            size_t n = comma == NULL ? from.len - at : (size_t)(comma - (from.data + at));
            struct slice word = slice_of(from.data + at, n);
            bool drop = false;

            for (size_t k = 0; k < other.len && (pass == 1 || !add) && !drop;) {
                const uint8_t *c = memchr(other.data + k, ',', other.len - k);
                size_t m = c == NULL ? other.len - k : (size_t)(c - (other.data + k));

                drop = slice_eq(slice_of(other.data + k, m), word);
                k += m + 1;
            }
            if (!drop && word.len != 0) {
                if (out->len != 0)
                    buf_put_u8(out, ',');
                buf_put_slice(out, word);
            }
            at += n + 1;
        }
    }
}

static void apply_one(const struct config *cfg, struct kafka_admin_item *item, struct buf *pairs,
                      struct slice name, int8_t op, struct slice value)
{
    const struct kafka_config_row *row = kafka_topic_config_find(name);
    struct buf list = {0};
    char why[KAFKA_ADMIN_WHY], text[KAFKA_CONFIG_TEXT];

    if (op == OP_DELETE && row != NULL) {
        kafka_config_pairs_put(pairs, name, SLICE_NONE);
        return;
    }
    if (op == OP_APPEND || op == OP_SUBTRACT) {
        struct slice was;

        if (row == NULL || !kafka_config_is_list(row) || value.data == NULL) {
            kafka_admin_fail(item, KAFKA_ERR_INVALID_CONFIG,
                             "Can't %s to key %.*s because its type is not LIST.",
                             op == OP_APPEND ? "APPEND" : "SUBTRACT", (int)MIN_OF(name.len, (size_t)100),
                             (const char *)name.data);
            return;
        }
        was = kafka_config_pairs_get(buf_slice(pairs), name);
        if (was.data == NULL) {
            (void)kafka_topic_config_default(cfg, row, text);
            was = slice_str(text);
        }
        change_list(&list, was, value, op == OP_APPEND);
        value = list.len == 0 ? slice_str("") : buf_slice(&list);
    } else if (op != OP_SET && op != OP_DELETE) {
        kafka_admin_fail(item, KAFKA_ERR_INVALID_REQUEST, "there is no such operation");
        return;
    }
    if (kafka_topic_config_check(name, value, why, sizeof(why)) != 0)
        kafka_admin_fail(item, KAFKA_ERR_INVALID_CONFIG, "%s", why);
    else
        kafka_config_pairs_put(pairs, name, value);
    buf_fini(&list);
}

static void alter_finish(struct kafka_session *s, const struct kafka_request *rq, struct kafka_admin *a)
{
    struct kafka_reply r;
    struct kin in;
    struct kout *o = kafka_reply_begin(s, rq, &r);

    kin_init(&in, rq->api->request, rq->version, rq->body);
    kout_i32(o, "ThrottleTimeMs", 0);
    (void)kin_array(&in, "Resources");
    kout_array(o, "Responses");
    for (unsigned i = 0; kin_item(&in); i++) {
        kout_item(o);
        kout_i16(o, "ErrorCode", a->items[i].code);
        kout_str(o, "ErrorMessage", a->items[i].why[0] == '\0' ? NULL : a->items[i].why);
        kout_i8(o, "ResourceType", kin_i8(&in, "ResourceType", 0));
        kout_string(o, "ResourceName", kin_string(&in, "ResourceName"));
    }
    kout_array_end(o);
    kafka_reply_end(s, &r);
}

static int alter(struct kafka_session *s, struct kafka_request *rq, bool incremental)
{
    struct kafka_admin *a;
    struct kin in, flags;
    bool validate_only;
    int64_t n;

    kin_init(&flags, rq->api->request, rq->version, rq->body);
    validate_only = kin_bool(&flags, "ValidateOnly", false);
    kin_init(&in, rq->api->request, rq->version, rq->body);
    n = kin_array(&in, "Resources");
    if (n > KAFKA_ADMIN_ITEMS_MAX)
        return ERR_TOO_LARGE;
    a = kafka_admin_begin(s, rq, (unsigned)n, alter_finish);
    for (unsigned i = 0; kin_item(&in); i++) {
        struct kafka_admin_item *item = &a->items[i];
        int8_t type = kin_i8(&in, "ResourceType", 0);
        struct slice name = kin_string(&in, "ResourceName");
        const struct topo_topic *t;
        const char *why;
        struct buf pairs = {0};

        item->code = check_resource(s, type, name, &t, &why);
        if (item->code != 0)
            kafka_admin_fail(item, item->code, "%s", why);
        else if (t == NULL)
            kafka_admin_fail(item, KAFKA_ERR_INVALID_CONFIG,
                             "a node's settings are changed in its configuration file");
        else if (incremental) /* AlterConfigs replaces what is set, Incremental starts from it */
            buf_put_slice(&pairs, t->configs);
        (void)kin_array(&in, "Configs");
        while (kin_item(&in)) {
            struct slice key = kin_string(&in, "Name");
            int8_t op = incremental ? kin_i8(&in, "ConfigOperation", OP_SET) : (int8_t)OP_SET;

            if (item->code == 0)
                apply_one(s->front->options.config, item, &pairs, key, op, kin_string(&in, "Value"));
        }
        if (item->code == 0 && !validate_only) {
            topo_cmd_topic_configs(&item->proposal.command, name, buf_slice(&pairs));
            kafka_admin_propose(a, item);
        }
        buf_fini(&pairs);
    }
    return kafka_admin_run(a);
}

int kafka_handle_alter_configs(struct kafka_session *s, struct kafka_request *rq)
{
    return alter(s, rq, false);
}

int kafka_handle_incremental_alter_configs(struct kafka_session *s, struct kafka_request *rq)
{
    return alter(s, rq, true);
}
