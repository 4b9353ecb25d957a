// What every Java client of a trial does (trial.py beside it says what a client is).
import java.util.function.LongConsumer;

abstract class Steady {
    static volatile boolean over;

    final String[] addresses, lanes;
    final String name;

    Steady(String[] args) {
        addresses = args[0].split(",");
        name = args[1];
        lanes = args[2].split(",");
        Thread end = new Thread(() -> {
            try {
                while (System.in.read() >= 0)
                    ;
            } catch (java.io.IOException e) {
                // it has ended
            }
            over = true;
        });
        end.setDaemon(true);
        end.start();
    }

    /** Returns when n is acknowledged. */
    void write(long n) throws Exception {
        throw new UnsupportedOperationException();
    }

    /** Tells each number below count that it finds. */
    void read(long count, LongConsumer found) throws Exception {
        throw new UnsupportedOperationException();
    }

    static String host(String address) {
        return address.substring(0, address.lastIndexOf(':'));
    }

    static int port(String address) {
        return Integer.parseInt(address.substring(address.lastIndexOf(':') + 1));
    }

    static synchronized void say(String word, Object text) {
        System.out.println(word + " " + String.valueOf(text).replace('\n', ' '));
        System.out.flush();
    }

    static void error(Throwable e) {
        say("error", e + (e.getCause() != null ? " <- " + e.getCause() : ""));
    }

    void run() throws Exception {
        long n = 0;
        for (; !over; n++) {
            try {
                write(n);
                say("acked", n);
            } catch (Exception e) {
                error(e);
                Thread.sleep(10);
            }
            Thread.sleep(1);
        }
        for (int tries = 0; tries < 5; tries++) {
            try {
                read(n, found -> say("read", found));
                System.exit(0);
            } catch (Exception e) {
                error(e);
                Thread.sleep(1000);
            }
        }
        System.exit(1);
    }
}
