#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "config/config.h"

static struct config *load(const char *text)
{
    struct config *cfg = NULL;
    struct buf errors = {0};
    int err = config_load_text("t.yaml", text, strlen(text), 0, NULL, &cfg, &errors);

    buf_put_u8(&errors, 0);
    cr_assert_eq(err, 0, "%s", (char *)errors.data);
    buf_fini(&errors);
    return cfg;
}

static void refused(const char *text, const char *want)
{
    struct config *cfg = NULL;
    struct buf errors = {0};

    cr_assert_eq(config_load_text("t.yaml", text, strlen(text), 0, NULL, &cfg, &errors), ERR_INVALID, "%s",
                 text);
    buf_put_u8(&errors, 0);
    cr_assert_not_null(strstr((char *)errors.data, want), "wanted: %s\ngot: %s", want, (char *)errors.data);
    buf_fini(&errors);
}

static void refused_argument(const char *arg, const char *want)
{
    char *argv[] = {(char *)(uintptr_t)arg};
    struct config *cfg = NULL;
    struct buf errors = {0};

    cr_assert_eq(config_load(NULL, 1, argv, &cfg, &errors), ERR_INVALID, "%s", arg);
    buf_put_u8(&errors, 0);
    cr_assert_not_null(strstr((char *)errors.data, want), "wanted: %s\ngot: %s", want, (char *)errors.data);
    buf_fini(&errors);
}

Test(config, nothing_gives_the_defaults)
{
    struct config *cfg = load("");

    cr_assert_str_eq(cfg->node_data_dir, "./data");
    cr_assert_eq(cfg->cluster_total_partitions, 32);
    cr_assert_eq(cfg->cluster_lease_ms, 1000);
    cr_assert_eq(cfg->amqp_coalesce_us, 100);
    cr_assert_eq(cfg->resp_max_bulk_bytes, 512 << 20);
    cr_assert_eq(cfg->kv_ack, CONFIG_ACK_LEADER);
    cr_assert_eq(cfg->log_fsync, CONFIG_FSYNC_INTERVAL);
    cr_assert_eq(cfg->resp_enable_debug_command, CONFIG_DEBUG_LOCAL);
    cr_assert_eq(cfg->log_retention_bytes, -1);
    cr_assert_eq(cfg->cluster_rebalance_threshold, 0.1);
    cr_assert_eq(cfg->resp_listen.count, 1);
    cr_assert_str_eq(cfg->resp_listen.items[0], "127.0.0.1:6379");
    cr_assert_eq(cfg->cluster_seeds.count, 0);
    config_free(cfg);
}

Test(config, a_file_sets_what_it_names)
{
    struct config *cfg =
        load("# comment\n"
             "node:\n  threads: 3\n  name: 'node: one'\n"
             "resp:\n  listen: [127.0.0.1:1, 'unix:/tmp/x.sock']\n  max_bulk_bytes: 1.5 MiB\n"
             "kafka:\n  listen:\n    - 127.0.0.1:2\n    - \"[::1]:2\"\n  auto_create_topics: no\n"
             "amqp:\n  listen: ''\n  coalesce: 0\n"
             "log:\n  fsync: always\n  retention: -1\n  fsync_interval: 2m\n"
             "kv:\n");

    cr_assert_eq(cfg->node_threads, 3);
    cr_assert_str_eq(cfg->node_name, "node: one");
    cr_assert_eq(cfg->resp_listen.count, 2);
    cr_assert_str_eq(cfg->resp_listen.items[1], "unix:/tmp/x.sock");
    cr_assert_eq(cfg->resp_max_bulk_bytes, 3 << 19);
    cr_assert_eq(cfg->kafka_listen.count, 2);
    cr_assert_eq(cfg->kafka_auto_create_topics, 0);
    cr_assert_eq(cfg->amqp_listen.count, 0);
    cr_assert_eq(cfg->amqp_coalesce_us, 0);
    cr_assert_eq(cfg->log_fsync, CONFIG_FSYNC_ALWAYS);
    cr_assert_eq(cfg->log_retention_ms, -1);
    cr_assert_eq(cfg->log_fsync_interval_ms, 120000);
    config_free(cfg);
}

