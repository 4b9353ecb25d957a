#ifndef GM_TESTS_LOG_FAKE_WORKERS_H
#define GM_TESTS_LOG_FAKE_WORKERS_H

#include "io/worker.h"

struct workers *fake_workers(void);
struct worker *fake_worker(void);
/* Delivers the mail that was posted so far; returns how many. */
unsigned fake_deliver(void);

#endif
