noinst_LIBRARIES += libbus.a
libbus_a_SOURCES = \
	%D%/bus.c %D%/bus.h %D%/calls.c %D%/flow.c %D%/link.c %D%/messages.def %D%/peer.c %D%/private.h %D%/show.c %D%/wire.c %D%/wire.h
