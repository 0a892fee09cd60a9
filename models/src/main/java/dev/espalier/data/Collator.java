package dev.espalier.data;

import static dev.espalier.Check.check;

import dev.espalier.tensor.Seed;
import dev.espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * Groups encodings into batches.
 *
 * <p>The order of an epoch is a pure function of seed and epoch: a run that goes on after a stop needs to remember only
 * where it was ({@link Cursor}). Each encoding stands in exactly one batch of an epoch. For a thread or many.
 */
public final class Collator {

    /** Batches whose encodings are sorted together: more saves padding, fewer keep the order more random. */
    private static final int WINDOW = 50;

    /** Rows that packing keeps open at once; a bound on its work, and on how far apart neighbours land. */
    private static final int OPEN_ROWS = 64;

    /** The side of a row that padding fills. */
    public enum Side {
        LEFT,
        RIGHT
    }

    /**
     * How to group.
     *
     * @param batchSize rows a batch; at least 1
     * @param padId the token that fills rows up; its value reaches no result, so EOS will do where there is no other
     * @param padding the side it fills
     * @param shuffle false keeps the given order
     * @param packedLength 0 for one encoding a row; otherwise rows of up to so many tokens are filled with encodings,
     *     first fit
     */
    public record Options(int batchSize, int padId, Side padding, boolean shuffle, int packedLength) {
        public Options {
            check(batchSize >= 1, "the batch size must be at least 1, found %d; try 8", batchSize);
            check(padId >= 0, "the padding token's id must be 0 or more, found %d", padId);
            check(packedLength >= 0, "the packed length must be 0 (no packing) or more, found %d", packedLength);
        }

        /** One encoding a row, shuffled, padding on the right. */
        public static Options of(int batchSize, int padId) {
            return new Options(batchSize, padId, Side.RIGHT, true, 0);
        }
    }

    /**
     * A place in the data.
     *
     * @param epoch counted from 0
     * @param batch within the epoch, counted from 0
     */
    public record Cursor(int epoch, int batch) {

        /** Before the first batch. */
        public static final Cursor START = new Cursor(0, 0);

        public Cursor {
            check(epoch >= 0 && batch >= 0, "epoch and batch must be 0 or more, found %d and %d", epoch, batch);
        }
    }

    private final List<Encoding> encodings;
    private final Options options;
    private final Seed seed;
    private volatile @Nullable Epoch latest;

    /** @param rows for each batch, its rows; for each row, the encodings in it */
    @SuppressWarnings("ArrayRecordComponent") // private, never compared
    private record Epoch(int number, int[][][] rows) {}

    /**
     * @param encodings at least one; all with a label of one kind, or all without
     * @param seed decides the order of every epoch
     */
    public Collator(List<Encoding> encodings, Options options, Seed seed) {
        check(!encodings.isEmpty(), "there are no examples to group into batches; name another file");
        this.encodings = List.copyOf(encodings);
        this.options = options;
        this.seed = seed.named("data order");
        Number first = encodings.get(0).label();
        for (Encoding encoding : encodings) {
            Number label = encoding.label();
            check(
                    first == null ? label == null : label != null && first.getClass() == label.getClass(),
                    "%s has the label %s where %s has %s; all must be class ids, scores, or absent",
                    encoding.source(),
                    label,
                    encodings.get(0).source(),
                    first);
            check(
                    options.packedLength() == 0 || label == null,
                    "%s has a label for the whole text, so its row cannot be shared; switch packing off",
                    encoding.source());
            check(
                    options.packedLength() == 0 || encoding.length() <= options.packedLength(),
                    "%s: %,d tokens do not fit into packed rows of %,d; raise the length or truncate",
                    encoding.source(),
                    encoding.length(),
                    options.packedLength());
        }
    }

    /** A batch of these encodings, one a row in their order, padded on the right. */
    public static Batch batch(List<Encoding> rows, int padId) {
        return new Collator(rows, new Options(rows.size(), padId, Side.RIGHT, false, 0), new Seed(0))
                .batch(Cursor.START);
    }

    /** The number of batches of an epoch; packed epochs may differ by a few. */
    public int batches(int epoch) {
        return plan(epoch).length;
    }

    /** The place after a batch: the next one, or the next epoch's first. */
    public Cursor after(Cursor cursor) {
        return cursor.batch() + 1 < batches(cursor.epoch())
                ? new Cursor(cursor.epoch(), cursor.batch() + 1)
                : new Cursor(cursor.epoch() + 1, 0);
    }

    /** The batch at a place. Its tensors belong to the innermost scope. */
    public Batch batch(Cursor cursor) {
        int[][][] plan = plan(cursor.epoch());
        check(
                cursor.batch() < plan.length,
                "epoch %d has %d batches, there is no batch %d; data or batch size have changed",
                cursor.epoch(),
                plan.length,
                cursor.batch());
        return collate(plan[cursor.batch()]);
    }

    /**
     * The longest encodings in one batch: to try whether memory suffices before the run meets them by chance. Packed, it
     * is the fullest rows of one packing; another epoch's may be fuller by a few tokens.
     */
    public Batch largest() {
        int[] byLength = indices();
        byLength = sorted(byLength, 0, byLength.length);
        int rows = Math.min(options.batchSize(), byLength.length);
        int[][] batch = new int[rows][];
        for (int r = 0; r < rows; r++) {
            batch[r] = new int[] {byLength[byLength.length - 1 - r]};
        }
        if (options.packedLength() > 0) {
            int[][] packed = pack(byLength);
            Arrays.sort(packed, Comparator.comparingInt(row -> -tokens(row)));
            batch = Arrays.copyOf(packed, Math.min(options.batchSize(), packed.length));
        }
        return collate(batch);
    }

