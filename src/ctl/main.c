/* gomsgctl: asks a node through one Redis command, `GOMSG <verb>`, and renders its JSON. See gomsgctl(1).
 *
 * Exit codes, for scripts: 0 done, 1 refused or failed (the reason is on stderr), 2 wrong usage, 3 no server could be reached. `log dump --verify` exits 1 when it found damage. */
#include <errno.h>
#include <getopt.h>
#include <hiredis/hiredis.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/check.h"
#include "base/mem.h"
#include "ctl/dev.h"
#include "ctl/logdump.h"
#include "ctl/render.h"

enum { EXIT_DONE = 0, EXIT_REFUSED = 1, EXIT_USAGE = 2, EXIT_UNREACHABLE = 3 };

enum shape { OBJECT, TABLE, DONE };

struct verb {
    const char *words, *arguments;
    int min, max;
    enum shape shape;
    const char *columns, *help;
};

static const struct verb verbs[] = {
#define X(words, arguments, min, max, shape, columns, help) {words, arguments, min, max, shape, columns, help},
#include "ctl/verbs.def"
#undef X
};

struct options {
    const char *server;   /* HOST:PORT, NULL: the control socket */
    const char *data_dir;
    const char *user, *password;
    bool json, header, wait;
};

static void usage(FILE *out)
{
    fprintf(out, "usage: gomsgctl [-s HOST:PORT | -d DATA_DIR] [-u USER] [--json] [--no-header] VERB [ARGUMENTS]\n\n");
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
        char *left = mem_printf("%s %s", verbs[i].words, verbs[i].arguments);

        fprintf(out, "  %-34s %s\n", left, verbs[i].help);
        mem_free(left);
    }
    fprintf(out, "  %-34s %s\n", "log dump [--verify] FILE", "print or check a segment file, without a server");
    fprintf(out, "%s", dev_usage);
    fprintf(out, "\n"
                 "  -s, --server HOST:PORT   a node's RESP address instead of its control socket\n"
                 "  -d, --data-dir DIR       whose ctl.sock to use (default $GOMSG_DATA_DIR, else ./data)\n"
                 "  -u, --user NAME          with -s; the password comes from $GOMSG_PASSWORD\n"
                 "      --json               the server's answer as it is\n"
                 "      --no-header          tables without their first line\n"
                 "  -h, --help\n");
}

/* How many of argv's words name this verb; 0: it does not. */
static int match_verb(const struct verb *v, int argc, char **argv)
{
    char *words = mem_strdup(v->words), *save = NULL;
    int n = 0;

    for (char *w = strtok_r(words, " ", &save); w != NULL; w = strtok_r(NULL, " ", &save), n++) {
        if (n >= argc || strcmp(argv[n], w) != 0) {
            n = 0;
            break;
        }
    }
    mem_free(words);
    return n;
}

static redisContext *connect_server(const struct options *o)
{
    struct timeval timeout = {5, 0};
    redisContext *c;
    char *where;

    if (o->server == NULL) {
        where = mem_printf("%s/ctl.sock", o->data_dir);
        c = redisConnectUnixWithTimeout(where, timeout);
    } else {
        char *host, *colon;

        where = mem_strdup(o->server);
        host = mem_strdup(o->server);
        colon = strrchr(host, ':');
        if (colon == NULL || atoi(colon + 1) <= 0) {
            fprintf(stderr, "gomsgctl: -s wants HOST:PORT, not \"%s\"\n", o->server);
            exit(EXIT_USAGE);
        }
        *colon = '\0';
        if (host[0] == '[' && colon > host && colon[-1] == ']') {
            colon[-1] = '\0';
            c = redisConnectWithTimeout(host + 1, atoi(colon + 1), timeout);
        } else {
            c = redisConnectWithTimeout(host, atoi(colon + 1), timeout);
        }
        mem_free(host);
    }
    if (c == NULL || c->err != 0) {
        fprintf(stderr, "gomsgctl: cannot reach a server at %s: %s\n", where, c == NULL ? "out of memory" : c->errstr);
        if (o->server == NULL)
            fprintf(stderr, "gomsgctl: name another with -s HOST:PORT or -d DATA_DIR\n");
        redisFree(c);
        mem_free(where);
        exit(EXIT_UNREACHABLE);
    }
    timeout.tv_sec = 60;
    redisSetTimeout(c, timeout);
    mem_free(where);
    return c;
}

