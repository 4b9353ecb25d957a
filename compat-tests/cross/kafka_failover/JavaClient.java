// Apache's client (see run).
import java.time.Duration;
import java.util.List;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public class JavaClient extends Steady {
    private final Set<Long> acked = ConcurrentHashMap.newKeySet(), seen = ConcurrentHashMap.newKeySet();
    private final KafkaProducer<String, String> producer;
    private final Properties reading = new Properties();
    private volatile boolean sent;
    private final Thread reader = new Thread(this::consume);

    JavaClient(String[] args) {
        super(args);
        Properties p = new Properties();
        p.put("bootstrap.servers", args[0]);
        reading.putAll(p);
        reading.put("group.id", "g-" + name);
        reading.put("auto.offset.reset", "earliest");
        reading.put("session.timeout.ms", "10000");
        p.put("acks", "all");
        p.put("enable.idempotence", "true");
        p.put("linger.ms", "2");
        producer = new KafkaProducer<>(p, new StringSerializer(), new StringSerializer());
    }

    private void consume() {
        try (KafkaConsumer<String, String> c = new KafkaConsumer<>(reading, new StringDeserializer(), new StringDeserializer())) {
            c.subscribe(List.of(name));
            while (!sent || !seen.containsAll(acked))
                for (ConsumerRecord<String, String> r : c.poll(Duration.ofMillis(200))) {
                    seen.add(Long.parseLong(r.value()));
                    say("read", r.value() + " " + r.partition() + ":" + r.offset());
                }
        }
    }

    void produce() throws Exception {
        for (long i = 0; !over; i++) {
            long n = i;
            producer.send(new ProducerRecord<>(name, String.valueOf(n)), (meta, e) -> {
                if (e != null) {
                    error(e);
                } else {
                    acked.add(n);
                    say("acked", n);
                }
            });
            if (n == 0) {
                producer.flush();
                reader.start();
            }
            Thread.sleep(1);
        }
        producer.close(Duration.ofSeconds(90));
        sent = true;
        reader.join();
        System.exit(0);
    }

    public static void main(String[] args) throws Exception {
        new JavaClient(args).produce();
    }
}