    private int[][][] plan(int epoch) {
        Epoch known = latest;
        if (known == null || known.number() != epoch) {
            known = new Epoch(epoch, plan(seed.at(epoch)));
            latest = known;
        }
        return known.rows();
    }

    private int[][][] plan(Seed epoch) {
        int[] order = options.shuffle() ? Order.permutation(encodings.size(), epoch.named("examples")) : indices();
        int[][] rows;
        if (options.packedLength() > 0) {
            rows = pack(order);
        } else {
            if (options.shuffle()) {
                int window = (int) Math.min((long) WINDOW * options.batchSize(), order.length);
                for (int from = 0; from < order.length; from += window) {
                    int to = Math.min(order.length, from + window);
                    System.arraycopy(sorted(order, from, to), 0, order, from, to - from);
                }
            }
            rows = Arrays.stream(order).mapToObj(i -> new int[] {i}).toArray(int[][]::new);
        }
        int count = (rows.length + options.batchSize() - 1) / options.batchSize();
        int[] places = options.shuffle() ? Order.permutation(count, epoch.named("batches")) : identity(count);
        int[][][] batches = new int[count][][];
        for (int b = 0; b < count; b++) {
            int from = b * options.batchSize();
            batches[places[b]] = Arrays.copyOfRange(rows, from, Math.min(rows.length, from + options.batchSize()));
        }
        return batches;
    }

    private int[] indices() {
        return identity(encodings.size());
    }

    private static int[] identity(int n) {
        int[] all = new int[n];
        Arrays.setAll(all, i -> i);
        return all;
    }

    /** The encodings of a stretch of the order, shortest first; equals keep their order. */
    private int[] sorted(int[] order, int from, int to) {
        return Arrays.stream(order, from, to)
                .boxed()
                .sorted(Comparator.comparingInt(i -> encodings.get(i).length()))
                .mapToInt(Integer::intValue)
                .toArray();
    }

    /** First fit: each encoding goes to the first open row that has room; when too many are open, the oldest is closed. */
    private int[][] pack(int[] order) {
        List<List<Integer>> done = new ArrayList<>();
        List<List<Integer>> open = new ArrayList<>();
        List<Integer> room = new ArrayList<>();
        for (int index : order) {
            int length = encodings.get(index).length();
            int row = 0;
            while (row < open.size() && room.get(row) < length) {
                row++;
            }
            if (row == open.size()) {
                if (open.size() == OPEN_ROWS) {
                    done.add(open.remove(0));
                    room.remove(0);
                    row--;
                }
                open.add(new ArrayList<>());
                room.add(options.packedLength());
            }
            open.get(row).add(index);
            room.set(row, room.get(row) - length);
        }
        done.addAll(open);
        return done.stream()
                .map(row -> row.stream().mapToInt(Integer::intValue).toArray())
                .toArray(int[][]::new);
    }

    private int tokens(int[] row) {
        return Arrays.stream(row).map(i -> encodings.get(i).length()).sum();
    }

    private Batch collate(int[][] rows) {
        int height = rows.length;
        int width = Arrays.stream(rows).mapToInt(this::tokens).max().orElseThrow();
        long[] ids = filled(height * width, options.padId());
        long[] mask = new long[height * width];
        long[] positions = new long[height * width];
        long[] types = new long[height * width];
        long[] segments = filled(height * width, -1);
        long[] labels = filled(height * width, Batch.IGNORED);
        long targets = 0;
        long real = 0;
        boolean typed = false;
        List<Encoding> members = new ArrayList<>();
        for (int r = 0; r < height; r++) {
            int tokens = tokens(rows[r]);
            int at = r * width + (options.padding() == Side.LEFT ? width - tokens : 0);
            real += tokens;
            for (int s = 0; s < rows[r].length; s++) {
                Encoding encoding = encodings.get(rows[r][s]);
                members.add(encoding);
                targets += encoding.targets();
                int[] typeIds = encoding.typeIds();
                typed |= typeIds != null;
                for (int t = 0; t < encoding.length(); t++, at++) {
                    ids[at] = encoding.ids()[t];
                    mask[at] = 1;
                    positions[at] = t;
                    types[at] = typeIds == null ? 0 : typeIds[t];
                    segments[at] = s;
                    // An encoding's first token has no predecessor of its own: the one before it is another text's.
                    labels[at] = t > 0 && encoding.supervised()[t] ? encoding.ids()[t] : Batch.IGNORED;
                }
            }
        }
        Tensor whole = wholeLabels(members);
        return new Batch(
                Tensor.of(ids, height, width),
                Tensor.of(mask, height, width),
                Tensor.of(positions, height, width),
                typed ? Tensor.of(types, height, width) : null,
                options.packedLength() > 0 ? Tensor.of(segments, height, width) : null,
                whole != null ? whole : targets > 0 ? Tensor.of(labels, height, width) : null,
                whole != null ? members.size() : targets,
                real,
                members.stream().map(Encoding::source).toList());
    }

    private static long[] filled(int size, long value) {
        long[] values = new long[size];
        Arrays.fill(values, value);
        return values;
    }

    /** Class ids or scores [B], or null. */
    private static @Nullable Tensor wholeLabels(List<Encoding> members) {
        long[] classes = new long[members.size()];
        float[] scores = new float[members.size()];
        boolean integer = false;
        for (int i = 0; i < classes.length; i++) {
            Number label = members.get(i).label();
            if (label == null) {
                return null;
            }
            integer = label instanceof Integer;
            classes[i] = label.longValue();
            scores[i] = label.floatValue();
        }
        return integer ? Tensor.of(classes, classes.length) : Tensor.of(scores, scores.length);
    }
}
