/**
 * Several adapters of one network combined into one, without training and without data, or one made by what learnt from them.
 *
 * <p><b>The methods here.</b> {@link dev.espalier.merge.SvdMerger} is the one to begin with: the weighted sum of the changes, as near
 * as a rank allows. {@link dev.espalier.merge.CatMerger} gives that sum exactly, at the sum of the ranks; {@link
 * dev.espalier.merge.LinearMerger} adds factors instead, which brings cross terms. {@link dev.espalier.merge.TiesMerger}, {@link
 * dev.espalier.merge.DareMerger} and {@link dev.espalier.merge.MagnitudePruneMerger} remove interference between adapters before
 * they sum; {@link dev.espalier.merge.LoraLego} averages like ranks with like ones only, and takes adapters of any ranks. All but
 * LoRA-LEGO compute what Hugging Face PEFT 0.21 does in {@code add_weighted_adapter}, without its faults.
 *
 * <p>{@link dev.espalier.merge.IcmLora} is another kind, an {@link dev.espalier.merge.AdapterGenerator}: it trains on the
 * checkpoints of several tasks' adapters and makes one for a task that a vector stands for.
 *
 * <p>{@link dev.espalier.merge.Merging} works on a network with the adapters attached. To add a method, implement {@link
 * dev.espalier.merge.Merger} or {@link dev.espalier.merge.AdapterGenerator} and name it in {@code META-INF/services/dev.espalier.adapter.Method}.
 */
@NullMarked
package dev.espalier.merge;

import org.jspecify.annotations.NullMarked;
