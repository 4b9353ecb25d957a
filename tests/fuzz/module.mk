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
