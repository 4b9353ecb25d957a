// Jedis' cluster client (see run).
import java.util.Arrays;
import java.util.stream.Collectors;
import redis.clients.jedis.HostAndPort;
import redis.clients.jedis.JedisCluster;

public class JedisClient extends Keys {
    private final JedisCluster r;

    JedisClient(String[] args) {
        super(args);
        r = new JedisCluster(Arrays.stream(addresses).map(HostAndPort::from).collect(Collectors.toSet()));
    }

    @Override
    void set(String key, String value) {
        r.set(key, value);
    }

    @Override
    String get(String key) {
        return r.get(key);
    }

    public static void main(String[] args) throws Exception {
        new JedisClient(args).run();
    }
}
