# Benchmarks beside the real servers, which tests/bench/peers prepares: make bench [BENCH_FLAGS="--rounds 3 --only resp"].
check_PROGRAMS += bench-amqp-load bench-kafka-load bench-resp-load
bench_amqp_load_SOURCES = %D%/amqp_load.c %D%/load.h
bench_amqp_load_LDADD = libbase.a $(JEMALLOC_LIBS)
bench_kafka_load_SOURCES = %D%/kafka_load.c %D%/load.h
bench_kafka_load_LDADD = libbase.a $(JEMALLOC_LIBS)
bench_resp_load_SOURCES = %D%/resp_load.c %D%/load.h
bench_resp_load_LDADD = libbase.a $(JEMALLOC_LIBS)

# One layer alone: bench-queue [messages].
check_PROGRAMS += bench-queue
bench_queue_SOURCES = %D%/queue_engine.c
bench_queue_LDADD = libqueue.a liblog.a libio.a libbase.a $(LOG_LIBS) $(EV_LIBS) $(JEMALLOC_LIBS) -lpthread

EXTRA_DIST += %D%/run %D%/peers %D%/kafka-jars.txt %D%/queue_failover.py

.PHONY: bench
bench: gomsgd bench-amqp-load bench-kafka-load bench-resp-load
	$(srcdir)/%D%/run --build $(abs_builddir) $(BENCH_FLAGS)

# The keyspace by itself: bench-kv-engine [elements].
check_PROGRAMS += bench-kv-engine
bench_kv_engine_SOURCES = %D%/kv_engine.c
bench_kv_engine_LDADD = libkv.a liblog.a libbase.a $(LOG_LIBS) $(JEMALLOC_LIBS)

# The log by itself: bench-log [directory].
check_PROGRAMS += bench-log
bench_log_SOURCES = %D%/log_bench.c tests/unit/log/fake_workers.c tests/unit/log/fake_workers.h
bench_log_CPPFLAGS = $(AM_CPPFLAGS) -I$(srcdir)/tests/unit/log
bench_log_LDADD = liblog.a libbase.a $(LOG_LIBS) $(JEMALLOC_LIBS)

# A partition by itself: bench-partition-engine [keys] [set].
check_PROGRAMS += bench-partition-engine
bench_partition_engine_SOURCES = %D%/partition_engine.c tests/unit/partition/rig.c tests/unit/partition/rig.h
bench_partition_engine_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests/unit/partition
bench_partition_engine_LDADD = libpartition.a libqueue.a libkv.a liblog.a libio.a libbase.a $(LOG_LIBS) $(EV_LIBS) $(JEMALLOC_LIBS)

# The routing look-up by itself: bench-routing [partitions].
check_PROGRAMS += bench-routing
bench_routing_SOURCES = %D%/routing.c
bench_routing_LDADD = libpartition.a libtopology.a libraft.a libbus.a libpartition.a libstream.a libqueue.a libkv.a liblog.a libio.a libmetrics.a libconfig.a libbase.a \
	$(LOG_LIBS) $(EV_LIBS) $(YAML_LIBS) $(HIREDIS_LIBS) $(JEMALLOC_LIBS) $(CRYPTO_LIBS) -lpthread -lm
