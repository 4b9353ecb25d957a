# Unit tests: one Criterion binary a layer, linked with that layer and those below it only.
if HAVE_CRITERION
include tests/unit/base/module.mk
include tests/unit/config/module.mk
include tests/unit/metrics/module.mk
include tests/unit/io/module.mk
include tests/unit/log/module.mk
include tests/unit/kv/module.mk
include tests/unit/stream/module.mk
include tests/unit/queue/module.mk
include tests/unit/partition/module.mk
include tests/unit/bus/module.mk
include tests/unit/raft/module.mk
include tests/unit/topology/module.mk
include tests/unit/member/module.mk
include tests/unit/replicate/module.mk
include tests/unit/resp/module.mk
include tests/unit/kafka/module.mk
include tests/unit/amqp/module.mk
include tests/unit/http/module.mk
include tests/unit/server/module.mk
include tests/unit/ctl/module.mk
else
check-local:
	@echo "the unit tests need Criterion (Debian package: libcriterion-dev): install it and configure again" >&2; exit 1
endif
include tests/integration/module.mk
include tests/fault/module.mk
include tests/sim/module.mk
include tests/fuzz/module.mk
include tests/bench/module.mk
EXTRA_DIST += %D%/summary
