noinst_LIBRARIES += libstream.a
libstream_a_SOURCES = \
	%D%/append.c %D%/group.c %D%/group.h %D%/group_join.c %D%/group_priv.h %D%/group_store.c %D%/group_store.h \
	%D%/offsets.c %D%/producers.c %D%/producers.h %D%/stream.h %D%/stream_priv.h %D%/table.c
