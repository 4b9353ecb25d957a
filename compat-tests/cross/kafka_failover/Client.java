// Apache's client. BOOTSTRAP TOPIC COUNT; see run.
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public class Client {
    static final Set<String> got = Collections.synchronizedSet(new HashSet<>());
    static final List<String> failed = Collections.synchronizedList(new ArrayList<>());
    static final AtomicInteger acked = new AtomicInteger(), repeated = new AtomicInteger();
    static final AtomicBoolean over = new AtomicBoolean();

    static void consume(String boot, String topic, int count) {
        Properties p = new Properties();
        p.put("bootstrap.servers", boot);
        p.put("group.id", "g-" + topic);
        p.put("auto.offset.reset", "earliest");
        p.put("session.timeout.ms", "10000");
        try (KafkaConsumer<String, String> c = new KafkaConsumer<>(p, new StringDeserializer(), new StringDeserializer())) {
            c.subscribe(List.of(topic));
            while (!over.get() && got.size() < count)
                for (ConsumerRecord<String, String> r : c.poll(Duration.ofMillis(200)))
                    if (!got.add(r.value()))
                        repeated.incrementAndGet();
        }
    }

    public static void main(String[] args) throws Exception {
        String boot = args[0], topic = args[1];
        int count = Integer.parseInt(args[2]);
        Thread reader = new Thread(() -> consume(boot, topic, count));
        Properties p = new Properties();
        p.put("bootstrap.servers", boot);
        p.put("acks", "all");
        p.put("enable.idempotence", "true");
        p.put("linger.ms", "2");
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(p, new StringSerializer(), new StringSerializer())) {
            for (int i = 0; i < count; i++) {
                producer.send(new ProducerRecord<>(topic, String.valueOf(i)), (meta, e) -> {
                    if (e != null)
                        failed.add(e.toString());
                    else if (acked.incrementAndGet() % 1000 == 0)
                        System.out.println("acked " + acked.get());
                });
                if (i == 0) {
                    producer.flush();
                    reader.start();
                }
                Thread.sleep(1);
            }
            producer.flush();
        }
        reader.join(90000);
        over.set(true);
        reader.join();
        System.out.println("acked=" + acked + " failed=" + failed.stream().limit(2).toList() + " read=" + got.size() + " repeated=" + repeated);
        System.exit(acked.get() == count && got.size() == count && failed.isEmpty() ? 0 : 1);
    }
}
