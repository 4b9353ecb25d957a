/* A development cluster: N nodes from one gomsg.yaml, as in production, each with its own ports and data directory.
 *
 *   DIR/gomsg.yaml         written by the first `dev up`; may be edited
 *   DIR/n1/data            node 1's data directory; whether it runs is told by the lock on its gomsgd.pid
 *   DIR/n1/gomsgd.log      its diagnostics
 *
 * Node i listens on 127.0.0.1: on the usual ports, plus i - 1, or, with a base port, on BASE + 10 * (i - 1) and the four behind it for RESP, Kafka, AMQP, HTTP, bus. The base port is
 * remembered in DIR/base-port (0: the usual ports). */
#include "ctl/dev.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "base/rand.h"
#include "ctl/render.h"

enum { NODES_MAX = 15, PORTS_PER_NODE = 10, AUTO_TRIES = 200, START_TIMEOUT_MS = 60000, STOP_TIMEOUT_MS = 30000 };

const char dev_usage[] = "  dev up [-n N] [--base-port PORT]   start a local cluster of N nodes (3) and wait until it serves\n"
                         "  dev status                         its nodes, their processes and addresses\n"
                         "  dev start|kill|pause|resume NODE   start a node again, kill -9, stop, continue it\n"
                         "  dev down [--delete]                end it; --delete removes its data too\n"
                         "  dev --dir DIR ...                  where it lives (default $GOMSG_DEV_DIR, else ./gomsg-dev)\n";

struct dev {
    const char *dir;
    unsigned nodes;     /* directories n1..nN */
    unsigned base_port; /* 0: the usual ports */
    bool json, header;
};

enum dev_state { DEV_STOPPED, DEV_RUNNING, DEV_PAUSED };
static const char *const state_names[] = {"stopped", "running", "paused"};

static unsigned port_of(const struct dev *d, unsigned node, unsigned which)
{
    static const unsigned usual[] = {6379, 9092, 5672, 15672, 9000};

    if (d->base_port == 0)
        return usual[which] + node - 1;
    return d->base_port + PORTS_PER_NODE * (node - 1) + which;
}

static int dev_connect(unsigned port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval limit = {1, 0};

    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static bool is_free(unsigned port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    bool ok = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0 && bind(fd, (struct sockaddr *)&at, sizeof(at)) == 0;

    if (fd >= 0)
        close(fd);
    return ok;
}

/* The first port of nodes 1 to `last` that is taken, 0: none. */
static unsigned taken_port(const struct dev *d, unsigned last)
{
    for (unsigned node = 1; node <= last; node++)
        for (unsigned i = 0; i < 5; i++)
            if (!is_free(port_of(d, node, i)))
                return port_of(d, node, i);
    return 0;
}

static void nap_ms(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};

    nanosleep(&t, NULL);
}

static int fail(const char *what, const char *path)
{
    fprintf(stderr, "gomsgctl: %s %s: %s\n", what, path, strerror(errno));
    return 1;
}

/* ---- what is there ------------------------------------------------------------------------------------------------------ */

static char *node_path(const struct dev *d, unsigned node, const char *rest)
{
    return mem_printf("%s/n%u/%s", d->dir, node, rest);
}

static void look(struct dev *d)
{
    char *path = mem_printf("%s/base-port", d->dir);
    FILE *f = fopen(path, "re");
    unsigned port;

    if (f != NULL) {
        if (fscanf(f, "%u", &port) == 1 && port < 65536)
            d->base_port = port;
        fclose(f);
    }
    mem_free(path);
    for (d->nodes = 0; d->nodes < NODES_MAX; d->nodes++) {
        bool there;

        path = node_path(d, d->nodes + 1, "");
        there = access(path, F_OK) == 0;
        mem_free(path);
        if (!there)
            break;
    }
}

/* The process that holds the lock of a node's data directory; whether it is stopped says the third field of /proc/PID/stat. */
static enum dev_state node_state(const struct dev *d, unsigned node, pid_t *ret_pid)
{
    char *path = node_path(d, node, "data/gomsgd.pid"), text[32] = "", *end;
    struct buf stat = {0};
    enum dev_state state = DEV_STOPPED;
    int fd = open(path, O_RDWR | O_CLOEXEC);

    mem_free(path);
    *ret_pid = 0;
    if (fd < 0)
        return DEV_STOPPED;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK && pread(fd, text, sizeof(text) - 1, 0) > 0 && atoi(text) > 1) {
        *ret_pid = (pid_t)atoi(text);
        state = DEV_RUNNING;
        path = mem_printf("/proc/%d/stat", *ret_pid);
        if (file_read(path, 4096, &stat) == 0) {
            buf_put_u8(&stat, 0);
            end = strrchr((char *)stat.data, ')');
            if (end != NULL && strncmp(end, ") T", 3) == 0)
                state = DEV_PAUSED;
        }
        buf_fini(&stat);
        mem_free(path);
    }
    close(fd);
    return state;
}

