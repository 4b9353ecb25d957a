/* The admin thread: runs one verb of GOMSG at a time, blocking as it likes, and mails the answer to the connection's worker. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/mutex.h"
#include "server/internal.h"

#define ADMIN_MAGIC 0x41444d4eu

struct admin {
    uint32_t magic;
    struct server *server;
    struct mutex lock;
    pthread_cond_t news;
    struct mail *head GUARDED_BY(lock);
    struct mail **tail GUARDED_BY(lock);
    bool stopping GUARDED_BY(lock);
    pthread_t thread;
};

static const struct verb {
    const char *words[2];
    unsigned min, max; /* arguments behind the words */
    bool changes;      /* needs a trusted caller */
    bool early;        /* also while the node recovers */
    admin_handler *handle;
} verbs[] = {
    {{"status"}, 0, 0, false, true, admin_status},
    {{"partitions", "hash"}, 0, 0, false, false, admin_partitions_hash},
    {{"partitions", "recover"}, 1, 2, true, false, admin_partitions_recover},
    {{"partitions"}, 0, 0, false, true, admin_partitions},
    {{"topics"}, 0, 0, false, false, admin_topics},
    {{"queues"}, 0, 1, false, false, admin_queues},
    {{"connections"}, 0, 0, false, true, admin_connections},
    {{"version"}, 0, 0, false, true, admin_version},
    {{"cluster", "status"}, 0, 0, false, true, admin_cluster_status},
    {{"cluster", "nodes"}, 0, 0, false, true, admin_cluster_nodes},
    {{"cluster", "partitions"}, 0, 0, false, true, admin_cluster_partitions},
    {{"cluster", "health"}, 0, 0, false, true, admin_cluster_health},
    {{"cluster", "events"}, 0, 1, false, true, admin_cluster_events},
    {{"cluster", "transfer-leader"}, 1, 2, true, false, admin_cluster_transfer_leader},
    {{"cluster", "form"}, 0, 64, true, true, admin_cluster_form},
    {{"cluster", "group"}, 0, 0, false, true, admin_cluster_group},
    {{"cluster", "drain"}, 1, 2, true, false, admin_cluster_drain},
    {{"cluster", "undrain"}, 1, 1, true, false, admin_cluster_undrain},
    {{"cluster", "remove"}, 1, 1, true, false, admin_cluster_remove},
    {{"doctor"}, 0, 0, false, true, admin_doctor},
    {{"config", "get"}, 0, 1, false, true, admin_config_get},
    {{"config", "set"}, 2, 2, true, true, admin_config_set},
    {{"vhost", "list"}, 0, 0, false, true, admin_vhost_list},
    {{"vhost", "add"}, 1, 1, true, false, admin_vhost_add},
    {{"vhost", "delete"}, 1, 1, true, false, admin_vhost_delete},
    {{"user", "list"}, 0, 0, false, true, admin_user_list},
    {{"user", "add"}, 2, 3, true, false, admin_user_add},
    {{"user", "delete"}, 1, 1, true, false, admin_user_delete},
    {{"snapshot"}, 0, 0, true, false, admin_snapshot},
};

static const struct verb *find_verb(const struct resp_admin_call *call, unsigned *ret_words)
{
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
        unsigned n = verbs[i].words[1] == NULL ? 1 : 2;

        if (call->argc >= n && slice_ieq(call->argv[0], verbs[i].words[0]) &&
            (n == 1 || slice_ieq(call->argv[1], verbs[i].words[1]))) {
            *ret_words = n;
            return &verbs[i];
        }
    }
    return NULL;
}

static void fail(struct resp_admin_call *call, int err, const char *text)
{
    call->err = err;
    buf_put_str(&call->answer, text);
}

static void run(struct admin *a, struct resp_admin_call *call)
{
    unsigned words = 0;
    const struct verb *v = find_verb(call, &words);
    json_t *answer;
    char *text;

    call->err = 0;
    if (v == NULL) {
        fail(call, ERR_NOT_FOUND, "unknown GOMSG verb; gomsgctl --help lists them");
        return;
    }
    if (call->argc - words < v->min || call->argc - words > v->max) {
        fail(call, ERR_SYNTAX, "wrong number of arguments for this GOMSG verb");
        return;
    }
    if (v->changes && !call->trusted) {
        fail(call, ERR_ACCESS, "this GOMSG verb changes the node and is allowed from loopback and ctl.sock only");
        return;
    }
    if (!v->early && __atomic_load_n(&a->server->state, __ATOMIC_ACQUIRE) != SERVER_READY) {
        fail(call, ERR_AGAIN, "the node is recovering");
        return;
    }
    answer = v->handle(a->server, call->argc - words, call->argv + words, &call->answer);
    if (answer == NULL) {
        call->err = ERR_INVALID;
        return;
    }
    buf_clear(&call->answer);
    text = json_dumps(answer, JSON_COMPACT);
    CHECK(text != NULL);
    buf_put_str(&call->answer, text);
    free(text);
    json_decref(answer);
}

static void deliver(struct worker *w, struct mail *m)
{
    struct resp_admin_call *call = CONTAINER_OF(m, struct resp_admin_call, mail);

    (void)w;
    call->done(call);
}

static void *admin_thread(void *arg)
{
    struct admin *a = arg;

    MAGIC_CHECK(a, ADMIN_MAGIC);
    for (;;) {
        struct resp_admin_call *call;

        mutex_lock(&a->lock);
        while (a->head == NULL && !a->stopping)
            pthread_cond_wait(&a->news, &a->lock.m);
        if (a->head == NULL) {
            mutex_unlock(&a->lock);
            return NULL;
        }
        call = CONTAINER_OF(a->head, struct resp_admin_call, mail);
        a->head = call->mail.next;
        if (a->head == NULL)
            a->tail = &a->head;
        mutex_unlock(&a->lock);
        run(a, call);
        call->mail.deliver = deliver;
        worker_post(call->worker, &call->mail);
    }
}

void admin_submit(void *arg, struct resp_admin_call *call)
{
    struct admin *a = arg;

    MAGIC_CHECK(a, ADMIN_MAGIC);
    call->mail.next = NULL;
    mutex_lock(&a->lock);
    if (a->stopping) {
        mutex_unlock(&a->lock);
        fail(call, ERR_CLOSED, "the node is stopping");
        call->mail.deliver = deliver;
        worker_post(call->worker, &call->mail);
        return;
    }
    *a->tail = &call->mail;
    a->tail = &call->mail.next;
    pthread_cond_signal(&a->news);
    mutex_unlock(&a->lock);
}

struct admin *admin_new(struct server *s)
{
    struct admin *a = mem_zalloc(sizeof(*a));

    MAGIC_INIT(a, ADMIN_MAGIC);
    a->server = s;
    a->tail = &a->head;
    mutex_init(&a->lock);
    CHECK(pthread_cond_init(&a->news, NULL) == 0);
    CHECK(pthread_create(&a->thread, NULL, admin_thread, a) == 0);
    pthread_setname_np(a->thread, "admin");
    return a;
}

void admin_stop(struct admin *a)
{
    if (a == NULL)
        return;
    mutex_lock(&a->lock);
    a->stopping = true;
    pthread_cond_signal(&a->news);
    mutex_unlock(&a->lock);
    CHECK(pthread_join(a->thread, NULL) == 0);
}

void admin_free(struct admin *a)
{
    if (a == NULL)
        return;
    pthread_cond_destroy(&a->news);
    mutex_fini(&a->lock);
    MAGIC_FINI(a, ADMIN_MAGIC);
    mem_free(a);
}
