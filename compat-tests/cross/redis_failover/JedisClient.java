// Jedis' cluster client (see run).
import java.util.Arrays;
import java.util.function.LongConsumer;
import java.util.stream.Collectors;
import redis.clients.jedis.HostAndPort;
import redis.clients.jedis.JedisCluster;

public class JedisClient extends Steady {
    private final JedisCluster r;

    JedisClient(String[] args) {
        super(args);
        r = new JedisCluster(Arrays.stream(addresses).map(HostAndPort::from).collect(Collectors.toSet()));
    }

    private String key(long n) {
        return "{" + lanes[(int)(n % lanes.length)] + "}:" + name + ":" + n;
    }

    @Override
    void write(long n) {
        r.set(key(n), String.valueOf(n));
    }

    @Override
    void read(long count, LongConsumer found) {
        for (long n = 0; n < count; n++)
            if (String.valueOf(n).equals(r.get(key(n))))
                found.accept(n);
    }

    public static void main(String[] args) throws Exception {
        new JedisClient(args).run();
    }
}