static void authenticate(redisContext *c, const struct options *o)
{
    redisReply *r;

    if (o->user == NULL)
        return;
    r = redisCommand(c, "AUTH %s %s", o->user, o->password == NULL ? "" : o->password);
    if (r == NULL || r->type == REDIS_REPLY_ERROR) {
        fprintf(stderr, "gomsgctl: %s\n", r == NULL ? c->errstr : r->str);
        exit(EXIT_REFUSED);
    }
    freeReplyObject(r);
}

static int show(const struct verb *v, const struct options *o, const redisReply *r)
{
    json_error_t error;
    json_t *answer;

    if (o->json) {
        printf("%.*s\n", (int)r->len, r->str);
        return EXIT_DONE;
    }
    answer = json_loadb(r->str, r->len, JSON_DECODE_ANY, &error);
    if (answer == NULL) {
        fprintf(stderr, "gomsgctl: the server's answer is not JSON: %s\n", error.text);
        return EXIT_REFUSED;
    }
    switch (v->shape) {
    case OBJECT:
        render_object(answer);
        break;
    case TABLE:
        render_table(answer, v->columns, o->header);
        break;
    case DONE:
        break;
    }
    json_decref(answer);
    return EXIT_DONE;
}

static int run_verb(const struct verb *v, const struct options *o, int argc, char **argv)
{
    redisContext *c = connect_server(o);
    const char **words = mem_calloc((size_t)argc + 1, sizeof(words[0]));
    size_t *lens = mem_calloc((size_t)argc + 1, sizeof(lens[0]));
    redisReply *r;
    int code;

    authenticate(c, o);
    words[0] = "GOMSG";
    lens[0] = 5;
    for (int i = 0; i < argc; i++) {
        words[i + 1] = argv[i];
        lens[i + 1] = strlen(argv[i]);
    }
    r = redisCommandArgv(c, argc + 1, words, lens);
    if (r == NULL) {
        fprintf(stderr, "gomsgctl: %s\n", c->errstr);
        code = EXIT_UNREACHABLE;
    } else if (r->type == REDIS_REPLY_ERROR) {
        fprintf(stderr, "gomsgctl: %s\n", strncmp(r->str, "ERR ", 4) == 0 ? r->str + 4 : r->str);
        code = EXIT_REFUSED;
    } else if (r->type != REDIS_REPLY_STRING && r->type != REDIS_REPLY_STATUS) {
        fprintf(stderr, "gomsgctl: the server is not GoMsg\n");
        code = EXIT_REFUSED;
    } else {
        if (strcmp(v->words, "version") == 0 && !o->json)
            printf("%-28s %s\n", "gomsgctl", PACKAGE_VERSION);
        code = show(v, o, r);
    }
    freeReplyObject(r);
    redisFree(c);
    mem_free(words);
    mem_free(lens);
    return code;
}

/* cluster health --wait: asks until the answer is healthy. Exit codes as ever; 1 when it is not healthy, with --wait after WAIT_S. */
#define WAIT_S 60

static int run_health(const struct verb *v, const struct options *o, int argc, char **argv, bool wait)
{
    struct timespec pause = {0, 200000000};
    int code;

    for (unsigned i = 0;; i++) {
        redisContext *c = connect_server(o);
        redisReply *r;
        json_t *answer = NULL;
        bool healthy = false, last;

        authenticate(c, o);
        r = redisCommand(c, "GOMSG cluster health");
        if (r != NULL && r->type == REDIS_REPLY_STRING)
            answer = json_loadb(r->str, r->len, JSON_DECODE_ANY, NULL);
        healthy = answer != NULL && json_is_true(json_object_get(answer, "healthy"));
        last = healthy || !wait || i >= WAIT_S * 5;
        code = healthy ? EXIT_DONE : EXIT_REFUSED;
        if (last && answer != NULL)
            show(v, o, r);
        else if (last)
            code = run_verb(v, o, argc, argv); /* says what went wrong */
        json_decref(answer);
        freeReplyObject(r);
        redisFree(c);
        if (last)
            return code;
        nanosleep(&pause, NULL);
    }
}

static int number_of(const json_t *row, const char *name)
{
    return (int)json_integer_value(json_object_get(row, name));
}

/* What `node` leads and holds; false: no answer. */
static bool ask_share(const struct options *o, int node, int *ret_leads, int *ret_replicas)
{
    redisContext *c = connect_server(o);
    redisReply *r;
    json_t *rows = NULL, *row;
    bool found = false;
    size_t i;

    authenticate(c, o);
    r = redisCommand(c, "GOMSG cluster nodes");
    if (r != NULL && r->type == REDIS_REPLY_STRING)
        rows = json_loadb(r->str, r->len, 0, NULL);
    json_array_foreach (rows, i, row) {
        if (number_of(row, "node") != node)
            continue;
        found = true;
        *ret_leads = number_of(row, "leads");
        *ret_replicas = number_of(row, "replicas");
    }
    json_decref(rows);
    freeReplyObject(r);
    redisFree(c);
    return found;
}

