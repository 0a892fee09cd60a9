package dev.espalier.compare;

import java.time.Duration;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** Shows how far a study is; never called by two threads at once. */
public interface StudyProgress {

    /** Shows nothing. */
    StudyProgress NONE = state -> {};

    /**
     * How far a study is.
     *
     * @param done processes that have ended, those of an earlier start included
     * @param total processes there will be
     * @param running what is at work
     * @param left time left, by the mean time of what has ended; null while nothing has
     */
    record State(
            int done,
            int total,
            List<String> running,
            @Nullable Duration left) {}

    /** Something started or ended. */
    void update(State state);

    /** Something a person should know, in one sentence. */
    default void note(String remark) {}
}
