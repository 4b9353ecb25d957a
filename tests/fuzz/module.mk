# Fuzz targets: fuzz_<name>.c with LLVMFuzzerTestOneInput, inputs in corpus/<name>/. With --enable-fuzz they are libFuzzer
# programs (make fuzz-config && ./fuzz-config ../tests/fuzz/corpus/config); without it they replay the corpus, in make check.
#
# A new target: the six lines of fuzz-config with its name and libraries, and its corpus files in EXTRA_DIST.
if FUZZ
FUZZ_LINK = -fsanitize=fuzzer
FUZZ_MAIN =
else
FUZZ_LINK =
FUZZ_MAIN = %D%/replay_main.c
endif
EXTRA_DIST += %D%/replay_main.c

check_PROGRAMS += fuzz-config
if !FUZZ
TESTS += fuzz-config
endif
fuzz_config_SOURCES = %D%/fuzz_config.c $(FUZZ_MAIN)
fuzz_config_CPPFLAGS = $(AM_CPPFLAGS) -DFUZZ_NAME=\"config\"
fuzz_config_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LINK)
fuzz_config_LDADD = libconfig.a libbase.a $(YAML_LIBS) $(JEMALLOC_LIBS)
EXTRA_DIST += \
	%D%/corpus/config/full.yaml %D%/corpus/config/bad-option.yaml %D%/corpus/config/list.yaml \
	%D%/corpus/config/nested.yaml %D%/corpus/config/anchors.yaml

check_PROGRAMS += fuzz-resp_request
if !FUZZ
TESTS += fuzz-resp_request
endif
fuzz_resp_request_SOURCES = %D%/fuzz_resp_request.c $(FUZZ_MAIN)
fuzz_resp_request_CPPFLAGS = $(AM_CPPFLAGS) -DFUZZ_NAME=\"resp_request\"
fuzz_resp_request_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LINK)
fuzz_resp_request_LDADD = libresp.a libbase.a $(HIREDIS_LIBS) $(JEMALLOC_LIBS)
EXTRA_DIST += \
	%D%/corpus/resp_request/pipeline %D%/corpus/resp_request/inline %D%/corpus/resp_request/negative \
	%D%/corpus/resp_request/hostile %D%/corpus/resp_request/large

check_PROGRAMS += fuzz-amqp_frame
if !FUZZ
TESTS += fuzz-amqp_frame
endif
fuzz_amqp_frame_SOURCES = %D%/fuzz_amqp_frame.c $(FUZZ_MAIN)
fuzz_amqp_frame_CPPFLAGS = $(AM_CPPFLAGS) -DFUZZ_NAME=\"amqp_frame\"
fuzz_amqp_frame_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LINK)
fuzz_amqp_frame_LDADD = libamqp.a libtopology.a libbase.a $(CRYPTO_LIBS) $(JEMALLOC_LIBS)
EXTRA_DIST += \
	%D%/corpus/amqp_frame/methods %D%/corpus/amqp_frame/content %D%/corpus/amqp_frame/tables %D%/corpus/amqp_frame/hostile

check_PROGRAMS += fuzz-snapshot
if !FUZZ
TESTS += fuzz-snapshot
endif
fuzz_snapshot_SOURCES = %D%/fuzz_snapshot.c $(FUZZ_MAIN)
fuzz_snapshot_CPPFLAGS = $(AM_CPPFLAGS) -DFUZZ_NAME=\"snapshot\"
fuzz_snapshot_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LINK)
fuzz_snapshot_LDADD = libkv.a liblog.a libbase.a $(LOG_LIBS) $(JEMALLOC_LIBS)
EXTRA_DIST += \
	%D%/corpus/snapshot/all-types %D%/corpus/snapshot/table %D%/corpus/snapshot/unknown-kind \
	%D%/corpus/snapshot/removals %D%/corpus/snapshot/whole-file

