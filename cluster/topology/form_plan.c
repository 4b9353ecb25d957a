#include "cluster/topology/form_plan.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void say(char *text, size_t size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void say(char *text, size_t size, const char *fmt, ...)
{
    size_t at = strlen(text);
    va_list ap;

    va_start(ap, fmt);
    if (at < size)
        vsnprintf(text + at, size - at, fmt, ap);
    va_end(ap);
}

static bool left_out(const struct form_view *v, unsigned seed)
{
    for (unsigned i = 0; i < v->without_count; i++) {
        if (strcmp(v->without[i], v->seeds[seed].address) == 0)
            return true;
    }
    return false;
}

bool form_counts(const struct form_view *v, unsigned seed)
{
    return v->seeds[seed].answered && !left_out(v, seed);
}

/* A seed that belongs to a cluster: the one we promised ourselves to, if we did. */
static enum form_action look_for_members(const struct form_view *v, unsigned *ret_seed, char *text, size_t size)
{
    int member = -1;

    for (unsigned i = 0; i < v->count; i++) {
        const struct form_seed *s = &v->seeds[i];

        if (!s->answered || !s->member)
            continue;
        if (s->total_partitions != v->total_partitions) {
            say(text, size, "the cluster of %s has cluster.total_partitions %u, this node %u: set it to %u here", s->address, s->total_partitions, v->total_partitions, s->total_partitions);
            return FORM_REFUSED;
        }
        if (v->promised && memcmp(s->cluster_id, v->cluster_id, 16) != 0) {
            say(text, size, "%s belongs to another cluster than the one this node was founded with: correct cluster.seeds, or empty this node's data directory", s->address);
            return FORM_REFUSED;
        }
        if (member >= 0 && memcmp(s->cluster_id, v->seeds[member].cluster_id, 16) != 0) {
            say(text, size, "%s and %s belong to different clusters, which never merge: name the nodes of one cluster only in cluster.seeds", v->seeds[member].address, s->address);
            return FORM_REFUSED;
        }
        if (member < 0 || (s->founding && !v->seeds[member].founding))
            member = (int)i;
    }
    if (member < 0)
        return FORM_WAIT;
    *ret_seed = (unsigned)member;
    for (unsigned i = 0; i < v->count && !v->settled && !v->seeds[member].founding; i++) {
        if (!v->seeds[i].answered) {
            say(text, size, "joining the cluster of %s", v->seeds[member].address);
            return FORM_WAIT;
        }
    }
    return v->seeds[member].founding ? FORM_ADOPT : FORM_JOIN;
}

static bool same_node(const struct form_seed *a, const struct form_seed *b)
{
    return memcmp(a->uuid, b->uuid, 16) == 0;
}

/* What keeps the seeds from agreeing; "" when nothing does. */
static void find_obstacles(const struct form_view *v, char *text, size_t size)
{
    bool myself = false;

    for (unsigned i = 0; i < v->count; i++) {
        const struct form_seed *s = &v->seeds[i];

        if (left_out(v, i))
            continue;
        if (!s->answered) {
            say(text, size, "%s%s", text[0] == '\0' ? "waiting for " : ", ", s->address);
            if (s->problem[0] != '\0')
                say(text, size, " (%s)", s->problem);
        }
    }
    if (text[0] != '\0') {
        say(text, size, "; start them, or leave one out with: gomsgctl cluster form --without HOST:PORT");
        return;
    }
    for (unsigned i = 0; i < v->count; i++) {
        const struct form_seed *s = &v->seeds[i];

        if (left_out(v, i))
            continue;
        myself |= memcmp(s->uuid, v->own_uuid, 16) == 0;
        for (unsigned k = 0; k < i; k++) {
            if (!left_out(v, k) && same_node(s, &v->seeds[k])) {
                say(text, size, "%s and %s are the same node: name each node once in cluster.seeds", v->seeds[k].address, s->address);
                return;
            }
        }
        if (s->total_partitions != v->total_partitions) {
            say(text, size, "%s has cluster.total_partitions %u, this node %u: they must be equal", s->address, s->total_partitions, v->total_partitions);
            return;
        }
        if (!s->same_list) {
            say(text, size, "%s has another list in cluster.seeds: it must be the same on every node", s->address);
            return;
        }
        if (s->promised && !(v->promised && memcmp(s->cluster_id, v->cluster_id, 16) == 0)) {
            say(text, size, "%s was founded with a cluster whose other nodes do not answer: start them, or empty its data directory", s->address);
            return;
        }
    }
    if (!myself)
        say(text, size, "none of the addresses in cluster.seeds is this node, and none is a member of a cluster yet: correct the list, or start the seeds");
    else if (v->promised)
        say(text, size, "this node was founded with a cluster whose other nodes do not answer: start them, or empty its data directory");
}

enum form_action form_decide(const struct form_view *v, unsigned *ret_seed, char *text, size_t size)
{
    enum form_action a;

    text[0] = '\0';
    a = look_for_members(v, ret_seed, text, size);
    if (a != FORM_WAIT || text[0] != '\0')
        return a;
    find_obstacles(v, text, size);
    if (text[0] != '\0')
        return FORM_WAIT;
    if (v->now)
        return FORM_FOUND; /* the administrator chose this node to found it */
    for (unsigned i = 0; i < v->count; i++) {
        if (memcmp(v->seeds[i].uuid, v->own_uuid, 16) < 0) {
            say(text, size, "waiting for %s to found the cluster", v->seeds[i].address);
            return FORM_WAIT;
        }
    }
    return FORM_FOUND;
}