Test(config, the_command_line_wins_and_takes_commas)
{
    char *argv[] = {"--node.threads=5", "--resp.listen=127.0.0.1:1, [::1]:2", "--kv.ack=quorum"};
    const char *text = "node: {threads: 3}\n";
    struct config *cfg;
    struct buf b = {0};

    cr_assert_eq(config_load_text("t.yaml", text, strlen(text), 3, argv, &cfg, &b), 0);
    cr_assert_eq(cfg->node_threads, 5);
    cr_assert_eq(cfg->resp_listen.count, 2);
    cr_assert_str_eq(cfg->resp_listen.items[1], "[::1]:2");
    cr_assert_eq(cfg->kv_ack, CONFIG_ACK_QUORUM);
    cr_assert_eq(config_get_source(cfg, "node.threads", &b), 0);
    buf_put_u8(&b, 0);
    cr_assert_str_eq((char *)b.data, "command line");
    buf_fini(&b);
    config_free(cfg);
}

Test(config, mistakes_are_told_with_line_and_hint)
{
    refused("node:\n  treads: 3\n", "t.yaml:2: unknown option node.treads; did you mean node.threads?");
    refused("nod:\n  threads: 3\n", "t.yaml:1: unknown section nod; did you mean node?");
    refused("\n\nresp:\n  num_partitions: 3\n",
            "t.yaml:4: unknown option resp.num_partitions; did you mean kafka.num_partitions?");
    refused("node.threads: 3\n",
            "t.yaml:1: node.threads: in the file write the section, node:, and below it threads:");
    refused("node:\n  threads: many\n", "t.yaml:2: node.threads is a whole number, not \"many\"");
    refused("node:\n  threads: 257\n", "node.threads must be from 0 to 256");
    refused("node:\n  threads:\n", "node.threads has no value");
    refused("node:\n  threads: 1\n  threads: 2\n", "t.yaml:3: node.threads stands in line 2 already");
    refused("node:\n  threads: [1]\n", "node.threads must be a plain value");
    refused("node: 5\n", "section node must hold options");
    refused("- a\n", "the file must hold sections");
    refused("log:\n  fsync: sometimes\n", "log.fsync is one of: interval always never; not \"sometimes\"");
    refused("log:\n  fsync_interval: 5\n", "needs a unit: ms, s or m");
    refused("log:\n  fsync_interval: 5 weeks\n", "unknown unit \"weeks\"");
    refused("log:\n  fsync_interval: 1ms\n", "must be from 10ms to 1h");
    refused("resp:\n  max_bulk_bytes: 9999999999999999TiB\n", "is too large");
    refused("resp:\n  listen: 6379\n", "resp.listen is HOST:PORT, :PORT or unix:/path, not \"6379\"");
    refused("resp:\n  advertise: 0.0.0.0:1\n", "no such address");
    refused("resp:\n  advertise: ':1'\n", "no such address");
    refused("resp:\n  listen: [a:1\n", "t.yaml:");
    refused("a: &x b\nresp: *x\n", "unknown section a");
    refused("node:\n  name: &x y\n", "anchor");
    refused("node:\n  name: x\n---\nnode:\n", "a second document");
    refused("node:\n  name: \"a\\0b\"\n", "NUL");
    refused("node:\n  name: \"a\\nb\"\n", "control character");
    refused("\xff\xfe", "t.yaml:1");
    refused_argument("--node.thread=1",
                     "command line: unknown option --node.thread; did you mean --node.threads?");
    refused_argument("--node.threads", "not of the form --section.name=value");
    refused_argument("--node.threads=x", "command line: node.threads is a whole number");
}

Test(config, all_mistakes_are_told_at_once_up_to_a_limit)
{
    struct config *cfg;
    struct buf errors = {0}, text = {0};
    unsigned lines = 0;

    buf_put_str(&text, "resp:\n");
    for (int i = 0; i < 30; i++)
        buf_printf(&text, "  option%d: 1\n", i);
    cr_assert_eq(config_load_text("t", (char *)text.data, text.len, 0, NULL, &cfg, &errors), ERR_INVALID);
    for (size_t i = 0; i < errors.len; i++)
        lines += errors.data[i] == '\n';
    cr_assert_eq(lines, 21);
    buf_fini(&errors);
    buf_fini(&text);
}

Test(config, an_open_listener_needs_the_word_that_allows_it)
{
    static const char *const open[] = {"resp", "kafka", "amqp", "http", "cluster"};

    for (unsigned i = 0; i < 5; i++) {
        char text[200];

        snprintf(text, sizeof(text), "%s:\n  listen: 0.0.0.0:1234\n", open[i]);
        refused(text, "security.allow_unauthenticated: true");
        snprintf(text, sizeof(text), "%s:\n  listen: :1234\n", open[i]);
        refused(text, "t.yaml:2: ");
        snprintf(text, sizeof(text),
                 "%s:\n  listen: 0.0.0.0:1234\nsecurity:\n  allow_unauthenticated: true\n", open[i]);
        config_free(load(text));
    }
    config_free(
        load("resp:\n  listen: 127.9.9.9:1\nkafka:\n  listen: localhost:2\namqp:\n  listen: '[::1]:3'\n"));
}

