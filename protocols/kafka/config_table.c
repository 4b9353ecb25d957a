/* See config_table.h. */
#include "protocols/kafka/config_table.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "protocols/kafka/session.h"

/* ConfigType of DescribeConfigs 3. */
enum { TYPE_BOOL = 1, TYPE_STRING = 2, TYPE_INT = 3, TYPE_LONG = 5, TYPE_DOUBLE = 6, TYPE_LIST = 7 };

static const struct kafka_config_row rows[] = {
#define X(name, type, def, least, most, words, synonym, help)                                                \
    {name, TYPE_##type, def, least, most, words, synonym, help},
#include "protocols/kafka/topic_configs.def"
#undef X
};

unsigned kafka_topic_config_count(void)
{
    return ARRAY_LEN(rows);
}

const struct kafka_config_row *kafka_topic_config_row(unsigned i)
{
    return &rows[i];
}

const struct kafka_config_row *kafka_topic_config_find(struct slice name)
{
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
        if (slice_eq(slice_str(rows[i].name), name))
            return &rows[i];
    return NULL;
}

bool kafka_config_is_list(const struct kafka_config_row *row)
{
    return row->type == TYPE_LIST;
}

/* The options of the node that are a topic's defaults, as the configuration names them. */
static const char *node_option(const char *field)
{
    static const char *const names[][2] = {
        {"kafka_message_max_bytes", "kafka.message_max_bytes"},
        {"log_retention_bytes", "log.retention_bytes"},
        {"log_retention_ms", "log.retention"},
        {"log_segment_bytes", "log.segment_bytes"},
    };

    for (unsigned i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(names[i][0], field) == 0)
            return names[i][1];
    UNREACHABLE();
}

/* Whether somebody set it; tools show what is not a default. */
static bool node_option_is_set(const struct config *cfg, const char *field)
{
    struct buf source = {0};
    bool set = config_get_source(cfg, node_option(field), &source) == 0 &&
               !slice_eq(buf_slice(&source), SLICE_LIT("default"));

    buf_fini(&source);
    return set;
}

static int64_t node_default(const struct config *cfg, const char *field)
{
    if (strcmp(field, "kafka_message_max_bytes") == 0)
        return CONFIG_GET(cfg, kafka_message_max_bytes);
    if (strcmp(field, "log_retention_bytes") == 0)
        return CONFIG_GET(cfg, log_retention_bytes);
    if (strcmp(field, "log_retention_ms") == 0)
        return CONFIG_GET(cfg, log_retention_ms);
    if (strcmp(field, "log_segment_bytes") == 0)
        return CONFIG_GET(cfg, log_segment_bytes);
    UNREACHABLE();
}

enum kafka_config_source kafka_topic_config_default(const struct config *cfg,
                                                    const struct kafka_config_row *row,
                                                    char ret[KAFKA_CONFIG_TEXT])
{
    if (row->def[0] == '=') {
        snprintf(ret, KAFKA_CONFIG_TEXT, "%" PRId64, node_default(cfg, row->def + 1));
        return node_option_is_set(cfg, row->def + 1) ? KAFKA_SOURCE_STATIC : KAFKA_SOURCE_DEFAULT;
    }
    snprintf(ret, KAFKA_CONFIG_TEXT, "%s", row->def);
    return KAFKA_SOURCE_DEFAULT;
}

static bool is_word(const char *words, struct slice value)
{
    for (const char *at = words; *at != '\0';) {
        size_t n = strcspn(at, " ");

        if (slice_eq(slice_of(at, n), value))
            return true;
        at += n + (at[n] == ' ');
    }
    return false;
}

int kafka_topic_config_check(struct slice name, struct slice value, char *why, size_t size)
{
    const struct kafka_config_row *row = kafka_topic_config_find(name);
    int64_t n;
    double d;
    bool ok = false;

    if (row == NULL) {
        snprintf(why, size, "Unknown topic config name: %.*s", (int)MIN_OF(name.len, (size_t)100),
                 (const char *)name.data);
        return ERR_INVALID;
    }
    if (value.data == NULL) {
        snprintf(why, size, "Null value not supported for topic configs: %s", row->name);
        return ERR_INVALID;
    }
    switch (row->type) {
    case TYPE_INT:
    case TYPE_LONG:
        ok = slice_to_i64(value, &n) && n >= row->least && n <= row->most;
        break;
    case TYPE_DOUBLE:
        ok = slice_to_double(value, &d) && d >= (double)row->least && d <= (double)row->most;
        break;
    case TYPE_BOOL:
        ok = slice_ieq(value, "true") || slice_ieq(value, "false");
        break;
    default:
        ok = row->words[0] == '\0' || is_word(row->words, value);
        break;
    }
    if (ok)
        return 0;
    if (row->words[0] != '\0')
        snprintf(why, size, "Invalid value %.*s for configuration %s: it is one of: %s",
                 (int)MIN_OF(value.len, (size_t)60), (const char *)value.data, row->name, row->words);
    else
        snprintf(why, size, "Invalid value %.*s for configuration %s", (int)MIN_OF(value.len, (size_t)60),
                 (const char *)value.data, row->name);
    return ERR_INVALID;
}

int64_t kafka_topic_number(const struct config *cfg, const struct topo_topic *t, const char *name)
{
    struct slice set = t->configs.len == 0 ? SLICE_NONE : topo_topic_config(t, name);
    const struct kafka_config_row *row;
    int64_t n;

    if (set.data != NULL && slice_to_i64(set, &n))
        return n;
    row = kafka_topic_config_find(slice_str(name));
    CHECK(row != NULL);
    if (row->def[0] == '=')
        return node_default(cfg, row->def + 1);
    CHECK(slice_to_i64(slice_str(row->def), &n));
    return n;
}

bool kafka_topic_is_log_append_time(const struct topo_topic *t)
{
    return slice_eq(topo_topic_config(t, "message.timestamp.type"), SLICE_LIT("LogAppendTime"));
}

/* ---- pairs -------------------------------------------------------------------------------------------- */

struct slice kafka_config_pairs_get(struct slice pairs, struct slice name)
{
    struct reader r = reader_of(pairs);

    while (reader_left(&r) != 0 && !r.bad) {
        struct slice n = reader_lslice(&r), v = reader_lslice(&r);

        if (!r.bad && slice_eq(n, name))
            return v.data == NULL ? slice_str("") : v;
    }
    return SLICE_NONE;
}

void kafka_config_pairs_put(struct buf *pairs, struct slice name, struct slice value)
{
    struct buf fresh = {0};
    struct reader r = reader_of(buf_slice(pairs));
    bool placed = value.data == NULL;

    while (reader_left(&r) != 0 && !r.bad) {
        struct slice n = reader_lslice(&r), v = reader_lslice(&r);
        int c = slice_cmp(n, name);

        if (!placed && c >= 0) {
            buf_put_lslice(&fresh, name);
            buf_put_lslice(&fresh, value);
            placed = true;
        }
        if (c != 0) {
            buf_put_lslice(&fresh, n);
            buf_put_lslice(&fresh, v);
        }
    }
    if (!placed) {
        buf_put_lslice(&fresh, name);
        buf_put_lslice(&fresh, value);
    }
    buf_fini(pairs);
    *pairs = fresh;
}

/* ---- the node's --------------------------------------------------------------------------------------- */

bool kafka_node_config(const struct config *cfg, unsigned i, const char **ret_name, int8_t *ret_type,
                       char ret[KAFKA_CONFIG_TEXT])
{
    const struct {
        const char *name;
        int8_t type;
        int64_t value;
    } own[] = {
        {"auto.create.topics.enable", TYPE_BOOL, CONFIG_GET(cfg, kafka_auto_create_topics)},
        {"default.replication.factor", TYPE_INT, CONFIG_GET(cfg, cluster_replication_factor)},
        {"log.retention.bytes", TYPE_LONG, CONFIG_GET(cfg, log_retention_bytes)},
        {"log.retention.ms", TYPE_LONG, CONFIG_GET(cfg, log_retention_ms)},
        {"log.segment.bytes", TYPE_INT, CONFIG_GET(cfg, log_segment_bytes)},
        {"max.connections", TYPE_INT, CONFIG_GET(cfg, kafka_max_connections)},
        {"message.max.bytes", TYPE_INT, CONFIG_GET(cfg, kafka_message_max_bytes)},
        {"min.insync.replicas", TYPE_INT, CONFIG_GET(cfg, cluster_min_insync)},
        {"num.partitions", TYPE_INT, CONFIG_GET(cfg, kafka_num_partitions)},
        {"socket.request.max.bytes", TYPE_INT, CONFIG_GET(cfg, kafka_max_request_bytes)},
    };

    if (i >= ARRAY_LEN(own))
        return false;
    *ret_name = own[i].name;
    *ret_type = own[i].type;
    if (own[i].type == TYPE_BOOL)
        snprintf(ret, KAFKA_CONFIG_TEXT, "%s", own[i].value ? "true" : "false");
    else
        snprintf(ret, KAFKA_CONFIG_TEXT, "%" PRId64, own[i].value);
    return true;
}