/* cluster drain --wait: until the node has given up what it shall; 1 when nothing has moved for WAIT_S. */
static int run_drain(const struct verb *v, const struct options *o, int argc, char **argv)
{
    struct timespec pause = {0, 200000000};
    int node = atoi(argv[2]), leads = 0, replicas = 0, before = -1;
    bool all = argc > 3;
    int code = run_verb(v, o, argc, argv);

    if (code != EXIT_DONE || !o->wait)
        return code;
    for (unsigned still = 0; still < WAIT_S * 5; still++) {
        if (ask_share(o, node, &leads, &replicas)) {
            if (leads == 0 && (!all || replicas == 0))
                return EXIT_DONE;
            if (leads + replicas != before)
                still = 0;
            before = leads + replicas;
        }
        nanosleep(&pause, NULL);
    }
    fprintf(stderr, "gomsgctl: node %d still leads %d partitions and has %d replicas, and nothing has moved for %d s; gomsgctl cluster partitions and cluster events tell more\n", node, leads, replicas, WAIT_S);
    return EXIT_REFUSED;
}

static int usage_of(const struct verb *v)
{
    fprintf(stderr, "usage: gomsgctl %s %s\n", v->words, v->arguments);
    return EXIT_USAGE;
}

static int parse_options(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {
        {"server", required_argument, NULL, 's'}, {"data-dir", required_argument, NULL, 'd'},
        {"user", required_argument, NULL, 'u'},   {"json", no_argument, NULL, 'j'},
        {"no-header", no_argument, NULL, 'n'},    {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},      {NULL, 0, NULL, 0},
    };
    int c;

    o->data_dir = getenv("GOMSG_DATA_DIR");
    if (o->data_dir == NULL)
        o->data_dir = "./data";
    o->password = getenv("GOMSG_PASSWORD");
    o->header = true;
    while ((c = getopt_long(argc, argv, "+s:d:u:h", longs, NULL)) != -1) {
        switch (c) {
        case 's':
            o->server = optarg;
            break;
        case 'd':
            o->data_dir = optarg;
            break;
        case 'u':
            o->user = optarg;
            break;
        case 'j':
            o->json = true;
            break;
        case 'n':
            o->header = false;
            break;
        case 'h':
            usage(stdout);
            exit(EXIT_DONE);
        case 'V':
            printf("gomsgctl %s\n", PACKAGE_VERSION);
            exit(EXIT_DONE);
        default:
            usage(stderr);
            exit(EXIT_USAGE);
        }
    }
    return optind;
}

/* Options may also stand behind the verb, where people write them; they are moved out of the arguments. */
static int take_trailing_options(int argc, char **argv, struct options *o)
{
    int n = 0;

    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            o->json = true;
        else if (strcmp(argv[i], "--no-header") == 0)
            o->header = false;
        else if (strcmp(argv[i], "--wait") == 0)
            o->wait = true;
        else
            argv[n++] = argv[i];
    }
    return n;
}

int main(int argc, char **argv)
{
    struct options o = {0};
    int first = parse_options(argc, argv, &o);

    argc -= first;
    argv += first;
    argc = take_trailing_options(argc, argv, &o);
    if (argc == 0) {
        usage(stderr);
        return EXIT_USAGE;
    }
    if (argc >= 2 && strcmp(argv[0], "log") == 0 && strcmp(argv[1], "dump") == 0)
        return logdump_main(argc - 2, argv + 2, o.json);
    if (strcmp(argv[0], "dev") == 0)
        return dev_main(argc - 1, argv + 1, o.json, o.header);
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
        int words = match_verb(&verbs[i], argc, argv);

        if (words == 0)
            continue;
        if (argc - words < verbs[i].min || argc - words > verbs[i].max)
            return usage_of(&verbs[i]);
        if (strcmp(verbs[i].words, "cluster health") == 0)
            return run_health(&verbs[i], &o, argc, argv, o.wait);
        if (strcmp(verbs[i].words, "cluster drain") == 0)
            return run_drain(&verbs[i], &o, argc, argv);
        if (o.wait)
            return usage_of(&verbs[i]);
        return run_verb(&verbs[i], &o, argc, argv);
    }
    fprintf(stderr, "gomsgctl: unknown verb \"%s\"; gomsgctl --help lists them\n", argv[0]);
    return EXIT_USAGE;
}
