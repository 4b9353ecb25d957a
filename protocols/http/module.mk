noinst_LIBRARIES += libhttp.a
libhttp_a_SOURCES = %D%/http.c %D%/http.h
libhttp_a_CFLAGS = $(AM_CFLAGS) $(MICROHTTPD_CFLAGS)
