# Integration tests: real processes, real signals. `tests/integration/run` runs them by hand; `make check` as tests of its own.
TEST_EXTENSIONS = .py
PY_LOG_COMPILER = python3
AM_TESTS_ENVIRONMENT = build='$(abs_top_builddir)'; export build; PYTHONDONTWRITEBYTECODE=1; export PYTHONDONTWRITEBYTECODE; \
	LSAN_OPTIONS='suppressions=$(abs_top_srcdir)/tests/lsan.supp:print_suppressions=0'; export LSAN_OPTIONS;
integration_tests = \
	%D%/startup_test.py \
	%D%/reload_test.py \
	%D%/cluster_form_test.py \
	%D%/cluster_member_test.py \
	%D%/cluster_resp_test.py \
	%D%/cluster_replicate_test.py \
	%D%/cluster_damage_test.py \
	%D%/cluster_kafka_test.py \
	%D%/cluster_amqp_test.py \
	%D%/cluster_backlog_test.py \
	%D%/dev_test.py \
	%D%/crash_test.py \
	%D%/amqp_crash_test.py \
	%D%/damage_test.py \
	%D%/hostile_test.py \
	%D%/many_test.py \
	%D%/ctl_test.py \
	%D%/kafka_producer_test.py \
	%D%/resp_test.py
TESTS += $(integration_tests)
EXTRA_DIST += $(integration_tests) tests/lsan.supp %D%/node.py %D%/run %D%/wire.py
