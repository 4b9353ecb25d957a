noinst_LIBRARIES += libkv.a
libkv_a_SOURCES = \
	%D%/apply.c %D%/blocked.c %D%/compact.c %D%/compact.h %D%/entry.c %D%/entry.h %D%/expire.c \
	%D%/hash.c %D%/kv.c %D%/kv.h %D%/list.c %D%/members.c %D%/pin.c %D%/set.c %D%/snapshot.c %D%/snapshot.h %D%/snapshot_load.c \
	%D%/state.h %D%/statehash.c %D%/string.c %D%/table.c %D%/table.h %D%/watch.c
