#include "protocols/resp/slowlog.h"

#include <stdio.h>

#include "base/mem.h"
#include "protocols/resp/handlers.h"

enum { ARGS_MAX = 32, ARG_BYTES_MAX = 128, DEFAULT_MAX = 128 };

struct slow {
    struct list node; /* latest first */
    uint64_t id, duration_us;
    int64_t at_s;
    char peer[64];
    char *name; /* owned */
    uint32_t argc;
    struct buf args; /* owned: length-prefixed */
};

struct slowlog {
    struct mutex mu;
    struct list entries;
    uint32_t count, max;
    uint64_t next_id;
};

struct slowlog *slowlog_new(void)
{
    struct slowlog *l = mem_zalloc(sizeof(*l));

    mutex_init(&l->mu);
    list_init(&l->entries);
    l->max = DEFAULT_MAX;
    return l;
}

static void trim(struct slowlog *l, uint32_t max)
{
    while (l->count > max) {
        struct slow *s = LIST_ENTRY(l->entries.prev, struct slow, node);

        list_remove(&s->node);
        buf_fini(&s->args);
        mem_free(s->name);
        mem_free(s);
        l->count--;
    }
}

void slowlog_free(struct slowlog *l)
{
    if (l == NULL)
        return;
    trim(l, 0);
    mutex_fini(&l->mu);
    mem_free(l);
}

void slowlog_add(struct exec *x, uint64_t duration_us)
{
    struct slowlog *l = x->w->front->slowlog;
    struct slow *s = mem_zalloc(sizeof(*s));
    uint32_t shown = x->argc > ARGS_MAX ? ARGS_MAX - 1 : x->argc;

    s->duration_us = duration_us;
    s->at_s = exec_now_ms(x) / 1000;
    conn_peer_text(x->s->c, s->peer, sizeof(s->peer));
    s->name = mem_strdup(x->s->name != NULL ? x->s->name : "");
    for (uint32_t i = 0; i < shown; i++) {
        struct slice arg = x->argv[i];
        char text[ARG_BYTES_MAX + 48];

        if (arg.len > ARG_BYTES_MAX) {
            int n = snprintf(text, sizeof(text), "%.*s... (%zu more bytes)", ARG_BYTES_MAX,
                             (const char *)arg.data, arg.len - ARG_BYTES_MAX);

            arg = slice_of(text, (size_t)n);
        }
        buf_put_lslice(&s->args, arg);
        s->argc++;
    }
    if (shown < x->argc) {
        char text[48];

        snprintf(text, sizeof(text), "... (%u more arguments)", x->argc - shown);
        buf_put_lslice(&s->args, slice_str(text));
        s->argc++;
    }
    mutex_lock(&l->mu);
    s->id = l->next_id++;
    list_push_front(&l->entries, &s->node);
    l->count++;
    trim(l, l->max);
    mutex_unlock(&l->mu);
}

uint32_t slowlog_max(struct slowlog *l)
{
    uint32_t max;

    mutex_lock(&l->mu);
    max = l->max;
    mutex_unlock(&l->mu);
    return max;
}

void slowlog_set_max(struct slowlog *l, uint32_t max)
{
    mutex_lock(&l->mu);
    l->max = max;
    trim(l, max);
    mutex_unlock(&l->mu);
}

void cmd_slowlog_get(struct exec *x)
{
    struct slowlog *l = x->w->front->slowlog;
    int64_t count = 10;
    uint32_t n;

    if (x->argc > 3) {
        reply_error(&x->r, "ERR wrong number of arguments for 'slowlog|get' command");
        return;
    }
    if (x->argc == 3 && (!slice_to_i64(x->argv[2], &count) || count < -1)) {
        reply_error(&x->r, "ERR count should be greater than or equal to -1");
        return;
    }
    mutex_lock(&l->mu);
    n = count < 0 ? l->count : (uint32_t)MIN_OF(count, (int64_t)l->count);
    reply_array(&x->r, n);
    LIST_FOREACH (node, &l->entries) {
        struct slow *s = LIST_ENTRY(node, struct slow, node);
        struct reader r = reader_of(buf_slice(&s->args));

        if (n-- == 0)
            break;
        reply_array(&x->r, 6);
        reply_int(&x->r, (int64_t)s->id);
        reply_int(&x->r, s->at_s);
        reply_int(&x->r, (int64_t)s->duration_us);
        reply_array(&x->r, s->argc);
        for (uint32_t i = 0; i < s->argc; i++)
            reply_bulk(&x->r, reader_lslice(&r));
        reply_bulk_str(&x->r, s->peer);
        reply_bulk_str(&x->r, s->name);
    }
    mutex_unlock(&l->mu);
}

void cmd_slowlog_len(struct exec *x)
{
    struct slowlog *l = x->w->front->slowlog;

    mutex_lock(&l->mu);
    reply_int(&x->r, l->count);
    mutex_unlock(&l->mu);
}

void cmd_slowlog_reset(struct exec *x)
{
    struct slowlog *l = x->w->front->slowlog;

    mutex_lock(&l->mu);
    trim(l, 0);
    mutex_unlock(&l->mu);
    reply_ok(&x->r);
}
