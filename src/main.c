/* gomsgd: parse the command line, build the server, run it until a signal ends it. See gomsgd(8).
 *
 * Exit codes: 0 an orderly end, 1 the server could not start or failed, 2 wrong usage or configuration. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/diag.h"
#include "base/mem.h"
#include "config/config.h"
#include "server/server.h"

enum { EXIT_GOOD = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

static void usage(FILE *out)
{
    fprintf(out, "usage: gomsgd [--config FILE] [--section.name=value ...]\n"
                 "       gomsgd --check-config | --print-config | --version | --help  [with the above]\n\n"
                 "One server for Redis, Kafka and RabbitMQ clients. Without a file it runs alone on loopback "
                 "with its\n"
                 "data in ./data. gomsg.yaml(5) lists the options; --print-config shows those in force.\n");
}

int main(int argc, char **argv)
{
    enum { RUN, CHECK_CONFIG, PRINT_CONFIG } what = RUN;
    const char *file = NULL;
    char **rest = mem_calloc((size_t)argc, sizeof(rest[0]));
    struct config *config = NULL;
    struct buf errors = {0};
    int n = 0, code, err;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--config") == 0 || strcmp(argv[i], "-c") == 0) {
            if (i + 1 == argc) {
                fprintf(stderr, "gomsgd: %s wants a file\n", argv[i]);
                return EXIT_USAGE;
            }
            file = argv[++i];
        } else if (strncmp(argv[i], "--config=", 9) == 0) {
            file = argv[i] + 9;
        } else if (strcmp(argv[i], "--check-config") == 0) {
            what = CHECK_CONFIG;
        } else if (strcmp(argv[i], "--print-config") == 0) {
            what = PRINT_CONFIG;
        } else if (strcmp(argv[i], "--version") == 0 || strcmp(argv[i], "-V") == 0) {
            printf("gomsgd %s\n", PACKAGE_VERSION);
            return EXIT_GOOD;
        } else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            usage(stdout);
            return EXIT_GOOD;
        } else {
            rest[n++] = argv[i];
        }
    }
    err = config_load(file, n, rest, &config, &errors);
    if (err < 0) {
        fprintf(stderr, "%.*s", (int)errors.len, (const char *)errors.data);
        code = EXIT_USAGE;
    } else if (what == CHECK_CONFIG) {
        config_notes(config, &errors);
        printf("%.*s", (int)errors.len, (const char *)errors.data);
        printf("%s: the configuration is valid\n", file == NULL ? "gomsgd" : file);
        code = EXIT_GOOD;
    } else if (what == PRINT_CONFIG) {
        struct buf text = {0};

        config_print(config, false, &text);
        fwrite(text.data, 1, text.len, stdout);
        buf_fini(&text);
        code = EXIT_GOOD;
    } else {
        config_notes(config, &errors);
        buf_put_u8(&errors, '\0');
        errors.len--;
        for (size_t at = 0; at < errors.len; at += strcspn((const char *)errors.data + at, "\n") + 1)
            diag_warn("configuration", "note=\"%.*s\"", (int)strcspn((const char *)errors.data + at, "\n"),
                      (const char *)errors.data + at);
        code = server_run(config, file, n, rest) == 0 ? EXIT_GOOD : EXIT_FAILED;
    }
    config_free(config);
    buf_fini(&errors);
    mem_free(rest);
    return code;
}
