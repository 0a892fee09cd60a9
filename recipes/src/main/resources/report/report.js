'use strict';
/*
 * Draws the report from results.json, which stands in the page as it was written.
 * Text from the study goes into the page as text only (textContent), never as markup.
 */
(() => {
  const study = JSON.parse(document.getElementById('data').textContent);
  const {terms, machine, methods} = study;
  const reference = terms.reference;
  const oneSeed = terms.seeds.length === 1;
  const percent = ['accuracy', 'exact_match', 'f1', 'macro_f1'].includes(terms.metric);
  const metricName = terms.metric.replaceAll('_', ' ');
  const level = `${Number((terms.confidence * 100).toPrecision(3))} %`;
  const NONE = '–';

  // ---------------------------------------------------------------- building the page

  const $ = id => document.getElementById(id);

  /** An element: h('p', {class: 'x', onclick: f}, 'text', otherElement). Nothing and false among children are left out. */
  function h(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes ?? {})) {
      if (typeof value === 'function') {
        element.addEventListener(key.slice(2), value);
      } else if (value !== null && value !== undefined && value !== false) {
        element.setAttribute(key, value === true ? '' : value);
      }
    }
    element.append(...children.flat().filter(c => c !== null && c !== undefined && c !== false));
    return element;
  }

  function svg(tag, attributes, ...children) {
    const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
    Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
    element.append(...children);
    return element;
  }

  /** Puts something between the items of a list, and "and" before the last. */
  function listed(items) {
    return items.flatMap((item, i) => i === 0 ? [item] : [i === items.length - 1 ? ' and ' : ', ', item]);
  }

  function definitions(list, pairs) {
    pairs.filter(([, value]) => value !== null && value !== undefined && value !== '')
        .forEach(([term, value]) => list.append(h('dt', null, term), h('dd', null, value)));
    return list;
  }

  /** A command and a button that copies it. */
  function command(text) {
    return h('div', {class: 'command'}, h('code', null, text), copyButton(text, 'Copy', 'Copy the command'));
  }

  function copyButton(text, label, name) {
    return h('button', {type: 'button', 'aria-label': name, onclick: e => copy(text, e.currentTarget, label)}, label);
  }

  async function copy(text, button, label) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // An older browser, or one that gives no clipboard to a file: the way that needs no permission.
      const area = h('textarea', {class: 'unseen'});
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand('copy');
      area.remove();
      button.focus();
    }
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = label; }, 1500);
  }

  function linkTo(method) {
    return h('a', {href: '#' + anchor(method)}, method.name);
  }

  const anchor = method => 'method-' + methods.indexOf(method);

  // ---------------------------------------------------------------- numbers as people read them

  const minus = text => text.replace('-', '\u2212');
  const signed = (value, text) => (value > 0 ? '+' : '') + minus(text);

  /** Three digits that count. */
  function digits(value) {
    const size = Math.abs(value);
    return size === 0 ? '0' : size >= 1e6 || size < 1e-3 ? exponent(value) : minus(String(Number(value.toPrecision(3))));
  }

  const exponent = value => minus(value.toExponential(1).replace('.0e', 'e').replace('e+', 'e'));
  const whole = value => Math.round(value).toLocaleString('en');
  const score = value => percent ? `${(value * 100).toFixed(1)} %` : minus(value.toFixed(3));
  const scoreError = value => percent ? (value * 100).toFixed(1) : value.toFixed(3);
  const change = value => signed(value, scoreError(value));
  const changeUnit = percent ? ' points' : '';
  const mebi = bytes => bytes / 2 ** 20;

  function count(value) {
    for (const [unit, size] of [['G', 1e9], ['M', 1e6], ['k', 1e3]]) {
      if (value >= size) {
        return `${Number((value / size).toPrecision(3))} ${unit}`;
      }
    }
    return String(value);
  }

  function bytes(value) {
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
    let unit = 0;
    while (value >= 1024 && unit < units.length - 1) {
      value /= 1024;
      unit++;
    }
    return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
  }

  function duration(seconds) {
    const s = Math.round(seconds);
    const two = n => String(n).padStart(2, '0');
    return s < 60 ? `${seconds < 10 ? seconds.toFixed(1) : s} s`
        : s < 3600 ? `${Math.floor(s / 60)}:${two(s % 60)} min`
        : `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)} h`;
  }

  /** A date as written, to the minute; no time zone is guessed. */
  const date = study.date.replace('T', ' ').replace(/^(.{16}).*?(Z?)$/, (_, d, z) => d + (z ? ' UTC' : ''));

  const plural = (n, one, many) => `${n} ${n === 1 ? one : many}`;

  // ---------------------------------------------------------------- what the figures say

  /** better, worse or noise (against the reference), reference, unpaired (no common seed), or failed. */
  function verdict(method) {
    const difference = method.summary?.difference;
    return !method.summary ? 'failed'
        : method.name === reference ? 'reference'
        : !difference ? 'unpaired'
        : difference.inside_noise ? 'noise'
        : (difference.mean > 0) === terms.higher_is_better ? 'better' : 'worse';
  }

  /** How good, higher is better. */
  const quality = method => (terms.higher_is_better ? 1 : -1) * method.summary.metric;

  /** What training needs on top of the loaded model. */
  const extraBytes = method => Math.max(0, method.summary.peak_resident_bytes - method.present_bytes);

  /** Time to answer with the adapter beside its base, over that with it merged, less 1. */
  const overhead = method => method.summary.merged_example_millis === null ? null
      : method.summary.example_millis / method.summary.merged_example_millis - 1;

  const failures = method => method.runs.filter(run => run.status !== 'ok');

  const ran = methods.filter(m => m.summary).sort((a, b) => quality(b) - quality(a));

  /** The interval of a row's difference to the reference, signed so that higher is better; the reference's own is a point. */
  function interval(method) {
    if (method.name === reference) {
      return {mean: 0, low: 0, high: 0};
    }
    const d = method.summary.difference;
    return !d ? null : terms.higher_is_better ? d : {mean: -d.mean, low: -d.high, high: -d.low};
  }

  /** Whether a row's interval reaches the better one's difference to the reference, or the other way round. */
  function notToldApart(better, other) {
    const a = interval(better);
    const b = interval(other);
    return a !== null && b !== null && (b.high >= a.mean || a.low <= b.mean);
  }

  const namesOf = list => listed(list.map(linkTo));

  function resampled(difference) {
    return difference.resampled + (difference.pairs < terms.seeds.length
        ? `, ${difference.pairs} of ${terms.seeds.length} seeds` : '');
  }

  // ---------------------------------------------------------------- top of the page

  function head() {
    $('name').textContent = study.name;
    const equal = {
      steps: `${whole(terms.value)} steps each`,
      tokens: `${count(terms.value)} tokens of training data each`,
      time: `${duration(terms.value)} of training each`,
      parameters: `about ${count(terms.value)} trained parameters each`,
    }[terms.equal] ?? `${terms.equal} = ${terms.value} each`;
    $('lead').textContent = `${plural(methods.length, 'method', 'methods')} on ${terms.model}, ${terms.task}: ${equal}, `
        + `${plural(terms.seeds.length, 'seed', 'seeds')}, learning rates chosen on ${whole(terms.validation_examples)} `
        + `validation examples, judged by ${metricName} on ${whole(terms.test_examples)} test examples. `
        + (terms.base_metric === null ? '' : `Untrained, the model reaches ${score(terms.base_metric)}. `) + `${date}.`;
  }

  /** The question the page opens with: what fits a budget, is it better than the reference, how is it run. */
  function answer() {
    const preferences = [
      ['the best ' + metricName, m => -quality(m)],
      ['the least memory', m => m.summary.peak_resident_bytes],
      ['the least processor time', m => m.summary.processor_seconds],
      ['the fewest trained parameters', m => m.summary.trainable_parameters],
    ];
    preferences.forEach(([label], i) => $('prefer').append(h('option', {value: i}, label)));
    const cost = m => $('basis').value === 'extra' ? extraBytes(m) : m.summary.peak_resident_bytes;

    function range() {
      const costs = ran.map(m => mebi(cost(m)));
      const most = Math.max(10, Math.ceil(Math.max(...costs) / 10) * 10);
      $('budget-slider').max = most;
      const usual = $('basis').value === 'extra' ? 200 : 1000;
      const budget = costs.some(c => c <= usual) ? usual : Math.ceil(costs.sort((a, b) => a - b)[costs.length >> 1] / 10) * 10;
      $('budget').value = $('budget-slider').value = Math.min(budget, Math.max(most, usual));
    }

    function show() {
      const budget = Number($('budget').value) * 2 ** 20;
      const basis = $('basis').value === 'extra' ? 'on top of the model' : 'for the whole process';
      const fits = ran.filter(m => cost(m) <= budget);
      if (fits.length === 0) {
        const least = ran.toSorted((a, b) => cost(a) - cost(b))[0];
        $('choice').replaceChildren(
            h('p', {class: 'pick'}, 'None fits'),
            h('p', null, 'Least takes ', linkTo(least), `: ${bytes(cost(least))} ${basis}.`));
        $('chosen').textContent = 'None fits';
        return;
      }
      const best = fits[0];
      const equals = fits.filter(m => m === best || notToldApart(best, m));
      const key = preferences[Number($('prefer').value)][1];
      const pick = equals.toSorted((a, b) => key(a) - key(b))[0];
      const others = equals.filter(m => m !== pick);
      $('chosen').textContent = `Take ${pick.name}, ${score(pick.summary.metric)}`;
      const s = pick.summary;
      $('choice').replaceChildren(
          h('p', {class: 'small soft'}, `Of ${plural(fits.length, 'method that fits', 'methods that fit')}, take`),
          h('p', {class: 'pick'}, pick.name),
          h('p', {class: 'soft'}, pick.title),
          h('ul', {class: 'facts'},
              fact(score(s.metric) + (s.standard_error === null ? '' : ` ± ${scoreError(s.standard_error)}`), metricName),
              fact(bytes(extraBytes(pick)), 'on top of the model'),
              fact(bytes(s.peak_resident_bytes), 'whole process'),
              fact(duration(s.processor_seconds), 'training'),
              fact(count(s.trainable_parameters), 'trained parameters')),
          definitions(h('dl'), [
            [`Is it really better than ${reference}?`, really(pick)],
            [others.length > 0 && 'What else would do?', others.length > 0 && h('span', null,
                `Not told apart from ${best === pick ? 'it' : best.name} by this study: `,
                listed(others.slice(0, 6).map(m => h('span', null, linkTo(m), ` (${bytes(cost(m))}, ${duration(m.summary.processor_seconds)})`))),
                others.length > 6 ? ` and ${others.length - 6} more.` : '.')],
            ['How do I run it?', h('div', null, command(pick.command), pick.command.includes('task.data')
                && h('span', {class: 'small soft'}, 'For your own data, name your file in place of the one at task.data.'))],
          ].filter(([term]) => term)));
    }

    function fact(value, label) {
      return h('li', null, h('b', null, value), h('span', null, label));
    }

    if (ran.length === 0) {
      $('budget-form').hidden = true;
      $('choice').replaceChildren(h('p', {class: 'pick'}, 'No run ended well'), h('p', null, 'The table says why.'));
      return;
    }
    $('budget-form').addEventListener('submit', e => e.preventDefault());
    $('budget').addEventListener('input', () => { $('budget-slider').value = $('budget').value; show(); });
    $('budget-slider').addEventListener('input', () => { $('budget').value = $('budget-slider').value; show(); });
    $('basis').addEventListener('change', () => { range(); show(); });
    $('prefer').addEventListener('change', show);
    range();
    show();
  }

  function really(method) {
    const d = method.summary.difference;
    const kind = verdict(method);
    if (kind === 'reference') {
      const rivals = ran.filter(m => verdict(m) === 'better');
      return rivals.length === 0 ? `It is ${reference} itself; no method of this study is better beyond the noise.`
          : h('span', null, `It is ${reference} itself. Better beyond the noise, but not within this budget or preference: `,
              ...namesOf(rivals), '.');
    }
    if (kind === 'unpaired') {
      return `That cannot be told: no seed ended well in both.`;
    }
    const figures = `${change(d.mean)}${changeUnit}, ${level} interval ${change(d.low)} to ${change(d.high)}`;
    const said = {noise: 'This study cannot tell', better: 'Yes', worse: 'No, it is worse'}[kind];
    const seeds = oneSeed ? ' With one seed no error over seeds can be given, so another seed may say otherwise.' : '';
    return h('span', null, h('b', {class: `verdict ${kind}`}, said), `: ${figures}`,
        kind === 'noise' ? '. The interval holds 0: the difference lies inside the noise.' : '.', seeds);
  }

  function verdicts() {
    const groups = [
      ['better', `Better than ${reference}`, 'No method stands out.'],
      ['noise', `Not told apart from ${reference}`, ''],
      ['worse', `Worse than ${reference}`, ''],
      ['unpaired', `Not compared with ${reference}`, ''],
      ['failed', 'Failed', ''],
    ];
    for (const [kind, title, none] of groups) {
      const members = [...ran, ...methods.filter(m => !m.summary)].filter(m => verdict(m) === kind);
      if (members.length > 0 || none) {
        $('verdicts').append(h('div', {class: `tile ${kind}`},
            h('h3', null, `${title}: ${members.length}`),
            h('p', null, members.length > 0 ? namesOf(members) : none)));
      }
    }
  }

  function caveats() {
    const found = [];
    if (oneSeed) {
      found.push('One seed: no error can be given. Intervals are over test examples alone; another seed may rank the methods otherwise.');
    }
    const referenceRow = methods.find(m => m.name === reference);
    if (referenceRow && !referenceRow.summary) {
      found.push(`The reference, ${reference}, failed: nothing could be compared with it.`);
    }
    const broken = methods.filter(m => failures(m).length > 0);
    if (broken.length > 0) {
      found.push(h('span', null, 'Runs failed: ', ...broken.flatMap((m, i) => [i > 0 && '; ', linkTo(m),
        ` (${failures(m).length} of ${m.runs.length}: ${failures(m)[0].failure})`]), '.'));
    }
    const edges = ran.filter(m => m.edge !== 'none');
    if (edges.length > 0) {
      found.push(h('span', null, 'Best at the edge of the learning rates tried, so perhaps better beyond it: ', ...namesOf(edges), '.'));
    }
    const compared = ran.filter(m => m.summary.difference).length;
    if (compared >= 10) {
      found.push(`${compared} methods against one reference at ${level}: about `
          + `${plural(Math.round(compared * (1 - terms.confidence)), 'difference', 'differences')} outside the noise would be there by chance alone.`);
    }
    const unequal = ran.filter(m => m.held.reached !== null && m.held.wanted > 0
        && Math.abs(m.held.reached / m.held.wanted - 1) > 0.05);
    if (unequal.length > 0) {
      found.push(h('span', null, `More than 5 % off the ${terms.equal} that all should have: `, ...namesOf(unequal), '.'));
    }
    if (found.length > 0) {
      $('caveats').append(h('div', {class: 'notice'}, h('h3', null, 'To be read with care'), h('ul', null, found.map(f => h('li', null, f)))));
    }
  }

  // ---------------------------------------------------------------- the table

  /** A column: what it is called, its order (a number, text, or null for "not known"), whether more is better, its cell. */
  const columns = [
    {key: 'name', label: 'Method', order: m => m.name, ascendingFirst: true},
    {key: 'metric', label: metricName[0].toUpperCase() + metricName.slice(1), order: m => m.summary.metric,
      ascendingFirst: !terms.higher_is_better, class: 'key-figure', cell: m => [score(m.summary.metric),
        h('small', null, m.summary.standard_error === null ? 'no error: one run' : `± ${scoreError(m.summary.standard_error)}`),
        m.summary.runs < m.runs.length && h('small', {class: 'flag'}, `${m.summary.runs} of ${m.runs.length} runs`)]},
    {key: 'difference', label: `Against ${reference}`, order: m => m.name === reference ? 0 : m.summary.difference?.mean ?? null,
      ascendingFirst: !terms.higher_is_better, class: 'difference', cell: differenceCell},
    {key: 'rate', label: 'Learning rate', order: m => m.learning_rate, ascendingFirst: true,
      cell: m => [exponent(m.learning_rate), m.edge !== 'none' && h('small', {class: 'flag'}, `⚠ ${m.edge}`)]},
    {key: 'parameters', label: 'Trained', order: m => m.summary.trainable_parameters, ascendingFirst: true,
      cell: m => count(m.summary.trainable_parameters)},
    {key: 'held', label: `Of equal ${terms.equal}`, order: m => m.held.reached, ascendingFirst: true, minor: true,
      only: terms.equal === 'parameters',
      cell: m => m.held.reached === null ? NONE : `${(100 * m.held.reached / m.held.wanted).toFixed(1)} %`},
    {key: 'memory', label: 'Peak memory', order: m => m.summary.peak_resident_bytes, ascendingFirst: true,
      cell: m => [bytes(m.summary.peak_resident_bytes), h('small', null, `+${bytes(extraBytes(m))}`)]},
    {key: 'seconds', label: 'Processor time', order: m => m.summary.processor_seconds, ascendingFirst: true, cell: m => duration(m.summary.processor_seconds)},
    {key: 'speed', label: 'Tokens/s', order: m => m.summary.tokens_per_second, minor: true,
      cell: m => whole(m.summary.tokens_per_second)},
    {key: 'optimizer', label: 'Optimizer', order: m => m.summary.optimizer_bytes, ascendingFirst: true, minor: true,
      cell: m => bytes(m.summary.optimizer_bytes)},
    {key: 'adapter', label: 'On disk', order: m => m.summary.adapter_bytes, ascendingFirst: true, minor: true,
      cell: m => bytes(m.summary.adapter_bytes)},
    {key: 'merge', label: 'Merge error', order: m => m.summary.merge_error, ascendingFirst: true, minor: true,
      cell: m => m.summary.merge_error === null ? h('small', null, 'does not merge') : exponent(m.summary.merge_error)},
    {key: 'inference', label: 'Answer', order: m => m.summary.example_millis, ascendingFirst: true, minor: true,
      cell: m => [`${digits(m.summary.example_millis)} ms`,
        overhead(m) !== null && h('small', null, signed(overhead(m), `${Math.round(100 * overhead(m))} %`))]},
    {key: 'forgetting', label: 'Forgetting', order: m => m.summary.forgetting, ascendingFirst: true,
      only: terms.forgetting !== null,
      cell: m => m.summary.forgetting === null ? NONE : signed(m.summary.forgetting, m.summary.forgetting.toFixed(3))},
  ].filter(column => column.only !== false);

  /** The widest end of an interval, for the drawings beside the differences. */
  const reach = Math.max(1e-12, ...ran.flatMap(m => m.summary.difference
      ? [Math.abs(m.summary.difference.low), Math.abs(m.summary.difference.high)] : []));

  function differenceCell(method) {
    if (method.name === reference) {
      return h('small', null, 'the reference');
    }
    const d = method.summary.difference;
    if (!d) {
      return h('small', null, 'no common seed');
    }
    const x = value => 46 + 44 * value / reach;
    const mean = {better: '▲ ', worse: '▼ '}[verdict(method)] ?? '';
    return [
      mean + change(d.mean),
      svg('svg', {viewBox: '0 0 92 12', 'aria-hidden': 'true'},
          svg('line', {class: 'forest-zero', x1: 46, x2: 46, y1: 0, y2: 12}),
          svg('line', {class: 'forest-range', x1: x(d.low), x2: x(d.high), y1: 6, y2: 6}),
          svg('circle', {class: 'forest-mean', cx: x(d.mean), cy: 6, r: 3.2})),
      h('small', null, `${change(d.low)} to ${change(d.high)}`),
      d.inside_noise && h('small', null, 'inside the noise'),
    ];
  }

  function table() {
    const rows = new Map(methods.map(m => [m, row(m)]));
    const body = h('tbody', {role: 'rowgroup'});
    const headers = new Map(columns.map(column => [column.key, h('th',
        {scope: 'col', role: 'columnheader', 'aria-sort': 'none', class: column.minor && 'minor'},
        h('button', {type: 'button', onclick: () => sort(column)}, column.label))]));
    let sorted = null;
    let ascending = true;

    function sort(column) {
      ascending = sorted === column ? !ascending : Boolean(column.ascendingFirst);
      sorted = column;
      const known = m => m.summary && column.order(m) !== null;
      const compare = (a, b) => typeof column.order(a) === 'string'
          ? column.order(a).localeCompare(column.order(b)) : column.order(a) - column.order(b);
      // What is not known, and what failed, stays below whichever way the rest is sorted.
      const order = [
        ...methods.filter(known).sort((a, b) => ascending ? compare(a, b) : compare(b, a)),
        ...methods.filter(m => m.summary && !known(m)),
        ...methods.filter(m => !m.summary),
      ];
      body.replaceChildren(...order.map(m => rows.get(m)));
      headers.forEach((th, key) => th.setAttribute('aria-sort',
          key !== column.key ? 'none' : ascending ? 'ascending' : 'descending'));
      $('sorted').textContent = `Sorted by ${column.label}, ${ascending ? 'ascending' : 'descending'}.`;
    }

    function row(method) {
      const cells = method.summary
          ? columns.slice(1).map(column => h('td', {role: 'cell', 'data-label': column.label,
            class: [column.class, column.minor && 'minor'].filter(Boolean).join(' ') || null}, column.cell(method)))
          : [h('td', {role: 'cell', colspan: columns.length - 1},
              `Failed: ${failures(method)[0]?.failure ?? 'no run was made'}`)];
      return h('tr', {role: 'row', class: verdict(method)},
          h('th', {role: 'rowheader', scope: 'row'}, linkTo(method), h('small', null, method.kind)),
          cells,
          h('td', {role: 'cell'}, copyButton(method.command, 'Copy', `Copy the command that repeats ${method.name}`)));
    }

    const known = ran.filter(m => m.summary.difference);
    $('table-note').append(...[
        known.length > 0 && `Differences to ${reference} are paired${percent ? ', in points' : ''}, with a ${level} bootstrap interval over `
            + `${resampled(known[0].summary.difference)}. Those in grey lie inside the noise: the interval holds 0, so these data do not tell the two apart. `,
        'Small figures: one standard error over seeds; memory on top of the model; time to answer beyond the merged model’s. ',
        h('a', {href: '#meanings-title'}, 'What the figures mean')].filter(Boolean));
    $('decision').append(h('table', {role: 'table'},
        h('caption', {class: 'unseen'}, 'All methods with all figures, sortable by each heading'),
        h('thead', {role: 'rowgroup'}, h('tr', {role: 'row'}, ...headers.values(),
            h('th', {scope: 'col', role: 'columnheader', class: 'plain'}, 'Repeat'))),
        body));
    sort(columns[1]);
    $('minor').addEventListener('click', () => press($('minor'), $('decision').classList.toggle('every')));
  }

  const press = (button, on) => button.setAttribute('aria-pressed', String(on));

  // ---------------------------------------------------------------- charts

  const charts = new Map(); // canvas -> function that makes its configuration in the colours of now

  /** A colour of the style sheet, as the canvas needs it. */
  function colour(name) {
    const probe = h('span', {class: 'unseen'});
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value;
  }

  function draw(canvas) {
    Chart.getChart(canvas)?.destroy();
    Chart.defaults.color = colour('soft');
    Chart.defaults.borderColor = colour('line');
    Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
    new Chart(canvas, charts.get(canvas)());
  }

  /** A figure with a canvas: its name for those who cannot see it, a caption, and what to draw. */
  function chart(title, label, caption, configure, wide) {
    const canvas = h('canvas', {role: 'img', 'aria-label': label});
    charts.set(canvas, configure);
    return h('figure', {class: `card chart${wide ? ' wide' : ''}`},
        title && h('h3', null, title), h('div', {class: 'canvas'}, canvas), caption && h('figcaption', null, caption));
  }

  /** One standard error each way; a point carries it as e. */
  const errorBars = {
    id: 'errorBars',
    beforeDatasetsDraw(chart) {
      const {ctx, scales: {y}} = chart;
      ctx.save();
      ctx.globalAlpha = 0.5;
      ctx.lineWidth = 1.5;
      chart.data.datasets.forEach((set, i) => set.data.filter(point => point.e > 0).forEach(point => {
        const x = chart.getDatasetMeta(i).data[set.data.indexOf(point)].x;
        ctx.strokeStyle = set.borderColor;
        ctx.beginPath();
        ctx.moveTo(x, y.getPixelForValue(point.y - point.e));
        ctx.lineTo(x, y.getPixelForValue(point.y + point.e));
        ctx.stroke();
      }));
      ctx.restore();
    },
  };

  /** Names beside the points that carry one, where there is room: right, left, above or below. */
  const names = {
    id: 'names',
    afterDatasetsDraw(chart) {
      const {ctx, chartArea: area} = chart;
      const points = chart.data.datasets.flatMap((set, i) => set.data.flatMap((point, j) =>
          point.method ? [{name: point.name, ...chart.getDatasetMeta(i).data[j].getProps(['x', 'y'])}] : []));
      const taken = points.map(({x, y}) => ({left: x - 6, right: x + 6, middle: y}));
      ctx.save();
      ctx.font = `12px ${Chart.defaults.font.family}`;
      ctx.fillStyle = colour('ink');
      ctx.strokeStyle = colour('card');
      ctx.lineWidth = 4;
      ctx.lineJoin = 'round';
      ctx.textBaseline = 'middle';
      for (const {name, x, y} of points.filter(point => point.name)) {
        const width = ctx.measureText(name).width;
        const place = [[x + 9, y], [x - 9 - width, y], [x - width / 2, y - 16], [x - width / 2, y + 16], [x + 7, y - 13], [x + 7, y + 13]]
            .find(([left, middle]) => left >= area.left && left + width <= area.right && middle - 8 >= area.top && middle + 8 <= area.bottom
                && !taken.some(t => left < t.right && left + width > t.left && Math.abs(middle - t.middle) < 13));
        if (place) {
          taken.push({left: place[0], right: place[0] + width, middle: place[1]});
          ctx.strokeText(name, ...place);
          ctx.fillText(name, ...place);
        }
      }
      ctx.restore();
    },
  };

  const marks = {
    better: {shape: 'triangle', rotation: 0, text: '▲', label: `better than ${reference}`},
    noise: {shape: 'circle', rotation: 0, text: '●', label: 'inside the noise'},
    worse: {shape: 'triangle', rotation: 180, text: '▼', label: `worse than ${reference}`},
    reference: {shape: 'rectRot', rotation: 0, text: '◆', label: reference},
    unpaired: {shape: 'rect', rotation: 0, text: '■', label: 'not compared'},
  };

  /** Those that no other beats on both counts, cheapest first. */
  function frontier(cost) {
    let best = -Infinity;
    return ran.toSorted((a, b) => cost(a) - cost(b) || quality(b) - quality(a)).filter(m => {
      const better = quality(m) > best;
      best = Math.max(best, quality(m));
      return better;
    });
  }

  function costs() {
    const present = Object.keys(marks).filter(kind => ran.some(m => verdict(m) === kind));
    $('cost-key').append(...present.map(kind => h('span', {class: kind, 'data-mark': marks[kind].text}, marks[kind].label)));
    const logarithmic = figure => {
      const all = ran.map(figure);
      return Math.max(...all) > 20 * Math.min(...all) && Math.min(...all) > 0;
    };
    const axes = [
      ['Peak memory', 'MiB', m => mebi(m.summary.peak_resident_bytes), v => `${whole(v)} MiB`],
      ['Processor time of training', 'seconds', m => m.summary.processor_seconds, duration],
      ['Trained parameters', '', m => m.summary.trainable_parameters, count],
    ];
    for (const [title, unit, cost, text] of axes) {
      const line = frontier(cost);
      const log = logarithmic(cost);
      const configure = () => ({
        type: 'scatter',
        data: {
          datasets: [
            ...present.map(kind => ({
              data: ran.filter(m => verdict(m) === kind).map(m => ({
                x: cost(m), y: percent ? 100 * m.summary.metric : m.summary.metric,
                e: (percent ? 100 : 1) * (m.summary.standard_error ?? 0), method: m,
                name: line.includes(m) || m.name === reference || ran.length <= 8 ? m.name : null,
              })),
              pointStyle: marks[kind].shape, rotation: marks[kind].rotation, pointRadius: 6, pointHoverRadius: 8,
              backgroundColor: colour(kind === 'unpaired' ? 'noise' : kind), borderColor: colour(kind === 'unpaired' ? 'noise' : kind),
            })),
            {
              type: 'line', stepped: 'before', pointRadius: 0, pointHitRadius: 0, borderWidth: 1.5, borderDash: [4, 4],
              borderColor: colour('accent'), data: line.map(m => ({x: cost(m), y: percent ? 100 * m.summary.metric : m.summary.metric})),
            },
          ],
        },
        options: {
          animation: false, maintainAspectRatio: false, layout: {padding: {right: 8}},
          scales: {
            x: {type: log ? 'logarithmic' : 'linear', grace: '8%', title: {display: true, text: title + (unit && `, ${unit}`) + (log ? ' (log)' : '')},
              ticks: {maxTicksLimit: 6, maxRotation: 0, callback: v => unit ? whole(v) : count(v)}},
            y: {grace: '8%', title: {display: true, text: metricName + (percent ? ', %' : '')}, reverse: !terms.higher_is_better},
          },
          plugins: {
            legend: {display: false},
            tooltip: {
              filter: item => item.raw.method !== undefined,
              callbacks: {label: ({raw: {method}}) => `${method.name}: ${score(method.summary.metric)}, ${text(cost(method))}`},
            },
          },
        },
        plugins: [errorBars, names],
      });
      $('cost-charts').append(chart(title,
          `${metricName} of each method against ${title.toLowerCase()}; the table above holds the figures`,
          ['On the line: ', ...listed(line.map(m => h('b', null, m.name))), '.'], configure));
    }
  }

  // ---------------------------------------------------------------- lines for chosen methods

  const palette = ['#3d7fd6', '#d9772b', '#2f9e6e', '#b25bc4', '#c9a21c', '#d4537a', '#4fa3b8', '#8a6f5c'];
  const dashes = [[], [7, 4], [2, 3], [9, 3, 2, 3]];

  /** A line's look, told from others by colour, and beyond eight by dashes too. */
  function look(index) {
    return {borderColor: palette[index % palette.length], borderDash: dashes[Math.floor(index / palette.length) % dashes.length]};
  }

  /** Buttons that put the lines of methods into a chart and take them out again; first, the reference and the five best. */
  function lines(place, candidates, figure, canvas) {
    const chosen = new Set(candidates.filter((m, i) => i < 5 || m.name === reference));
    const buttons = candidates.map((m, i) => {
      const {borderColor, borderDash} = look(i);
      const sample = svg('svg', {viewBox: '0 0 20 8', 'aria-hidden': 'true'}, svg('line',
          {x1: 0, x2: 20, y1: 4, y2: 4, stroke: borderColor, 'stroke-width': 3, 'stroke-dasharray': borderDash.join(' ')}));
      return h('button', {type: 'button', 'aria-pressed': String(chosen.has(m)), onclick: e => {
        chosen.has(m) ? chosen.delete(m) : chosen.add(m);
        press(e.currentTarget, chosen.has(m));
        draw(canvas());
      }}, sample, m.name);
    });
    place.append(h('fieldset', {class: 'chips'}, h('legend', null, 'Shown, best first'), buttons), figure);
    return chosen;
  }

  function lineChart(datasets, x, y, log) {
    return {
      type: 'line',
      data: {datasets},
      options: {
        animation: false, maintainAspectRatio: false, interaction: {mode: 'nearest', axis: 'x', intersect: false},
        elements: {point: {radius: 0, hoverRadius: 4, hitRadius: 8}, line: {borderWidth: 2}},
        scales: {
          x: {type: 'linear', title: {display: true, text: x}, ticks: {precision: 0, maxRotation: 0}},
          y: {type: log ? 'logarithmic' : 'linear', title: {display: true, text: y}, ticks: {maxTicksLimit: 7, callback: v => digits(v)}},
        },
        plugins: {
          legend: {display: false},
          tooltip: {
            itemSort: (a, b) => b.parsed.y - a.parsed.y,
            callbacks: {title: items => items.length > 0 ? `${x} ${items[0].parsed.x}` : '',
              label: item => `${item.dataset.label}: ${digits(item.parsed.y)}`},
          },
        },
      },
    };
  }

  /** Mean loss over the seeds, at the steps that all of them logged. */
  function meanCurve(method) {
    const curves = method.runs.filter(run => run.measured).map(run => new Map(run.measured.curve.map(p => [p.step, p.loss])));
    return [...curves[0].keys()].filter(step => curves.every(c => c.has(step)))
        .map(step => ({x: step, y: curves.reduce((sum, c) => sum + c.get(step), 0) / curves.length}));
  }

  function curves() {
    const place = $('curves-body');
    const candidates = ran.filter(m => meanCurve(m).length > 0);
    if (candidates.length === 0) {
      place.append(h('p', {class: 'soft'}, 'No run logged its loss.'));
      return;
    }
    const figure = chart(null, 'Training loss by step of the methods chosen above', null, () => lineChart(
        candidates.flatMap((m, i) => chosen.has(m) ? [{label: m.name, data: meanCurve(m), ...look(i)}] : []), 'step', 'training loss'), true);
    const chosen = lines(place, candidates, figure, () => figure.querySelector('canvas'));
  }

  // ---------------------------------------------------------------- layers

  const layersOf = method => method.runs.find(run => run.measured?.layers.length > 0)?.measured.layers ?? [];

  /** A layer's path as its block's number and what it is in the block; a path without a number is block -1. */
  function placeOf(path) {
    const [, before, block, part] = path.match(/^(.*?)(?:^|\.)(\d+)\.(.*)$/) ?? [null, '', '-1', path];
    return {block: Number(block), part: before.includes('.') || before === '' ? part : `${before}: ${part}`};
  }

  function ranks() {
    const moved = ran.filter(m => new Set(layersOf(m).map(l => l.rank)).size > 1);
    if (moved.length === 0) {
      $('ranks-body').append(h('p', {class: 'soft'}, 'No method of this study gave its layers different ranks.'));
      return;
    }
    $('ranks-body').append(
        h('p', null, 'Methods whose layers ended with different ranks, by the rank of each layer’s change of weights (singular values '
            + 'above 10⁻⁴ of the largest). The stronger the colour, the more; with the first seed.'),
        h('div', {class: 'heats'}, moved.map(heat)));
  }

  function heat(method) {
    const layers = layersOf(method).map(layer => ({...layer, ...placeOf(layer.path)}));
    const parts = [...new Set(layers.map(l => l.part))];
    const blocks = [...new Set(layers.map(l => l.block))].sort((a, b) => a - b);
    const most = Math.max(...layers.map(l => l.rank));
    const total = layers.reduce((sum, l) => sum + l.rank, 0);
    const cell = (part, block) => {
      const layer = layers.find(l => l.part === part && l.block === block);
      const td = h('td', {title: layer?.path}, layer ? String(layer.rank) : '');
      td.style.setProperty('--share', layer ? layer.rank / most : 0);
      return td;
    };
    return h('div', {class: 'card heat'},
        h('h3', null, linkTo(method), h('span', {class: 'soft small'}, ` ${total} in all, at most ${most} in a layer`)),
        h('div', {class: 'scroll', tabindex: 0, role: 'region', 'aria-label': `Ranks of ${method.name}`}, h('table', null,
            h('caption', {class: 'unseen'}, `Rank by part (rows) and block (columns) of ${method.name}`),
            h('thead', null, h('tr', null, h('th', {scope: 'col'}, 'block'),
                blocks.map(b => h('th', {scope: 'col'}, b < 0 ? NONE : String(b))))),
            h('tbody', null, parts.map(part => h('tr', null, h('th', {scope: 'row'}, part), blocks.map(b => cell(part, b))))))));
  }

  function spectra() {
    const place = $('spectra-body');
    const candidates = ran.filter(m => layersOf(m).some(l => l.singular_values.length > 0));
    if (candidates.length === 0) {
      place.append(h('p', {class: 'soft'}, 'No method of this study left a change of weights to look at.'));
      $('intruders-title').hidden = true;
      $('intruders-title').nextElementSibling.hidden = true;
      return;
    }
    const paths = [...new Set(candidates.flatMap(m => layersOf(m).map(l => l.path)))];
    const select = h('select', {id: 'layer', onchange: () => draw(figure.querySelector('canvas'))},
        h('option', {value: ''}, 'mean over all layers'), paths.map(path => h('option', {value: path}, path)));
    const values = method => {
      const layers = layersOf(method).filter(l => l.singular_values.length > 0 && (select.value === '' || l.path === select.value));
      const length = Math.max(0, ...layers.map(l => l.singular_values.length));
      return Array.from({length}, (_, i) => ({x: i + 1, y: layers.reduce((sum, l) => sum + (l.singular_values[i] ?? 0), 0) / layers.length}))
          .filter(point => point.y > 0);
    };
    place.append(h('p', {class: 'inline-field'}, h('label', {for: 'layer'}, 'Layer'), select));
    const figure = chart(null, 'Singular values of the change of weights, of the methods chosen above', null, () => {
      const configuration = lineChart(
          candidates.flatMap((m, i) => chosen.has(m) ? [{label: m.name, data: values(m), ...look(i)}] : []), 'singular value', 'size (log)', true);
      configuration.options.elements.point.radius = 3;
      return configuration;
    }, true);
    const chosen = lines(place, candidates, figure, () => figure.querySelector('canvas'));
    const sum = (m, f) => layersOf(m).reduce((total, l) => total + f(l), 0);
    const rows = candidates.map(m => ({method: m, value: sum(m, l => l.intruders), low: null,
      text: String(sum(m, l => l.intruders)),
      more: `in ${layersOf(m).filter(l => l.intruders > 0).length} of ${layersOf(m).length} layers`,
      last: `${(100 * sum(m, l => l.relative_change) / layersOf(m).length).toFixed(1)} %`})).sort((a, b) => a.value - b.value);
    $('intruders-body').append(bars('Intruder dimensions by method, fewest first', ['Method', 'Intruder dimensions', 'Size of the change, ‖ΔW‖ / ‖W‖'], rows));
  }

  /** A table with a bar in each row, from zero to its value. */
  function bars(caption, headings, rows) {
    const low = Math.min(0, ...rows.map(r => r.value));
    const span = Math.max(0, ...rows.map(r => r.value)) - low || 1;
    const share = value => `${100 * value / span}%`;
    return h('div', {class: 'card bars'}, h('table', null,
        h('caption', {class: 'unseen'}, caption),
        h('thead', null, h('tr', null, h('th', {scope: 'col'}, headings[0]), h('td'), headings.slice(1).map(t => h('th', {scope: 'col'}, t)))),
        h('tbody', null, rows.map(({method, value, text, more, last, mark}) => {
          const bar = h('i', {class: mark, 'aria-hidden': 'true'});
          bar.style.setProperty('--zero', share(-low));
          bar.style.setProperty('--from', share(Math.min(0, value) - low));
          bar.style.setProperty('--width', share(Math.abs(value)));
          return h('tr', null, h('th', {scope: 'row'}, linkTo(method)), h('td', {class: 'lane'}, bar),
              h('td', null, text, more && h('small', null, more)), last && h('td', null, last));
        }))));
  }

  function forgetting() {
    const place = $('forgetting-body');
    const known = ran.filter(m => m.summary.forgetting !== null);
    if (terms.forgetting === null || known.length === 0) {
      place.append(h('p', {class: 'soft'}, 'The study names no second data set (forgetting: FILE), so this was not measured.'));
      return;
    }
    place.append(
        h('p', null, `How much worse the model has become at what it was not trained on: its loss on ${terms.forgetting} after training less `
            + `that before. Above 0 it forgot, below 0 it got better. ± is one standard error over seeds.`),
        bars('Forgetting by method, least first', ['Method', 'Change of loss'], known
            .toSorted((a, b) => a.summary.forgetting - b.summary.forgetting)
            .map(m => ({method: m, value: m.summary.forgetting, mark: m.summary.forgetting > 0 ? 'worse' : 'better',
              text: signed(m.summary.forgetting, m.summary.forgetting.toFixed(3)),
              more: m.summary.forgetting_error === null ? 'no error: one run' : `± ${m.summary.forgetting_error.toFixed(3)}`}))));
  }

  // ---------------------------------------------------------------- terms, machine, every method

  /** A value as YAML, the way recipes and studies are written. */
  function yaml(value, indent = '') {
    const scalar = v => typeof v !== 'string' ? String(v)
        : /^[A-Za-z_./~][\w./ -]*$/.test(v) && !/^(true|false|null|yes|no|on|off|~)$/i.test(v) && !v.endsWith(' ') ? v : JSON.stringify(v);
    const nested = v => v !== null && typeof v === 'object' && Object.keys(v).length > 0;
    const empty = v => v !== null && typeof v === 'object' ? (Array.isArray(v) ? '[]' : '{}') : scalar(v);
    if (Array.isArray(value)) {
      return value.map(v => nested(v) ? `${indent}- ${yaml(v, indent + '  ').trimStart()}` : `${indent}- ${empty(v)}\n`).join('');
    }
    return Object.entries(value).map(([key, v]) => !nested(v) ? `${indent}${scalar(key)}: ${empty(v)}\n`
        : Array.isArray(v) && !v.some(nested) ? `${indent}${scalar(key)}: [${v.map(scalar).join(', ')}]\n`
        : `${indent}${scalar(key)}:\n${yaml(v, indent + '  ')}`).join('');
  }

  function settings() {
    definitions($('terms-list'), [
      ['Model', terms.model],
      ['Task', terms.task],
      ['Judged by', `${metricName}, ${terms.higher_is_better ? 'higher' : 'lower'} is better`],
      ['Held equal', `${terms.equal}: ${whole(terms.value)}`],
      ['Data', `${whole(terms.train_examples)} examples to learn from, ${whole(terms.validation_examples)} to choose learning rates by, `
          + `${whole(terms.test_examples)} to judge by, which nothing else has seen`],
      ['Seeds', terms.seeds.join(', ')],
      ['Reference', reference],
      ['Before training', terms.base_metric === null ? null : `${score(terms.base_metric)}: nearest class mean of the frozen model`],
      ['Forgetting on', terms.forgetting],
    ]);
    definitions($('machine-list'), [
      ['Processor', machine.processor],
      ['Cores', String(machine.cores)],
      ['Memory', machine.memory_bytes > 0 ? bytes(machine.memory_bytes) : null],
      ['System', machine.system],
      ['Runs', `${machine.at_once} at once at most, ${plural(machine.threads, 'thread', 'threads')} each, within ${bytes(machine.memory_budget)}`],
      ...Object.entries(study.versions),
      ['Ended', date],
    ]);
    $('repeat').append(command(study.command));
    $('settings').append(h('pre', null, yaml(study.settings)));
    definitions($('meanings'), [
      ['±', 'One standard error of the mean over seeds, s / √n.'],
      ['Interval', `Holds ${level} of the means of a bootstrap that draws seeds and test examples anew, of the differences to `
          + `${reference} on the same seed and the same example.`],
      ['Inside the noise', 'The interval holds 0: with these seeds and test examples the two cannot be told apart. It does not say that they are equal.'],
      ['Not told apart', `Of two methods at the top of the page: one’s mean difference to ${reference} lies inside the other’s interval. `
          + `A rough rule, since only differences to ${reference} were drawn anew.`],
      ['Peak memory', 'The most that the process which trained held resident, over all seeds; what it adds to the loaded model is that less a forecast of Java, libtorch, data and the base’s weights.'],
      ['Processor time', 'Of training, all threads of the process together, mean over seeds; runs beside each other hardly change it.'],
      ['Merge error', 'Largest difference of a logit between the adapter beside its base and merged into it.'],
      ['Answer', 'Time for one test example, in batches, with the adapter beside its base; below it, how much longer than merged.'],
      terms.forgetting !== null && ['Forgetting', 'Loss on the second data set after training less that before.'],
      ['Learning rate', 'The one of its grid that was best on validation data. At an end of the grid a better one may lie beyond.'],
    ].filter(Boolean));
  }

  function grid(headings, rows, label) {
    return h('div', {class: 'scroll', tabindex: 0, role: 'region', 'aria-label': label}, h('table', null,
        h('thead', null, h('tr', null, headings.map(t => h('th', {scope: 'col'}, t)))),
        h('tbody', null, rows.map(([first, ...rest]) => h('tr', null, h('th', {scope: 'row'}, first), rest.map(c => h('td', null, c)))))));
  }

  function full(method) {
    const s = method.summary;
    const dash = (value, text) => value === null || value === undefined ? NONE : text(value);
    const runs = method.runs.map(({seed, measured: r, failure}) => r === null
        ? [String(seed), h('span', {class: 'flag'}, 'failed'), NONE, NONE, NONE, NONE, NONE, NONE]
        : [String(seed), score(r.metric), digits(r.test_loss), dash(r.curve.at(-1)?.loss, digits), duration(r.processor_seconds), bytes(r.peak_resident_bytes),
          dash(r.merge_error, exponent), dash(r.forgetting, v => signed(v, v.toFixed(3)))]);
    const rates = method.rates.map(r => [
      exponent(r.learning_rate), r.failure !== null ? h('span', {class: 'flag'}, r.failure) : dash(r.validation, score),
      r.learning_rate === method.learning_rate ? 'chosen' : '']);
    const unmergeable = method.runs.map(run => run.measured?.unmergeable).find(Boolean);
    return h('details', {id: anchor(method), class: verdict(method)},
        h('summary', null, h('b', null, method.name), ` ${method.title} `,
            h('span', {class: 'soft'}, s ? score(s.metric) : 'failed')),
        h('p', null, `${method.kind}, ${method.method} in the catalogue. Held equal: ${method.held.how}`
            + (method.held.reached === null ? '.' : `; reached ${whole(method.held.reached)} of ${whole(method.held.wanted)}.`)
            + (unmergeable ? ` Does not merge: ${unmergeable}.` : '')),
        failures(method).map(run => h('p', {class: 'flag'}, `Seed ${run.seed} failed: ${run.failure}`)),
        h('h4', null, 'Repeats it'),
        method.runs.map(run => command(run.command)),
        h('h4', null, 'Runs'),
        grid(['Seed', metricName, 'Test loss', 'Last training loss', 'Processor time', 'Peak memory', 'Merge error', 'Forgetting'], runs, `Runs of ${method.name}`),
        h('div', {class: 'columns'},
            h('div', null, h('h4', null, 'Learning rates tried'),
                grid(['Rate', 'On validation data', ''], rates, `Learning rates of ${method.name}`),
                method.edge !== 'none' && h('p', {class: 'flag small'}, `The ${method.edge} was best: a better one may lie beyond the grid.`)),
            h('div', null, h('h4', null, 'Recipe'), h('pre', null, yaml(method.recipe)))));
  }

  function everyMethod() {
    const all = [...ran, ...methods.filter(m => !m.summary)].map(full);
    $('methods-body').append(...all);
    $('unfold').addEventListener('click', () => {
      const open = $('unfold').getAttribute('aria-pressed') !== 'true';
      all.forEach(d => { d.open = open; });
      press($('unfold'), open);
    });
    // A link to a method opens it.
    const reveal = () => {
      const target = document.getElementById(location.hash.slice(1));
      if (target instanceof HTMLDetailsElement) {
        target.open = true;
        target.scrollIntoView();
      }
    };
    addEventListener('hashchange', reveal);
    reveal();
  }

  function theme() {
    const root = document.documentElement;
    const system = matchMedia('(prefers-color-scheme: dark)');
    let chosen = null;
    try {
      chosen = localStorage.getItem('espalier-theme');
    } catch {
      // A browser may refuse a file its storage; then the choice lasts as long as the page.
    }
    const dark = () => chosen === null ? system.matches : chosen === 'dark';
    const apply = () => {
      root.style.colorScheme = dark() ? 'dark' : 'light';
      press($('theme'), dark());
      charts.forEach((_, canvas) => draw(canvas));
    };
    $('theme').addEventListener('click', () => {
      chosen = dark() ? 'light' : 'dark';
      try {
        localStorage.setItem('espalier-theme', chosen);
      } catch {
        // As above.
      }
      apply();
    });
    system.addEventListener('change', apply);
    apply();
  }

  head();
  answer();
  verdicts();
  caveats();
  table();
  costs();
  curves();
  ranks();
  spectra();
  forgetting();
  settings();
  everyMethod();
  theme();
})();
