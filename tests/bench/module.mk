# Benchmarks beside the real servers, which tests/bench/peers prepares.
EXTRA_DIST += %D%/peers %D%/kafka-jars.txt