/* ---- making ---------------------------------------------------------------------------------------------------------------- */

static int write_text(const char *path, const struct buf *b)
{
    FILE *f = fopen(path, "wxe");

    if (f == NULL)
        return errno == EEXIST ? 0 : fail("cannot write", path);
    if (fwrite(b->data, 1, b->len, f) != b->len || fclose(f) != 0)
        return fail("cannot write", path);
    return 0;
}

static int write_config(const struct dev *d)
{
    char *path = mem_printf("%s/gomsg.yaml", d->dir);
    struct buf b = {0};
    uint8_t secret[16];
    int code;

    rand_secure(secret, sizeof(secret));
    buf_printf(&b, "# A cluster made by `gomsgctl dev up`; the same file for each node.\ncluster:\n  secret: ");
    for (size_t i = 0; i < sizeof(secret); i++)
        buf_printf(&b, "%02x", secret[i]);
    buf_printf(&b, "\n  seeds:\n");
    for (unsigned i = 1; i <= d->nodes; i++)
        buf_printf(&b, "    - 127.0.0.1:%u\n", port_of(d, i, 4));
    code = write_text(path, &b);
    mem_free(path);
    buf_clear(&b);
    buf_printf(&b, "%u\n", d->base_port);
    path = mem_printf("%s/base-port", d->dir);
    if (code == 0)
        code = write_text(path, &b);
    mem_free(path);
    buf_fini(&b);
    return code;
}

/* gomsgd beside this program, else along PATH. */
static char *daemon_path(void)
{
    char self[PATH_MAX], *slash, *beside;
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    if (n > 0) {
        self[n] = '\0';
        slash = strrchr(self, '/');
        *slash = '\0';
        beside = mem_printf("%s/gomsgd", self);
        if (access(beside, X_OK) == 0)
            return beside;
        mem_free(beside);
        /* installed: bin/gomsgctl, sbin/gomsgd */
        beside = mem_printf("%s/../sbin/gomsgd", self);
        if (access(beside, X_OK) == 0)
            return beside;
        mem_free(beside);
    }
    return mem_strdup("gomsgd");
}

static void exec_daemon(const struct dev *d, unsigned node)
{
    static const char *const protocols[] = {"resp", "kafka", "amqp", "http", "cluster"};
    char *log = node_path(d, node, "gomsgd.log"), *program = daemon_path();
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640), null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    char *argv[4 + ARRAY_LEN(protocols) + 1];
    unsigned n = 0;

    if (fd < 0 || null < 0 || dup2(null, 0) < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0 || setsid() < 0)
        _exit(126);
    argv[n++] = program;
    argv[n++] = mem_printf("--config=%s/gomsg.yaml", d->dir);
    argv[n++] = mem_printf("--node.name=n%u", node);
    argv[n++] = mem_printf("--node.data_dir=%s/n%u/data", d->dir, node);
    for (unsigned i = 0; i < ARRAY_LEN(protocols); i++)
        argv[n++] = mem_printf("--%s.listen=127.0.0.1:%u", protocols[i], port_of(d, node, i));
    argv[n] = NULL;
    execvp(program, argv);
    fprintf(stderr, "cannot run %s: %s\n", program, strerror(errno));
    _exit(127);
}

/* ---- starting and ending --------------------------------------------------------------------------------------------------- */

static int start_node(const struct dev *d, unsigned node)
{
    char *data = node_path(d, node, "data");
    int err = file_make_dirs(data);
    pid_t pid;

    mem_free(data);
    if (err < 0) {
        fprintf(stderr, "gomsgctl: the directory of node %u cannot be made: %s\n", node, err_text(err));
        return 1;
    }
    if (node_state(d, node, &pid) != DEV_STOPPED)
        return 0;
    pid = fork();
    if (pid < 0)
        return fail("cannot start", "gomsgd");
    if (pid == 0)
        exec_daemon(d, node);
    return 0;
}

/* The node's own answer to whether it serves. */
static bool is_ready(const struct dev *d, unsigned node)
{
    static const char request[] = "GET /readyz HTTP/1.0\r\n\r\n";
    char reply[64] = "";
    int fd = dev_connect(port_of(d, node, 3));
    bool ready = false;

    if (fd >= 0) {
        if (write(fd, request, sizeof(request) - 1) > 0 && read(fd, reply, sizeof(reply) - 1) > 0)
            ready = strstr(reply, " 200 ") != NULL;
        close(fd);
    }
    return ready;
}

