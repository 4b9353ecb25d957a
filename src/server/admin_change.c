/* GOMSG config, vhost, user, snapshot: what reads or changes settings and the topology. On the admin thread. */
#include <semaphore.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/rand.h"
#include "cluster/topology/commands.h"
#include "cluster/topology/object.h"
#include "server/internal.h"

static json_t *done(void)
{
    return json_pack("{s:b}", "ok", 1);
}

/* Proposes and waits; frees the command. */
static int propose(struct server *s, struct topology_proposal *p)
{
    int err = topology_propose_wait(s->topology, p);

    buf_fini(&p->command);
    return err;
}

/* ---- config ----------------------------------------------------------------------------------------------------------- */

json_t *admin_config_get(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    struct slice pattern = argc > 0 ? argv[0] : SLICE_LIT("*");
    json_t *rows = json_array();
    struct buf value = {0};

    for (unsigned i = 0; i < config_option_count(); i++) {
        struct config_option o;
        char *name;

        config_option_at(i, &o);
        name = mem_printf("%s.%s", o.section, o.name);
        if (slice_glob(pattern, slice_str(name), true)) {
            buf_clear(&value);
            if (config_get(s->config, name, &value) == 0)
                json_array_append_new(rows, json_pack("{s:s, s:o, s:s, s:s}", "name", name, "value",
                                                      admin_json_slice(buf_slice(&value)), "default", o.def, "live",
                                                      o.reloadable ? "yes" : "no"));
        }
        mem_free(name);
    }
    buf_fini(&value);
    if (json_array_size(rows) == 0) {
        buf_printf(why, "no option matches '%.*s'", (int)MIN_OF(pattern.len, 100u), (const char *)pattern.data);
        json_decref(rows);
        return NULL;
    }
    return rows;
}

json_t *admin_config_set(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    char *name = mem_strdup_slice(argv[0]), *value = mem_strdup_slice(argv[1]);
    int err = config_set(s->config, name, value, why);

    (void)argc;
    mem_free(name);
    mem_free(value);
    while (why->len > 0 && why->data[why->len - 1] == '\n')
        why->len--;
    if (err < 0)
        return NULL;
    return done();
}

/* ---- virtual hosts -------------------------------------------------------------------------------------------------------- */

struct list_arg {
    const struct topology *view;
    json_t *rows;
    struct slice user;
    json_t *names;
};

static bool count_exchange(const struct topo_exchange *x, void *arg)
{
    (void)x;
    ++*(int *)arg;
    return true;
}

static bool count_queue(const struct topo_queue *q, void *arg)
{
    (void)q;
    ++*(int *)arg;
    return true;
}

static bool add_vhost_row(const struct topo_vhost *v, void *arg)
{
    struct list_arg *a = arg;
    int exchanges = 0, queues = 0;

    topo_each_exchange(a->view, v->name, count_exchange, &exchanges);
    topo_each_queue(a->view, v->name, count_queue, &queues);
    json_array_append_new(a->rows, json_pack("{s:o, s:i, s:i}", "name", admin_json_slice(v->name), "exchanges", exchanges,
                                             "queues", queues));
    return true;
}

json_t *admin_vhost_list(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    struct list_arg a = {.view = topology_pin(s->topology), .rows = json_array()};

    (void)argc;
    (void)argv;
    (void)why;
    topo_each_vhost(a.view, add_vhost_row, &a);
    topology_unpin(s->topology);
    return a.rows;
}

json_t *admin_vhost_add(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    struct topology_proposal p = {0};
    int err;

    (void)argc;
    topo_cmd_vhost_add(&p.command, argv[0]);
    err = propose(s, &p);
    if (err < 0) {
        buf_put_str(why, err == ERR_EXISTS ? "this virtual host exists already" : err_text(err));
        return NULL;
    }
    /* A new virtual host nobody may enter would surprise: the default user gets what it has in "/". */
    p = (struct topology_proposal){0};
    topo_cmd_permission_put(&p.command, SLICE_LIT("guest"), argv[0], SLICE_LIT(".*"), SLICE_LIT(".*"), SLICE_LIT(".*"));
    err = propose(s, &p);
    if (err < 0 && err != ERR_NOT_FOUND) {
        buf_put_str(why, err_text(err));
        return NULL;
    }
    return done();
}

