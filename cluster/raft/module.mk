noinst_LIBRARIES += libraft.a
RAFT_CORE = %D%/change.c %D%/configs.c %D%/core.c %D%/election.c %D%/entries.c %D%/follow.c %D%/private.h %D%/raft.h \
	%D%/raft_wire.c %D%/read.c %D%/replicate.c %D%/snapshot.c
libraft_a_SOURCES = $(RAFT_CORE) %D%/raft_log.c %D%/raft_log.h %D%/raft_log_load.c %D%/raft_log_private.h \
	%D%/raft_store.c %D%/raft_store.h %D%/raft_vote.c
