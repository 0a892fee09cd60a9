package dev.espalier.text.jinja;

/** What a template can call: a function, a method bound to its object, or a macro. */
interface Callable {

    String name();

    Object call(Env env, Arguments arguments);
}
