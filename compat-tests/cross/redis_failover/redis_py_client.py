"""redis-py's cluster client (see run)."""
import steady
from redis.cluster import ClusterNode, RedisCluster

r = RedisCluster(startup_nodes=[ClusterNode(*a) for a in steady.addresses])


def key(n):
    return "{%s}:%s:%d" % (steady.lanes[n % len(steady.lanes)], steady.name, n)


steady.run(lambda n: r.set(key(n), n), lambda count: (n for n in range(count) if r.get(key(n)) == b"%d" % n))
