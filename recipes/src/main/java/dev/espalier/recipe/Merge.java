package dev.espalier.recipe;

import dev.espalier.adapter.AdaptedModel;
import dev.espalier.model.CausalLm;
import dev.espalier.model.LoadOptions;
import dev.espalier.model.Model;
import dev.espalier.model.Models;
import dev.espalier.model.Precision;
import dev.espalier.model.Pretrained;
import dev.espalier.model.Purpose;
import dev.espalier.model.SequenceClassifier;
import dev.espalier.tensor.DType;
import java.nio.file.Path;
import java.util.List;

/**
 * What merging an adapter into its base came to.
 *
 * @param out the model's folder
 * @param layers how many weights took up the adapter
 * @param maxChange largest change of a weight
 * @param maxRounding largest error of rounding a weight to its type
 * @param maxLogitDifference largest difference of an output between the adapted model and the reloaded merged one, on fixed
 *     texts
 * @param topOneChanged of {@code rows} outputs, how many have another likeliest value
 * @param rows outputs compared
 */
public record Merge(
        Path out,
        int layers,
        double maxChange,
        double maxRounding,
        double maxLogitDifference,
        long topOneChanged,
        long rows) {

    /**
     * Merges the adapter, saves the model as a Hugging Face folder, loads it again and compares. The given model is then
     * merged.
     *
     * @param out does not exist yet, or is empty
     */
    public static Merge into(LoadedModel loaded, Path out) {
        AdaptedModel adapted = loaded.requireAdapter();
        Run.checkFree(out, false);
        Pretrained pretrained = loaded.pretrained();
        Probe before = Probe.of(pretrained);
        List<AdaptedModel.Change> changes = adapted.merge();
        Models.save(pretrained, out);
        Precision precision = pretrained.model().backbone().dtype() == DType.BFLOAT16 ? Precision.BF16 : Precision.FP32;
        LoadOptions options = LoadOptions.defaults()
                .withPrecision(precision)
                .withDevice(pretrained
                        .model()
                        .backbone()
                        .tokens()
                        .weightParameter()
                        .tensor()
                        .device());
        try (Pretrained reloaded = Models.load(out, purpose(loaded), options)) {
            Probe.Difference difference = before.to(Probe.of(reloaded));
            return new Merge(
                    out,
                    changes.size(),
                    changes.stream()
                            .mapToDouble(AdaptedModel.Change::maxChange)
                            .max()
                            .orElse(0),
                    changes.stream()
                            .mapToDouble(AdaptedModel.Change::maxRounding)
                            .max()
                            .orElse(0),
                    difference.maxLogitDifference(),
                    difference.topOneChanged(),
                    difference.rows());
        }
    }

    private static Purpose purpose(LoadedModel loaded) {
        Model model = loaded.pretrained().model();
        if (model instanceof SequenceClassifier classifier) {
            return classifier.classes() == 1 ? Purpose.regression() : Purpose.classification(classifier.labels());
        }
        return model instanceof CausalLm ? Purpose.causalLm() : Purpose.embedding();
    }
}