static void show_end_of_log(const struct dev *d, unsigned node)
{
    char *path = node_path(d, node, "gomsgd.log");
    struct buf b = {0};

    if (file_read(path, 1u << 20, &b) == 0 && b.len > 0) {
        size_t at = b.len;

        for (int lines = 0; at > 0 && (lines < 6 || b.data[at - 1] != '\n'); at--)
            lines += b.data[at - 1] == '\n' && at != b.len;
        fprintf(stderr, "%s:\n%.*s\n", path, (int)(b.len - at), (const char *)b.data + at);
    }
    buf_fini(&b);
    mem_free(path);
}

/* Waits until all serve; a node that has ended meanwhile is told with the end of its diagnostics. */
static int wait_ready(const struct dev *d, unsigned first, unsigned last)
{
    uint64_t until = clock_mono_us() + START_TIMEOUT_MS * 1000ull, begun = clock_mono_us();

    for (unsigned node = first; node <= last; node++) {
        while (!is_ready(d, node)) {
            pid_t pid;

            /* It takes its lock within the first moments. */
            if (clock_mono_us() - begun > 2000000 && node_state(d, node, &pid) == DEV_STOPPED) {
                fprintf(stderr, "gomsgctl: node %u has ended\n", node);
                show_end_of_log(d, node);
                return 1;
            }
            if (clock_mono_us() > until) {
                fprintf(stderr, "gomsgctl: node %u does not serve after %d s\n", node, START_TIMEOUT_MS / 1000);
                show_end_of_log(d, node);
                return 1;
            }
            nap_ms(20);
        }
    }
    return 0;
}

/* Until every partition has its leader and its replicas: `gomsgctl cluster health --wait`, asked of node 1. */
static int wait_healthy(const struct dev *d)
{
    char *data = node_path(d, 1, "data");
    pid_t pid = fork();
    int status = -1;

    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

        if (null < 0 || dup2(null, 1) < 0)
            _exit(126);
        execl("/proc/self/exe", "gomsgctl", "-d", data, "cluster", "health", "--wait", (char *)NULL);
        _exit(127);
    }
    mem_free(data);
    if (pid < 0)
        return fail("cannot start", "gomsgctl");
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fprintf(stderr, "gomsgctl: the nodes run, but not every partition has its leader and replicas; gomsgctl cluster partitions tells more\n");
        return 1;
    }
    return 0;
}

static int signal_node(const struct dev *d, unsigned node, int number)
{
    pid_t pid;

    if (node_state(d, node, &pid) == DEV_STOPPED) {
        fprintf(stderr, "gomsgctl: node %u does not run\n", node);
        return 1;
    }
    return kill(pid, number) < 0 ? fail("cannot signal", "gomsgd") : 0;
}

static int show_status(const struct dev *d)
{
    static const char *const names[] = {"resp", "kafka", "amqp", "http", "bus"};
    json_t *rows = json_array();

    for (unsigned node = 1; node <= d->nodes; node++) {
        pid_t pid;
        enum dev_state state = node_state(d, node, &pid);
        json_t *row = json_pack("{s:i,s:s,s:i}", "node", (int)node, "state", state_names[state], "pid", (int)pid);

        for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
            char *address = mem_printf("127.0.0.1:%u", port_of(d, node, i));

            json_object_set_new(row, names[i], json_string(address));
            mem_free(address);
        }
        json_array_append_new(rows, row);
    }
    if (d->json) {
        json_dumpf(rows, stdout, JSON_INDENT(2));
        putchar('\n');
    } else {
        render_table(rows, "node:NODE:n|state:STATE:s|pid:PID:n|resp:REDIS:s|kafka:KAFKA:s|amqp:RABBITMQ:s|http:HTTP:s", d->header);
    }
    json_decref(rows);
    return 0;
}

/* Somewhere between the registered services and the ephemeral ports. */
static bool choose_ports(struct dev *d)
{
    for (int i = 0; i < AUTO_TRIES; i++) {
        uint16_t r;

        rand_secure((uint8_t *)&r, sizeof(r));
        d->base_port = 20000 + r % 12000;
        if (taken_port(d, d->nodes) == 0)
            return true;
    }
    return false;
}

static int up(struct dev *d, unsigned wanted, unsigned base_port, bool choose)
{
    bool fresh = d->nodes == 0;
    unsigned taken;
    int code = 0;

    if (fresh) {
        int err = file_make_dirs(d->dir);

        if (err < 0) {
            fprintf(stderr, "gomsgctl: %s cannot be made: %s\n", d->dir, err_text(err));
            return 1;
        }
        d->nodes = wanted != 0 ? wanted : 3;
        d->base_port = base_port;
        if (choose && !choose_ports(d)) {
            fprintf(stderr, "gomsgctl: no free ports were found\n");
            return 1;
        }
        taken = taken_port(d, d->nodes);
        if (taken != 0) {
            fprintf(stderr, "gomsgctl: port %u is taken; dev up --base-port PORT (or auto) uses others\n", taken);
            return 1;
        }
        code = write_config(d);
    } else if ((base_port != 0 && base_port != d->base_port) || (wanted != 0 && wanted < d->nodes)) {
        fprintf(stderr, "gomsgctl: %s has a cluster of %u nodes, the first on port %u; dev down --delete removes it\n", d->dir, d->nodes, port_of(d, 1, 0));
        return 1;
    } else if (wanted > d->nodes) {
        d->nodes = wanted; /* further nodes join by the same seeds */
    }
    for (unsigned node = 1; node <= d->nodes && code == 0; node++)
        code = start_node(d, node);
    if (code == 0)
        code = wait_ready(d, 1, d->nodes);
    if (code == 0)
        code = wait_healthy(d);
    return code == 0 ? show_status(d) : code;
}

