/**
 * Adapters: small trained parts that change what one layer of a frozen network computes.
 *
 * <p>{@link dev.espalier.adapter.AdaptedModel} hangs adapters on the layers of a network, switches between them, merges
 * them, and knows all that methods have in common; {@link dev.espalier.adapter.PeftFolder} reads and writes them as Hugging
 * Face PEFT does. A method is one file: its mathematics, its settings, and its {@link dev.espalier.adapter.AdapterType}.
 *
 * <p><b>The methods here.</b> {@link dev.espalier.adapter.Lora} is the one to begin with. {@link
 * dev.espalier.adapter.RsLora} keeps large ranks (64 and more) learning; {@link dev.espalier.adapter.Dora} gains at small
 * ranks, at about twice the time. Starting values are in {@code dev.espalier.init}, optimiser settings in {@code
 * dev.espalier.optim}.
 *
 * <p><b>Ranks that differ.</b> Where it is unknown how much a layer needs: {@link dev.espalier.adapter.Adalora} takes ranks away
 * until a budget is met, {@link dev.espalier.adapter.Increlora} gives them out one by one, {@link dev.espalier.adapter.Sora} lets
 * a threshold decide, and {@link dev.espalier.adapter.Dylora} is cut to any rank after training. All four become exact plain
 * LoRAs. {@link dev.espalier.adapter.Sltrain} has no frozen weight underneath: it is for pre-training.
 *
 * <p><b>To add one</b>, write a class that implements {@link dev.espalier.adapter.Adapter} (and {@link
 * dev.espalier.adapter.Mergeable} if its effect is a weight) with a nested {@link dev.espalier.adapter.AdapterType}, name
 * the type in {@code META-INF/services/dev.espalier.adapter.Method}, and let its test extend {@code AdapterContract}.
 */
@NullMarked
package dev.espalier.adapter;

import org.jspecify.annotations.NullMarked;
