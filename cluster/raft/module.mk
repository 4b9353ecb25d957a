noinst_LIBRARIES += libraft.a
libraft_a_SOURCES = %D%/raft_log.c %D%/raft_log.h %D%/raft.h %D%/raft_store.h
