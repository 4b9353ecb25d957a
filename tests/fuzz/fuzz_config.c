/* The configuration reader: no input may crash it; what it accepts must print and read back as the same. */
#include <stdint.h>
#include <stdlib.h>

#include "base/check.h"
#include "config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config *cfg, *again;
    struct buf errors = {0}, printed = {0}, twice = {0};

    if (config_load_text("fuzz", (const char *)data, size, 0, NULL, &cfg, &errors) < 0) {
        CHECK(errors.len > 0);
        buf_fini(&errors);
        return 0;
    }
    config_print(cfg, false, &printed);
    CHECK(config_load_text("again", (const char *)printed.data, printed.len, 0, NULL, &again, &errors) == 0);
    config_print(again, false, &twice);
    /* A secret is not printed, so the second print may lack its line. */
    if (cfg->cluster_secret[0] == '\0')
        CHECK(slice_eq(buf_slice(&printed), buf_slice(&twice)));
    config_free(cfg);
    config_free(again);
    buf_fini(&errors);
    buf_fini(&printed);
    buf_fini(&twice);
    return 0;
}