json_t *admin_vhost_delete(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    struct topology_proposal p = {0};
    int err;

    (void)argc;
    topo_cmd_vhost_delete(&p.command, argv[0]);
    err = propose(s, &p);
    if (err < 0) {
        buf_put_str(why, err == ERR_NOT_FOUND ? "no such virtual host" : err_text(err));
        return NULL;
    }
    return done();
}

/* ---- users ------------------------------------------------------------------------------------------------------------------ */

static bool add_permission_name(const struct topo_permission *p, void *arg)
{
    struct list_arg *a = arg;

    if (slice_eq(p->user, a->user))
        json_array_append_new(a->names, admin_json_slice(p->vhost));
    return true;
}

static bool add_user_row(const struct topo_user *u, void *arg)
{
    struct list_arg *a = arg;

    a->user = u->name;
    a->names = json_array();
    topo_each_permission(a->view, add_permission_name, a);
    json_array_append_new(a->rows, json_pack("{s:o, s:o, s:o}", "name", admin_json_slice(u->name), "tags",
                                             admin_json_slice(u->tags), "vhosts", a->names));
    return true;
}

json_t *admin_user_list(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    struct list_arg a = {.view = topology_pin(s->topology), .rows = json_array()};

    (void)argc;
    (void)argv;
    (void)why;
    topo_each_user(a.view, add_user_row, &a);
    topology_unpin(s->topology);
    return a.rows;
}

json_t *admin_user_add(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    struct topology_proposal p = {0};
    uint8_t salt[4], hash[32];
    bool known;
    int err;

    if (argv[0].len == 0 || argv[0].len > 255 || argv[1].len == 0) {
        buf_put_str(why, "a user needs a name of 1 to 255 bytes and a password");
        return NULL;
    }
    known = topo_user_find(topology_pin(s->topology), argv[0]) != NULL;
    topology_unpin(s->topology);
    rand_secure(salt, sizeof(salt));
    topo_password_hash(salt, argv[1], hash);
    topo_cmd_user_put(&p.command, argv[0], salt, hash, argc > 2 ? argv[2] : SLICE_NONE);
    err = propose(s, &p);
    if (err == 0 && !known) {
        p = (struct topology_proposal){0};
        topo_cmd_permission_put(&p.command, argv[0], SLICE_LIT("/"), SLICE_LIT(".*"), SLICE_LIT(".*"), SLICE_LIT(".*"));
        err = propose(s, &p);
        if (err == ERR_NOT_FOUND) /* the default virtual host was deleted */
            err = 0;
    }
    if (err < 0) {
        buf_put_str(why, err_text(err));
        return NULL;
    }
    return done();
}

json_t *admin_user_delete(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    struct topology_proposal p = {0};
    int err;

    (void)argc;
    topo_cmd_user_delete(&p.command, argv[0]);
    err = propose(s, &p);
    if (err < 0) {
        buf_put_str(why, err == ERR_NOT_FOUND ? "no such user" : err_text(err));
        return NULL;
    }
    return done();
}

/* ---- snapshots ---------------------------------------------------------------------------------------------------------------- */

struct snapshot_wait {
    sem_t sem;
    int err;
};

static void snapshot_done(void *arg, int err)
{
    struct snapshot_wait *w = arg;

    w->err = err;
    sem_post(&w->sem);
}

json_t *admin_snapshot(struct server *s, unsigned argc, const struct slice *argv, struct buf *why)
{
    struct snapshot_wait w = {.err = 0};

    (void)argc;
    (void)argv;
    CHECK(sem_init(&w.sem, 0, 0) == 0);
    partitions_snapshot(s->partitions, UINT32_MAX, snapshot_done, &w);
    while (sem_wait(&w.sem) < 0) {
    }
    sem_destroy(&w.sem);
    if (w.err < 0) {
        buf_printf(why, "a snapshot failed: %s", err_text(w.err));
        return NULL;
    }
    return done();
}
