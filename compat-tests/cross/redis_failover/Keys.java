// A key of its own for each number, for the Java clients of run.
import java.util.function.LongConsumer;

abstract class Keys extends Steady {
    Keys(String[] args) {
        super(args);
    }

    abstract void set(String key, String value);

    abstract String get(String key);

    private String key(long n) {
        return "{" + lanes[(int)(n % lanes.length)] + "}:" + name + ":" + n;
    }

    @Override
    void write(long n) {
        set(key(n), String.valueOf(n));
    }

    @Override
    void read(long count, LongConsumer found) {
        for (long n = 0; n < count; n++)
            if (String.valueOf(n).equals(get(key(n))))
                found.accept(n);
    }
}
