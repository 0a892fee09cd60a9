/**
 * Training spread over clients that keep their data: a server sends adapters out, clients train them on what they have, the
 * server averages what comes back.
 *
 * <p>{@link dev.espalier.federated.Federation} is the loop, in one process: who is drawn, local steps, differential privacy by
 * {@link dev.espalier.federated.DpSgd} and its {@link dev.espalier.federated.RenyiAccountant}. A method is a {@link
 * dev.espalier.federated.FederatedRule}: what clients train, how the server aggregates, what it does after a round.
 *
 * <p><b>The methods here.</b> {@link dev.espalier.federated.FedAvg} trains both factors of a LoRA; {@link
 * dev.espalier.federated.FfaLora} only B, which noise and averaging suit better; {@link dev.espalier.federated.FedSvd} does so
 * too and keeps A orthonormal: the one to begin with under privacy.
 *
 * <p>To add one, implement {@link dev.espalier.federated.FederatedRule} and name it in {@code
 * META-INF/services/dev.espalier.adapter.Method}.
 */
@NullMarked
package dev.espalier.federated;

import org.jspecify.annotations.NullMarked;
