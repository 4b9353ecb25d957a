// RabbitMQ's Java client with its automatic recovery and the list of addresses (see run).
import com.rabbitmq.client.Address;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.GetResponse;
import com.rabbitmq.client.MessageProperties;
import java.util.Map;
import java.util.function.LongConsumer;

public class JavaClient extends Steady {
    private final Channel channel;

    JavaClient(String[] args) throws Exception {
        super(args);
        ConnectionFactory f = new ConnectionFactory();
        f.setNetworkRecoveryInterval(100);
        Connection c = f.newConnection(Address.parseAddresses(args[0]));
        channel = c.createChannel();
        channel.confirmSelect();
        for (String queue : lanes)
            channel.queueDeclare(queue, true, false, false, Map.of("x-queue-type", "quorum"));
    }

    @Override
    void write(long n) throws Exception {
        channel.basicPublish("", lanes[(int)(n % lanes.length)], true, MessageProperties.MINIMAL_PERSISTENT_BASIC, String.valueOf(n).getBytes());
        channel.waitForConfirmsOrDie(60000);
    }

    @Override
    void read(long count, LongConsumer found) throws Exception {
        for (String queue : lanes)
            for (GetResponse m; (m = channel.basicGet(queue, false)) != null;) {
                found.accept(Long.parseLong(new String(m.getBody())));
                channel.basicAck(m.getEnvelope().getDeliveryTag(), false);
            }
    }

    public static void main(String[] args) throws Exception {
        new JavaClient(args).run();
    }
}