check_PROGRAMS += fuzz-batch
if !FUZZ
TESTS += fuzz-batch
endif
fuzz_batch_SOURCES = %D%/fuzz_batch.c $(FUZZ_MAIN)
fuzz_batch_CPPFLAGS = $(AM_CPPFLAGS) -DFUZZ_NAME=\"batch\" -I$(srcdir)/tests/unit/log
fuzz_batch_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LINK)
fuzz_batch_LDADD = liblog.a libbase.a $(LOG_LIBS) $(JEMALLOC_LIBS)
EXTRA_DIST += %D%/corpus/batch/gzip %D%/corpus/batch/gzip-raw %D%/corpus/batch/headers %D%/corpus/batch/lz4-raw %D%/corpus/batch/plain %D%/corpus/batch/snappy-raw %D%/corpus/batch/snappy-xerial %D%/corpus/batch/zstd-raw

check_PROGRAMS += fuzz-log
if !FUZZ
TESTS += fuzz-log
endif
fuzz_log_SOURCES = %D%/fuzz_log.c tests/unit/log/fake_workers.c $(FUZZ_MAIN)
fuzz_log_CPPFLAGS = $(AM_CPPFLAGS) -DFUZZ_NAME=\"log\" -I$(srcdir)/tests/unit/log
fuzz_log_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LINK)
fuzz_log_LDADD = liblog.a libbase.a $(LOG_LIBS) $(JEMALLOC_LIBS)
EXTRA_DIST += %D%/corpus/log/empty %D%/corpus/log/epoch-back %D%/corpus/log/gap %D%/corpus/log/three %D%/corpus/log/torn %D%/corpus/log/zeros

check_PROGRAMS += fuzz-ledger
if !FUZZ
TESTS += fuzz-ledger
endif
fuzz_ledger_SOURCES = %D%/fuzz_ledger.c tests/unit/log/fake_workers.c $(FUZZ_MAIN)
fuzz_ledger_CPPFLAGS = $(AM_CPPFLAGS) -DFUZZ_NAME=\"ledger\" -I$(srcdir)/tests/unit/log
fuzz_ledger_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LINK)
fuzz_ledger_LDADD = liblog.a libbase.a $(LOG_LIBS) $(JEMALLOC_LIBS)
EXTRA_DIST += %D%/corpus/ledger/delete %D%/corpus/ledger/log %D%/corpus/ledger/marks %D%/corpus/ledger/segments

check_PROGRAMS += fuzz-kafka_request
if !FUZZ
TESTS += fuzz-kafka_request
endif
fuzz_kafka_request_SOURCES = %D%/fuzz_kafka_request.c $(FUZZ_MAIN)
fuzz_kafka_request_CPPFLAGS = $(AM_CPPFLAGS) -DFUZZ_NAME=\"kafka_request\"
fuzz_kafka_request_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LINK)
fuzz_kafka_request_LDADD = libkafka.a libpartition.a libstream.a libqueue.a libkv.a libtopology.a libraft.a libbus.a liblog.a libio.a \
	libmetrics.a libconfig.a libbase.a $(LOG_LIBS) $(EV_LIBS) $(YAML_LIBS) $(CRYPTO_LIBS) $(JEMALLOC_LIBS) -lpthread -lm
EXTRA_DIST += \
	%D%/corpus/kafka_request/alter-1 %D%/corpus/kafka_request/api-versions %D%/corpus/kafka_request/commit-7 \
	%D%/corpus/kafka_request/create-topics-5 %D%/corpus/kafka_request/fetch-11 %D%/corpus/kafka_request/fetch-13 \
	%D%/corpus/kafka_request/fetch-4 %D%/corpus/kafka_request/hostile-count %D%/corpus/kafka_request/join-5 \
	%D%/corpus/kafka_request/list-offsets-4 %D%/corpus/kafka_request/metadata-12 %D%/corpus/kafka_request/metadata-null \
	%D%/corpus/kafka_request/offset-fetch-8 %D%/corpus/kafka_request/produce-7 %D%/corpus/kafka_request/produce-9 \
	%D%/corpus/kafka_request/sync-3