Test(config, options_are_checked_against_each_other)
{
    refused("resp:\n  listen: 127.0.0.1:9092\n", "resp.listen and kafka.listen both want 127.0.0.1:9092");
    refused("cluster:\n  lease: 2s\n",
            "t.yaml:2: cluster.lease must be shorter than cluster.failure_timeout");
    refused("cluster:\n  min_insync: 4\n", "must not be above cluster.replication_factor (3)");
    config_free(load("resp:\n  listen: 127.0.0.1:0\nkafka:\n  listen: 127.0.0.1:0\n"));
}

Test(config, options_without_effect_are_allowed_and_noted)
{
    struct config *cfg = load("cluster:\n  lease: 1200ms\n  min_insync: 2\nnode:\n  threads: 2\n");
    struct buf notes = {0};

    config_notes(cfg, &notes);
    buf_put_u8(&notes, 0);
    cr_assert_str_eq((char *)notes.data, "t.yaml:2: cluster.lease has no effect on a node that runs alone\n");
    buf_fini(&notes);
    config_free(cfg);
}

Test(config, what_is_printed_reads_back_as_the_same)
{
    struct config *cfg =
        load("node:\n  name: \"it's: #1 [x]\"\nresp:\n  listen: ['unix:/tmp/a b', '[::1]:1']\n"
             "  advertise: example.org\ncluster:\n  secret: hush\n  rebalance_threshold: 0.25\n"
             "log:\n  fsync_interval: 1500ms\n");
    struct config *again;
    struct buf a = {0}, b = {0};

    config_print(cfg, false, &a);
    buf_put_u8(&a, 0);
    cr_assert_null(strstr((char *)a.data, "hush"));
    again = load((char *)a.data);
    cr_assert_str_eq(again->node_name, "it's: #1 [x]");
    cr_assert_str_eq(again->resp_listen.items[0], "unix:/tmp/a b");
    cr_assert_eq(again->cluster_rebalance_threshold, 0.25);
    cr_assert_eq(again->log_fsync_interval_ms, 1500);
    cr_assert_eq(config_get(cfg, "cluster.secret", &b), 0);
    buf_put_u8(&b, 0);
    cr_assert_str_eq((char *)b.data, "(hidden)");
    buf_fini(&a);
    buf_fini(&b);
    config_free(cfg);
    config_free(again);
}

Test(config, reloadable_options_change_while_running_and_others_do_not)
{
    struct config *cfg = load(""), *next;
    struct buf b = {0};

    cr_assert_eq(config_set(cfg, "kafka.num_partitions", "12", &b), 0);
    cr_assert_eq(CONFIG_GET(cfg, kafka_num_partitions), 12);
    cr_assert_eq(config_set(cfg, "kafka.num_partitions", "0", &b), ERR_INVALID);
    cr_assert_eq(CONFIG_GET(cfg, kafka_num_partitions), 12);
    cr_assert_eq(config_set(cfg, "node.threads", "2", &b), ERR_READ_ONLY);
    cr_assert_eq(config_set(cfg, "node.thread", "2", &b), ERR_NOT_FOUND);
    buf_clear(&b);
    cr_assert_eq(config_get_source(cfg, "kafka.num_partitions", &b), 0);
    cr_assert(slice_eq(buf_slice(&b), SLICE_LIT("runtime")));
    buf_clear(&b);
    next = load("kafka:\n  num_partitions: 7\nnode:\n  threads: 9\n");
    config_reload(cfg, next, &b);
    buf_put_u8(&b, 0);
    cr_assert_not_null(strstr((char *)b.data, "kafka.num_partitions: 12 -> 7\n"));
    cr_assert_not_null(strstr((char *)b.data, "node.threads: 0 -> 9 (at the next start)\n"));
    cr_assert_eq(CONFIG_GET(cfg, kafka_num_partitions), 7);
    cr_assert_eq(cfg->node_threads, 0);
    buf_fini(&b);
    config_free(cfg);
    config_free(next);
}

Test(config, reloadable_options_are_numbers)
{
    for (unsigned i = 0; i < config_option_count(); i++) {
        struct config_option o;

        config_option_at(i, &o);
        if (o.reloadable)
            cr_assert(strcmp(o.type, "string") != 0 && strcmp(o.type, "secret") != 0 &&
                          strcmp(o.type, "list") != 0 && strcmp(o.type, "addresses") != 0 &&
                          strcmp(o.type, "address") != 0 && strcmp(o.type, "number") != 0,
                      "%s.%s", o.section, o.name);
    }
}

