# Fault tests: what judges them, the rig and the load by themselves, and a short round of faults on real clusters; tests/fault/run has them all.
fault_tests = %D%/checkers_test.py %D%/rig_test.py %D%/load_test.py %D%/join_test.py %D%/fault_test.py
TESTS += $(fault_tests)
EXTRA_DIST += $(fault_tests) %D%/checkers.py %D%/clock_shim.c %D%/faults.py %D%/history.py %D%/load.py %D%/load_amqp.py %D%/load_kafka.py \
	%D%/load_resp.py %D%/logs.py %D%/netns.py %D%/rig.py %D%/rounds.py %D%/run %D%/failover_bench.py %D%/failover_client.py %D%/requirements.txt
