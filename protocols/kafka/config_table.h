/* Settings as the Kafka protocol knows them: those of topics (topic_configs.def) and, to read only, the
 * node's. Any thread. */
#ifndef GM_KAFKA_CONFIG_TABLE_H
#define GM_KAFKA_CONFIG_TABLE_H

#include "config/config.h"
#include "cluster/topology/topology.h"

enum kafka_config_source { KAFKA_SOURCE_TOPIC = 1, KAFKA_SOURCE_STATIC = 4, KAFKA_SOURCE_DEFAULT = 5 };

struct kafka_config_row {
    const char *name;
    int8_t type;     /* ConfigType of the protocol */
    const char *def; /* "=field" or the value */
    int64_t least, most;
    const char *words, *synonym, *help;
};

#define KAFKA_CONFIG_TEXT 64

unsigned kafka_topic_config_count(void);
const struct kafka_config_row *kafka_topic_config_row(unsigned i);
const struct kafka_config_row *kafka_topic_config_find(struct slice name);
/* What holds when the topic sets nothing, as text; the source it comes from. */
enum kafka_config_source kafka_topic_config_default(const struct config *cfg,
                                                    const struct kafka_config_row *row,
                                                    char ret[KAFKA_CONFIG_TEXT]);
/* 0, or ERR_INVALID with a phrase in why[size]. */
int kafka_topic_config_check(struct slice name, struct slice value, char *why, size_t size);
bool kafka_config_is_list(const struct kafka_config_row *row);

/* A topic's set of settings (struct topo_topic's form: pairs, sorted by name): a copy with one set, or with
 * value.data == NULL removed. */
void kafka_config_pairs_put(struct buf *pairs, struct slice name, struct slice value);
struct slice kafka_config_pairs_get(struct slice pairs, struct slice name);

/* The node's own: name and value, for i from 0 until false. */
bool kafka_node_config(const struct config *cfg, unsigned i, const char **ret_name, int8_t *ret_type,
                       char ret[KAFKA_CONFIG_TEXT]);

#endif