static int down(const struct dev *d, bool delete)
{
    uint64_t until = clock_mono_us() + STOP_TIMEOUT_MS * 1000ull;
    pid_t pid;

    for (unsigned node = 1; node <= d->nodes; node++) {
        enum dev_state state = node_state(d, node, &pid);

        if (state == DEV_PAUSED)
            kill(pid, SIGCONT);
        if (state != DEV_STOPPED)
            kill(pid, SIGTERM);
    }
    for (unsigned node = 1; node <= d->nodes; node++) {
        while (node_state(d, node, &pid) != DEV_STOPPED) {
            if (clock_mono_us() > until)
                kill(pid, SIGKILL);
            nap_ms(20);
        }
    }
    if (delete) {
        char *config = mem_printf("%s/gomsg.yaml", d->dir);
        bool ours = access(config, F_OK) == 0;

        mem_free(config);
        if (ours && file_remove_tree(d->dir) < 0)
            return fail("cannot remove", d->dir);
    }
    return 0;
}

/* ---- the command line --------------------------------------------------------------------------------------------------------- */

static int usage(void)
{
    fprintf(stderr, "usage:\n%s", dev_usage);
    return 2;
}

static bool number(const char *text, unsigned min, unsigned max, unsigned *ret)
{
    char *end;
    unsigned long v = strtoul(text, &end, 10);

    if (*text < '0' || *text > '9' || *end != '\0' || v < min || v > max)
        return false;
    *ret = (unsigned)v;
    return true;
}

static int one_node(const struct dev *d, const char *verb, unsigned node)
{
    if (strcmp(verb, "start") == 0) {
        int code = start_node(d, node);

        return code == 0 ? wait_ready(d, node, node) : code;
    }
    if (strcmp(verb, "kill") == 0)
        return signal_node(d, node, SIGKILL);
    if (strcmp(verb, "pause") == 0)
        return signal_node(d, node, SIGSTOP);
    if (strcmp(verb, "resume") == 0)
        return signal_node(d, node, SIGCONT);
    return usage();
}

int dev_main(int argc, char **argv, bool json, bool header)
{
    struct dev d = {.dir = getenv("GOMSG_DEV_DIR"), .json = json, .header = header};
    unsigned nodes = 0, base_port = 0, node;
    const char *words[2] = {NULL, NULL};
    bool delete = false, choose = false;
    int n = 0;

    for (int i = 0; i < argc; i++) {
        bool more = i + 1 < argc;

        if (strcmp(argv[i], "--dir") == 0 && more) {
            d.dir = argv[++i];
        } else if (strcmp(argv[i], "-n") == 0 && more) {
            if (!number(argv[++i], 1, NODES_MAX, &nodes))
                return usage();
        } else if (strcmp(argv[i], "--base-port") == 0 && more) {
            choose = strcmp(argv[++i], "auto") == 0;
            if (!choose && !number(argv[i], 1024, 65535 - NODES_MAX * PORTS_PER_NODE, &base_port))
                return usage();
        } else if (strcmp(argv[i], "--delete") == 0) {
            delete = true;
        } else if (n < 2 && argv[i][0] != '-') {
            words[n++] = argv[i];
        } else {
            return usage();
        }
    }
    if (d.dir == NULL)
        d.dir = "gomsg-dev";
    if (n == 0)
        return usage();
    look(&d);
    if (n == 1 && strcmp(words[0], "up") == 0)
        return up(&d, nodes, base_port, choose);
    if (d.nodes == 0) {
        fprintf(stderr, "gomsgctl: there is no cluster in %s; gomsgctl dev up makes one\n", d.dir);
        return 1;
    }
    if (n == 1 && strcmp(words[0], "status") == 0)
        return show_status(&d);
    if (n == 1 && strcmp(words[0], "down") == 0)
        return down(&d, delete);
    if (n != 2 || !number(words[1], 1, d.nodes, &node)) {
        if (n == 2)
            fprintf(stderr, "gomsgctl: nodes are 1 to %u, not \"%s\"\n", d.nodes, words[1]);
        return usage();
    }
    return one_node(&d, words[0], node);
}
