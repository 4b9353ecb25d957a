/* Intrusive doubly linked ring. A zeroed node is unlinked; a head must be list_init'ed. Not synchronised. */
#ifndef GM_BASE_LIST_H
#define GM_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

#include "base/check.h"

struct list {
    struct list *next;
    struct list *prev;
};

static inline void list_init(struct list *l)
{
    l->next = l->prev = l;
}
static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}
static inline bool list_linked(const struct list *n)
{
    return n->next != NULL && n->next != n;
}
static inline void list_insert_between(struct list *n, struct list *a, struct list *b)
{
    n->prev = a;
    n->next = b;
    a->next = n;
    b->prev = n;
}
static inline void list_push_back(struct list *l, struct list *n)
{
    list_insert_between(n, l->prev, l);
}
static inline void list_push_front(struct list *l, struct list *n)
{
    list_insert_between(n, l, l->next);
}
/* Unlinks; the node is unlinked and may be linked again. An unlinked node is left alone. */
static inline void list_remove(struct list *n)
{
    if (n->next == NULL)
        return;
    n->prev->next = n->next;
    n->next->prev = n->prev;
    n->next = n->prev = NULL;
}
static inline struct list *list_pop_front(struct list *l)
{
    struct list *n = l->next;

    if (n == l)
        return NULL;
    list_remove(n);
    return n;
}
/* Moves everything from `from` to the back of `to`. */
static inline void list_splice(struct list *to, struct list *from)
{
    if (list_empty(from))
        return;
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    list_init(from);
}

#define LIST_ENTRY(node, type, member) CONTAINER_OF(node, type, member)
#define LIST_FOREACH(n, head) for (struct list *n = (head)->next; n != (head); n = n->next)
#define LIST_FOREACH_SAFE(n, head)                                                                           \
    for (struct list *n = (head)->next, *n##_next = n->next; n != (head); n = n##_next, n##_next = n->next)

#endif
