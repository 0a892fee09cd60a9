/** Floor 6: the command line. A command reads its options, asks the floors below to work, and prints. */
@NullMarked
package dev.espalier.cli;

import org.jspecify.annotations.NullMarked;
