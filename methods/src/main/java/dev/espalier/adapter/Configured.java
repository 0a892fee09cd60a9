package dev.espalier.adapter;

import dev.espalier.io.Fields;
import java.util.List;

/**
 * A method whose settings are a record.
 *
 * @param <C> the settings, which check themselves
 */
public interface Configured<C> extends Method {

    /** Reads the settings from a recipe, a command line, or an {@code adapter_config.json}. */
    C read(Fields f);

    @Override
    default List<Fields.Field> fields() {
        return Fields.askedBy(this::read);
    }
}
