import static java.nio.charset.StandardCharsets.UTF_8;

import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.PrintStream;
import java.util.HexFormat;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.springframework.context.annotation.AnnotationConfigApplicationContext;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.core.env.MapPropertySource;
import org.springframework.kafka.annotation.EnableKafka;
import org.springframework.kafka.annotation.KafkaListener;
import org.springframework.kafka.config.ConcurrentKafkaListenerContainerFactory;
import org.springframework.kafka.core.ConsumerFactory;
import org.springframework.kafka.core.DefaultKafkaConsumerFactory;
import org.springframework.kafka.core.DefaultKafkaProducerFactory;
import org.springframework.kafka.core.KafkaTemplate;
import org.springframework.kafka.listener.ContainerProperties;
import org.springframework.kafka.listener.DeadLetterPublishingRecoverer;
import org.springframework.kafka.listener.DefaultErrorHandler;
import org.springframework.kafka.listener.KafkaMessageListenerContainer;
import org.springframework.kafka.listener.MessageListener;
import org.springframework.kafka.support.KafkaHeaders;
import org.springframework.messaging.handler.annotation.Header;
import org.springframework.messaging.handler.annotation.Payload;
import org.springframework.util.backoff.FixedBackOff;

/**
 * What Spring Kafka makes of dead letters: a listener that fails on every record of some topics, whose error handler
 * publishes to TOPIC-spring, and a listener of dead letters that takes the headers by their names and types.
 *
 * <p>Arguments: bootstrap servers, group, topics to fail on, topics of dead letters to read, how many of them there are.
 * Prints a line for each dead letter; ends when it has seen them all, or with 1 after a minute.
 */
@Configuration
@EnableKafka
public class Letters {
  private static final PrintStream OUT = new PrintStream(new FileOutputStream(FileDescriptor.out), true, UTF_8);
  private static CountDownLatch open;
  private static String bootstrap;

  public static void main(String[] args) throws InterruptedException {
    bootstrap = args[0];
    open = new CountDownLatch(Integer.parseInt(args[4]));
    var context = new AnnotationConfigApplicationContext();
    Map<String, Object> names = Map.of("group", args[1], "letters", args[3]);
    context.getEnvironment().getPropertySources().addFirst(new MapPropertySource("arguments", names));
    context.register(Letters.class);
    context.refresh();
    var failing = failing(args[1], args[2].split(","));
    failing.start();
    boolean all = open.await(60, TimeUnit.SECONDS);
    failing.stop();
    context.close();
    System.exit(all ? 0 : 1);
  }

  /** Gives every record up at once, to the same partition of TOPIC-spring. */
  private static KafkaMessageListenerContainer<byte[], byte[]> failing(String group, String[] topics) {
    Map<String, Object> producer =
        Map.of(
            ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap,
            ProducerConfig.KEY_SERIALIZER_CLASS_CONFIG, ByteArraySerializer.class,
            ProducerConfig.VALUE_SERIALIZER_CLASS_CONFIG, ByteArraySerializer.class);
    var template = new KafkaTemplate<byte[], byte[]>(new DefaultKafkaProducerFactory<>(producer));
    var recoverer =
        new DeadLetterPublishingRecoverer(
            template, (record, error) -> new TopicPartition(record.topic() + "-spring", record.partition()));
    var properties = new ContainerProperties(topics);
    properties.setGroupId(group);
    properties.setMessageListener(
        (MessageListener<byte[], byte[]>)
            record -> {
              throw new IllegalStateException("주문이 없습니다");
            });
    var container = new KafkaMessageListenerContainer<>(consumers(), properties);
    container.setCommonErrorHandler(new DefaultErrorHandler(recoverer, new FixedBackOff(0, 0)));
    return container;
  }

  private static ConsumerFactory<byte[], byte[]> consumers() {
    return new DefaultKafkaConsumerFactory<>(
        Map.of(
            ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap,
            ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest",
            ConsumerConfig.KEY_DESERIALIZER_CLASS_CONFIG, ByteArrayDeserializer.class,
            ConsumerConfig.VALUE_DESERIALIZER_CLASS_CONFIG, ByteArrayDeserializer.class));
  }

  @Bean
  ConcurrentKafkaListenerContainerFactory<byte[], byte[]> kafkaListenerContainerFactory() {
    var factory = new ConcurrentKafkaListenerContainerFactory<byte[], byte[]>();
    factory.setConsumerFactory(consumers());
    return factory;
  }

  @KafkaListener(topics = "#{'${letters}'.split(',')}", groupId = "${group}-letters")
  void letter(
      @Payload(required = false) byte[] value,
      @Header(name = KafkaHeaders.RECEIVED_KEY, required = false) byte[] key,
      @Header(KafkaHeaders.RECEIVED_TOPIC) String topic,
      @Header(KafkaHeaders.DLT_ORIGINAL_TOPIC) String originalTopic,
      @Header(KafkaHeaders.DLT_ORIGINAL_PARTITION) int partition,
      @Header(KafkaHeaders.DLT_ORIGINAL_OFFSET) long offset,
      @Header(KafkaHeaders.DLT_ORIGINAL_TIMESTAMP) long timestamp,
      @Header(KafkaHeaders.DLT_ORIGINAL_TIMESTAMP_TYPE) String timestampType,
      @Header(KafkaHeaders.DLT_ORIGINAL_CONSUMER_GROUP) String group,
      @Header(KafkaHeaders.DLT_EXCEPTION_FQCN) String exception,
      @Header(KafkaHeaders.DLT_EXCEPTION_CAUSE_FQCN) String cause,
      @Header(KafkaHeaders.DLT_EXCEPTION_MESSAGE) String message,
      @Header(KafkaHeaders.DLT_EXCEPTION_STACKTRACE) String trace) {
    Object[] seen = {
      topic, originalTopic, partition, offset, timestamp, timestampType, group, exception, cause, message,
      trace.length(), hex(key), hex(value)
    };
    OUT.println(String.join("|", java.util.Arrays.stream(seen).map(String::valueOf).toList()));
    open.countDown();
  }

  private static String hex(byte[] bytes) {
    return bytes == null ? "null" : "0x" + HexFormat.of().formatHex(bytes);
  }
}