Test(config, a_file_that_cannot_be_read_says_why)
{
    struct config *cfg;
    struct buf errors = {0};

    cr_assert_eq(config_load("/nonexistent/gomsg.yaml", 0, NULL, &cfg, &errors), ERR_NOT_FOUND);
    buf_put_u8(&errors, 0);
    cr_assert_str_eq((char *)errors.data, "/nonexistent/gomsg.yaml: no such file\n");
    buf_fini(&errors);
}

/* conf/gomsg.yaml shows every option with its default, and nothing else. */
Test(config, the_shipped_file_documents_every_option_with_its_default)
{
    const char *srcdir = getenv("srcdir");
    char *path = mem_printf("%s/conf/gomsg.yaml", srcdir == NULL ? ".." : srcdir);
    struct config *cfg = NULL, *fresh = load("");
    struct buf errors = {0}, text = {0};
    int err = config_load(path, 0, NULL, &cfg, &errors);

    buf_put_u8(&errors, 0);
    cr_assert_eq(err, 0, "%s", (char *)errors.data);
    cr_assert_eq(file_read(path, 1 << 20, &text), 0);
    buf_put_u8(&text, 0);
    for (unsigned i = 0; i < config_option_count(); i++) {
        struct buf a = {0}, b = {0}, source = {0};
        struct config_option o;
        char *full;

        config_option_at(i, &o);
        full = mem_printf("%s.%s", o.section, o.name);
        cr_assert_eq(config_get(cfg, full, &a), 0);
        cr_assert_eq(config_get(fresh, full, &b), 0);
        cr_assert(slice_eq(buf_slice(&a), buf_slice(&b)), "%s is %.*s, the default %.*s", full, (int)a.len,
                  (char *)a.data, (int)b.len, (char *)b.data);
        cr_assert_eq(config_get_source(cfg, full, &source), 0);
        cr_assert(!slice_eq(buf_slice(&source), SLICE_LIT("default")), "%s is not in %s", full, path);
        cr_assert_not_null(strstr((char *)text.data, o.help), "the help of %s is not in %s", full, path);
        buf_fini(&a);
        buf_fini(&b);
        buf_fini(&source);
        mem_free(full);
    }
    config_free(cfg);
    config_free(fresh);
    buf_fini(&errors);
    buf_fini(&text);
    mem_free(path);
}

static char *read_flat(const char *name)
{
    const char *srcdir = getenv("srcdir");
    char *path = mem_printf("%s/%s", srcdir == NULL ? ".." : srcdir, name);
    struct buf text = {0};

    cr_assert_eq(file_read(path, 1 << 20, &text), 0, "%s", path);
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] == '\n')
            text.data[i] = ' ';
    }
    buf_put_u8(&text, 0);
    mem_free(path);
    return (char *)text.data;
}

/* gomsg.yaml(5) has an item for each option, with its help, its default and whether it is reloadable; and no
 * other. */
Test(config, the_manual_describes_every_option_as_the_table_does)
{
    char *page = read_flat("man/gomsg.yaml.5");
    unsigned items = 0;

    for (unsigned i = 0; i < config_option_count(); i++) {
        struct config_option o;
        char *head, *def, *at, *end;

        config_option_at(i, &o);
        head = mem_printf(".It Cm %s.%s %s. Type: ", o.section, o.name, o.help);
        def = o.def[0] == '\0' ? mem_strdup("default: empty") : mem_printf("default: .Li %s ", o.def);
        at = strstr(page, head);
        cr_assert_not_null(at, "not in the manual: %s", head);
        end = strstr(at, ".El");
        if (strstr(at + 1, ".It ") != NULL && strstr(at + 1, ".It ") < end)
            end = strstr(at + 1, ".It ");
        *end = '\0';
        cr_assert_not_null(strstr(at, def), "%s: %s", at, def);
        cr_assert_eq(strstr(at, "reloadable.") != NULL, o.reloadable, "%s", at);
        cr_assert_eq(strstr(at, "in a cluster.") != NULL, o.cluster_only, "%s", at);
        *end = '.';
        mem_free(head);
        mem_free(def);
    }
    for (const char *p = page; (p = strstr(p, ".It Cm ")) != NULL; p++)
        items++;
    cr_assert_eq(items, config_option_count());
    mem_free(page);
}
