# Integration tests: real processes, real signals. `tests/integration/run` runs them all; `make check` through the same program.
INTEGRATION = startup_test.py crash_test.py amqp_crash_test.py damage_test.py hostile_test.py many_test.py ctl_test.py
TESTS += $(INTEGRATION:%=%D%/%)
TEST_EXTENSIONS = .py
PY_LOG_COMPILER = $(PYTHON3)
PYTHON3 = python3
AM_TESTS_ENVIRONMENT = build='$(abs_top_builddir)'; export build; PYTHONDONTWRITEBYTECODE=1; export PYTHONDONTWRITEBYTECODE;
EXTRA_DIST += %D%/node.py %D%/wire.py %D%/run $(INTEGRATION:%=%D%/%)
