noinst_LIBRARIES += libtopology.a
libtopology_a_SOURCES = \
	%D%/codec.c %D%/commands.c %D%/commands.def %D%/commands.h %D%/identity.c %D%/identity.h %D%/keys.c %D%/match.c \
	%D%/object.c %D%/object.h %D%/partition.c %D%/partition.h %D%/pmap.c %D%/pmap.h %D%/state.c %D%/state.h %D%/state_node.c %D%/state_partition.c %D%/state_private.h %D%/store.c %D%/topology.h %D%/view.c
