/* What an empty node does with what its seeds say (rule 22). Pure. Private to cluster/topology.
 *
 * A cluster forms only when every seed answers, all are empty and all have the same list and the same number of partitions; then the node with the lowest uuid founds it. An empty node that finds a member joins and never
 * forms. Everything else waits and says what for. */
#ifndef GM_CLUSTER_TOPOLOGY_FORM_PLAN_H
#define GM_CLUSTER_TOPOLOGY_FORM_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FORM_PROBLEM_MAX 240

/* One address of cluster.seeds and who was found there. */
struct form_seed {
    const char *address;
    bool answered;
    uint8_t uuid[16];
    bool member;            /* belongs to a cluster */
    bool founding;          /* that cluster was founded with us, and we have not begun yet: see forming.c */
    uint8_t cluster_id[16]; /* of a member; also of an empty node that has promised itself to one */
    bool promised;
    uint32_t total_partitions;
    bool same_list;
    char problem[FORM_PROBLEM_MAX]; /* why it did not answer, "" unknown */
};

struct form_view {
    uint8_t own_uuid[16];
    bool promised;          /* we accepted a cluster whose founding we then missed: only that one counts */
    uint8_t cluster_id[16]; /* that one */
    uint32_t total_partitions;
    const struct form_seed *seeds;
    unsigned count;
    bool settled;           /* whoever is there has had the time to answer: before that a second cluster among the seeds may be missed */
    /* an administrator: form without these */
    bool now;
    const char *const *without;
    unsigned without_count;
};

enum form_action { FORM_WAIT, FORM_FOUND, FORM_ADOPT, FORM_JOIN, FORM_REFUSED };

/* ADOPT, JOIN: *ret_seed is who to ask. WAIT, REFUSED: text says what for and what to do. */
enum form_action form_decide(const struct form_view *v, unsigned *ret_seed, char *text, size_t size);
/* Whether the seed belongs to the founding: answered and not left out. */
bool form_counts(const struct form_view *v, unsigned seed);

#endif
