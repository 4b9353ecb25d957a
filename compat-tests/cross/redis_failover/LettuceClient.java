// Lettuce's cluster client (see run), with what its manual advises: a periodic refresh of its map, without which it keeps the one it began with, and a limit for commands, since one
// that waits for a dead node's connection waits for that node to come back, by default for a minute.
import io.lettuce.core.RedisURI;
import io.lettuce.core.cluster.ClusterClientOptions;
import io.lettuce.core.cluster.ClusterTopologyRefreshOptions;
import io.lettuce.core.cluster.RedisClusterClient;
import io.lettuce.core.cluster.api.sync.RedisAdvancedClusterCommands;
import java.time.Duration;
import java.util.Arrays;
import java.util.stream.Collectors;

public class LettuceClient extends Keys {
    private final RedisAdvancedClusterCommands<String, String> r;

    LettuceClient(String[] args) {
        super(args);
        RedisClusterClient client = RedisClusterClient.create(
            Arrays.stream(addresses).map(a -> RedisURI.builder().withHost(host(a)).withPort(port(a)).withTimeout(Duration.ofSeconds(1)).build()).collect(Collectors.toList()));
        ClusterTopologyRefreshOptions refresh =
            ClusterTopologyRefreshOptions.builder().enableAllAdaptiveRefreshTriggers().enablePeriodicRefresh(Duration.ofSeconds(1)).build();
        client.setOptions(ClusterClientOptions.builder().topologyRefreshOptions(refresh).build());
        r = client.connect().sync();
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
        new LettuceClient(args).run();
    }
}