check_PROGRAMS += fuzz-queue
if !FUZZ
TESTS += fuzz-queue
endif
fuzz_queue_SOURCES = %D%/fuzz_queue.c $(FUZZ_MAIN)
fuzz_queue_CPPFLAGS = $(AM_CPPFLAGS) -DFUZZ_NAME=\"queue\"
fuzz_queue_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LINK)
fuzz_queue_LDADD = libqueue.a liblog.a libio.a libbase.a $(LOG_LIBS) $(EV_LIBS) $(JEMALLOC_LIBS) -lpthread
EXTRA_DIST += \
	%D%/corpus/queue/message %D%/corpus/queue/message-cut %D%/corpus/queue/checkpoint-empty \
	%D%/corpus/queue/checkpoint-ranges %D%/corpus/queue/checkpoint-bits %D%/corpus/queue/checkpoint-far

check_PROGRAMS += fuzz-bus_frame
if !FUZZ
TESTS += fuzz-bus_frame
endif
fuzz_bus_frame_SOURCES = %D%/fuzz_bus_frame.c $(FUZZ_MAIN)
fuzz_bus_frame_CPPFLAGS = $(AM_CPPFLAGS) -DFUZZ_NAME=\"bus_frame\"
fuzz_bus_frame_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LINK)
fuzz_bus_frame_LDADD = libbus.a libbase.a $(CRYPTO_LIBS) $(LZ4_LIBS) $(JEMALLOC_LIBS)
EXTRA_DIST += \
	%D%/corpus/bus_frame/cut %D%/corpus/bus_frame/frames %D%/corpus/bus_frame/giant %D%/corpus/bus_frame/hello \
	%D%/corpus/bus_frame/hello-bare %D%/corpus/bus_frame/hello-later %D%/corpus/bus_frame/hostile %D%/corpus/bus_frame/sum

check_PROGRAMS += fuzz-raft_message
if !FUZZ
TESTS += fuzz-raft_message
endif
fuzz_raft_message_SOURCES = %D%/fuzz_raft_message.c $(FUZZ_MAIN)
fuzz_raft_message_CPPFLAGS = $(AM_CPPFLAGS) -DFUZZ_NAME=\"raft_message\"
fuzz_raft_message_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LINK)
fuzz_raft_message_LDADD = libraft.a libbase.a $(JEMALLOC_LIBS)
EXTRA_DIST += \
	%D%/corpus/raft_message/follower %D%/corpus/raft_message/hostile %D%/corpus/raft_message/leader %D%/corpus/raft_message/snapshot

check_PROGRAMS += fuzz-raft_log
if !FUZZ
TESTS += fuzz-raft_log
endif
fuzz_raft_log_SOURCES = %D%/fuzz_raft_log.c $(FUZZ_MAIN)
fuzz_raft_log_CPPFLAGS = $(AM_CPPFLAGS) -DFUZZ_NAME=\"raft_log\"
fuzz_raft_log_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LINK)
fuzz_raft_log_LDADD = libraft.a libbase.a $(JEMALLOC_LIBS)
EXTRA_DIST += \
	%D%/corpus/raft_log/log %D%/corpus/raft_log/log-01 %D%/corpus/raft_log/snapshot %D%/corpus/raft_log/vote

check_PROGRAMS += fuzz-amqp_forward
if !FUZZ
TESTS += fuzz-amqp_forward
endif
fuzz_amqp_forward_SOURCES = %D%/fuzz_amqp_forward.c $(FUZZ_MAIN)
fuzz_amqp_forward_CPPFLAGS = $(AM_CPPFLAGS) -DFUZZ_NAME=\"amqp_forward\"
fuzz_amqp_forward_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_LINK)
fuzz_amqp_forward_LDADD = libamqp.a libbase.a $(JEMALLOC_LIBS)
EXTRA_DIST += \
	%D%/corpus/amqp_forward/deliveries %D%/corpus/amqp_forward/delivery-hole %D%/corpus/amqp_forward/head %D%/corpus/amqp_forward/head-count \
	%D%/corpus/amqp_forward/head-flags %D%/corpus/amqp_forward/message-cut %D%/corpus/amqp_forward/message-flags %D%/corpus/amqp_forward/messages
