/* Replays a corpus through a fuzz target, for builds without libFuzzer: every file of the directory named by
 * CORPUS, or the files and directories given as arguments. Each input also runs cut short at every power of
 * two and with single bytes flipped, a small deterministic mutation that needs no fuzzer. Exits 0 when
 * nothing crashed; a corpus that is missing or empty is a failure, not a pass. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned long runs;

/* An exact copy on the heap, so that a sanitizer sees each byte read beyond. */
static void run(const uint8_t *data, size_t n)
{
    uint8_t *copy = malloc(n == 0 ? 1 : n);

    if (copy == NULL)
        abort();
    if (n != 0)
        memcpy(copy, data, n);
    LLVMFuzzerTestOneInput(copy, n);
    free(copy);
    runs++;
}

static void run_mutations(uint8_t *data, size_t n)
{
    uint32_t x = 2463534242u;

    run(data, n);
    for (size_t cut = 1; cut < n; cut *= 2)
        run(data, cut);
    for (unsigned i = 0; i < 64 && n > 0; i++) {
        size_t at;
        uint8_t old;

        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        at = x % n;
        old = data[at];
        data[at] = (uint8_t)(x >> 11);
        run(data, n);
        data[at] = old;
    }
}

static int replay(const char *path)
{
    struct stat st;

    if (stat(path, &st) < 0) {
        perror(path);
        return -1;
    }
    if (S_ISDIR(st.st_mode)) {
        DIR *dir = opendir(path);
        struct dirent *e;
        int err = 0;

        if (dir == NULL) {
            perror(path);
            return -1;
        }
        while (err == 0 && (e = readdir(dir)) != NULL) {
            char name[4096];

            if (e->d_name[0] == '.')
                continue;
            snprintf(name, sizeof(name), "%s/%s", path, e->d_name);
            err = replay(name);
        }
        closedir(dir);
        return err;
    }
    {
        FILE *f = fopen(path, "rb");
        size_t n = (size_t)st.st_size;
        uint8_t *data = malloc(n + 1);

        if (f == NULL || data == NULL || fread(data, 1, n, f) != n) {
            perror(path);
            return -1;
        }
        fclose(f);
        run_mutations(data, n);
        free(data);
    }
    return 0;
}

int main(int argc, char **argv)
{
    const char *srcdir = getenv("srcdir");
    char corpus[4096];

    if (argc > 1) {
        for (int i = 1; i < argc; i++) {
            if (replay(argv[i]) < 0)
                return 1;
        }
    } else {
        snprintf(corpus, sizeof(corpus), "%s/tests/fuzz/corpus/%s", srcdir == NULL ? "." : srcdir, FUZZ_NAME);
        if (replay(corpus) < 0)
            return 1;
    }
    printf("%s: %lu inputs\n", FUZZ_NAME, runs);
    return runs == 0;
}
