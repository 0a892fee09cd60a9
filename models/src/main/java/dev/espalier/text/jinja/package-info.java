/**
 * The Jinja of chat templates: {@link dev.espalier.text.jinja.Jinja} parses one and renders it to the letter as
 * Python's jinja2 does under transformers' settings.
 *
 * <p>In reading order: {@code Lexer} (text to tokens, whitespace control), {@code Parser} (tokens to {@code Statement}s
 * and {@code Expr}essions, which run themselves), {@code Env} (variables, output, limits), {@code Py} (Python's values),
 * {@code Operators}, {@code Methods}, {@code Filters}, {@code Tests}, {@code Format}. No reflection anywhere: a value is
 * text, a number, a list, a map, or a function of this package.
 *
 * <p>Written because com.hubspot.jinjava 2.8.1, tried on the constructs of public templates, lacks Python's string
 * methods, negative slice steps, namespace assignment and Python's way of printing values, and brings 27 further jars.
 */
@NullMarked
package dev.espalier.text.jinja;

import org.jspecify.annotations.NullMarked;
