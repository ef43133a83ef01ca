'use strict';
// The gallery and the pages of report.html. What models and data wrote reaches the page as textContent only, pictures as data URIs that report.py encoded.
const $ = id => document.getElementById(id), D = JSON.parse($('data').textContent), last = D.runs.length - 1;
const make = (tag, props, ...kids) => { const e = Object.assign(document.createElement(tag), props); e.append(...kids); return e; };
// Characters that draw nothing, turn the text around or end a line unseen show as their number.
const visible = text => text.replace(/[^\P{C}\n\t]|[\u2028\u2029]/gu, c => '\\u' + c.codePointAt(0).toString(16).padStart(4, '0'));
const text = (tag, content, className = '') => make(tag, {textContent: visible(content), className});
const swatch = run => make('i', {className: 'c' + (last - run) % 6});
D.items.forEach((item, n) => item.n = n);

// Pictures and messages of an item; its prompt, reference and answers, which are compressed.
const piece = item => JSON.parse($('p' + item.n).textContent), unpacked = {};
async function unpack(block) {
  const bytes = Uint8Array.from(atob($('t' + block).textContent), c => c.charCodeAt(0));
  const read = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))).json();
  read.forEach((texts, n) => D.items[block * D.block + n].texts = texts);
}
const texts = item => unpacked[Math.floor(item.n / D.block)] ??= unpack(Math.floor(item.n / D.block));

// ---------------------------------------------------------------------------------------------------------------- controls

const distinct = values => [...new Set(values)].sort();
const select = options => make('select', {onchange: show}, ...options.map(([value, label]) => make('option', {value, textContent: visible(String(label))})));
const every = values => select([['', 'all'], ...distinct(values).map(v => [v, v])]);
const ui = {
  mode: select(Object.entries(D.modes)), run: select(D.runs.map((r, k) => [k, r]).reverse()), metric: select(D.metrics.map((m, k) => [k + 1, m])),
  order: select([['worst', 'worst first'], ['best', 'best first'],
    ...(last ? [['gain', 'gained most on the first run'], ['loss', 'lost most to the first run']] : []), ['data', 'as in the data']]),
  task: every(D.items.map(i => i.task)), source: every(D.items.map(i => i.source)),
  status: every(D.items.flatMap(i => Object.values(i.runs).flat().flatMap(a => a ? [a[0]] : []))),
  find: make('input', {type: 'search', placeholder: 'in ids and answers',
    oninput: async () => { count.textContent = 'reading …'; await Promise.all(D.items.map(texts)); show(); }})};
const count = make('output', {});
for (const [name, control] of Object.entries(ui)) {
  control.title = name;
  const choices = control.options ? control.options.length - (control.options[0]?.value == '') : 2;
  $('controls').append(make('label', {hidden: choices < 2}, {mode: 'answers', metric: 'by'}[name] ?? name, control));
}
$('controls').append(count);

const answers = item => item.runs[ui.mode.value] ?? [], value = (item, run) => answers(item)[run]?.[ui.metric.value] ?? null;
const lower = item => (item.lower ??= {})[ui.mode.value] ??= [item.id, ...item.texts.runs[ui.mode.value]].join('\n').toLowerCase();
let pageName = '', list = [], next = 0;

// ------------------------------------------------------------------------------------------------------------------- cards

const picture = src => make('img', {src, alt: '', decoding: 'async', onload() { if (this.naturalWidth < 110) this.className = 'tiny'; }});
const bar = (name, v, run) => { const e = make('div', {className: 'bar'}, name, make('div', {}, swatch(run)), make('b', {textContent: v?.toFixed(2) ?? '–'}));
  e.style.setProperty('--v', Math.min(1, Math.max(0, v ?? 0))); return e; };
const bars = (a, metrics, run) => metrics.map(m => bar(m, a[1 + D.metrics.indexOf(m)], run));

function pixels(image, side) {  // RGBA of an image fitted without stretching on white
  const context = make('canvas', {width: side, height: side}).getContext('2d', {willReadFrequently: true});
  const k = side / Math.max(image.naturalWidth, image.naturalHeight);
  context.fillStyle = '#fff'; context.fillRect(0, 0, side, side); context.imageSmoothingEnabled = k < 1;
  const [w, h] = [k * image.naturalWidth, k * image.naturalHeight];
  context.drawImage(image, (side - w) / 2, (side - h) / 2, w, h);
  return context.getImageData(0, 0, side, side).data;
}
// The difference: the target as a grey shadow, over it what only the target has (it differs more from the background), what only the render has, and the rest.
async function paint(canvas) {
  const [target, image] = canvas.pair, side = canvas.width, out = canvas.getContext('2d').createImageData(side, side), votes = {};
  await Promise.all([target.decode(), image.decode()]);
  const a = target.pixels ??= pixels(target, side), b = pixels(image, side);
  for (let p = 0; p < a.length; p += 28) { const c = (a[p] >> 3) << 10 | (a[p + 1] >> 3) << 5 | a[p + 2] >> 3; votes[c] = (votes[c] ?? 0) + 1; }
  const top = +Object.keys(votes).reduce((x, y) => votes[y] > votes[x] ? y : x), ground = [top >> 10, top >> 5 & 31, top & 31].map(c => c * 255 / 31);
  for (let p = 0; p < a.length; p += 4) {
    let d = 0, da = 0, db = 0;
    for (let c = 0; c < 3; c++) {
      d = Math.max(d, Math.abs(a[p + c] - b[p + c])); da = Math.max(da, Math.abs(a[p + c] - ground[c])); db = Math.max(db, Math.abs(b[p + c] - ground[c]));
    }
    const shadow = 255 - 0.2 * da, share = d < 28 ? 0 : Math.min(1, 0.25 + d / 140),
      colour = da > db + 40 ? [213, 94, 0] : db > da + 40 ? [0, 114, 178] : [204, 121, 167];
    for (let c = 0; c < 3; c++) out.data[p + c] = shadow + share * (colour[c] - shadow);
    out.data[p + 3] = 255;
  }
  canvas.getContext('2d').putImageData(out, 0, 0);
}
const painter = new IntersectionObserver(seen => {
  for (const {target, isIntersecting} of seen) if (isIntersecting) { painter.unobserve(target); paint(target); }
}, {rootMargin: '300px'});

function answer(run, a, [at, message], pictures, target) {
  if (at === null) return [make('div', {className: 'none'}, text('b', a[0]), text('small', message))];
  const image = picture(pictures[at]), canvas = make('canvas', {width: 192, height: 192, pair: [target, image]});
  painter.observe(canvas);
  return [make('div', {className: 'pair'}, make('div', {className: 'pic'}, image), make('div', {className: 'pic'}, canvas)), ...bars(a, D.shown.slice(1), run)];
}
function card(item) {
  const {pictures, target, runs} = piece(item), image = picture(pictures[target]), mode = ui.mode.value, run = +ui.run.value;
  const code = make('details', {async ontoggle() {
    if (this.querySelector('.codes')) return;
    const at = make('div', {className: 'codes'});
    this.append(at);
    await texts(item);
    codes(at, item, mode, run);
  }}, make('summary', {textContent: 'code and parts'}));
  return make('article', {className: 'card'}, make('header', {}, text('b', item.id), visible([item.page, item.task, item.source].join(' · '))),
    make('div', {className: 'strip'}, make('div', {}, make('h4', {textContent: 'target'}), make('div', {className: 'pic'}, image)),
      ...answers(item).map((a, k) => make('div', {}, make('h4', {}, swatch(k), visible(D.runs[k])), ...(a ? answer(k, a, runs[mode][k], pictures, image)
        : [make('div', {className: 'none'}, 'no answer')])))), code);
}

// -------------------------------------------------------------------------------------------------------------------- code

// Lines of two texts side by side: [left, right] with null where one has none; equal lines (longest common subsequence) share a row.
function align(a, b) {
  let start = 0, n = a.length, m = b.length;
  while (start < Math.min(n, m) && a[start] === b[start]) start++;
  while (n > start && m > start && a[n - 1] === b[m - 1]) n--, m--;
  const w = m - start + 1, longest = new Uint16Array((n - start + 1) * w), rows = a.slice(0, start).map(line => [line, line]);
  for (let i = n - 1; i >= start; i--) for (let j = m - 1; j >= start; j--) {
    const at = (i - start) * w + j - start;
    longest[at] = a[i] === b[j] ? longest[at + w + 1] + 1 : Math.max(longest[at + w], longest[at + 1]);
  }
  let i = start, j = start, left = [], right = [];
  const flush = () => { for (let k = 0; k < Math.max(left.length, right.length); k++) rows.push([left[k] ?? null, right[k] ?? null]); left = []; right = []; };
  while (i < n || j < m) {
    const at = (i - start) * w + j - start;
    if (i < n && j < m && a[i] === b[j]) { flush(); rows.push([a[i++], b[j++]]); }
    else if (j >= m || i < n && longest[at + w] >= longest[at + 1]) left.push(a[i++]);
    else right.push(b[j++]);
  }
  flush();
  return [...rows, ...a.slice(n).map(line => [line, line])];
}
function compare(reference, response, name) {
  const a = reference.split('\n'), b = response.split('\n');
  if (!reference || a.length + b.length > 4000)  // nothing to compare, or more than is soon compared
    return make('div', {}, ...(reference ? [text('h4', 'reference'), text('pre', reference)] : []), text('h4', name), text('pre', response));
  const cell = (line, other, side) => text('span', line ?? '', side + (line === null ? ' gap' : line === other ? ' same' : side == 'left' ? ' old' : ' new'));
  return make('div', {className: 'split', tabIndex: 0}, text('h4', 'reference'), text('h4', name),
    ...align(a, b).flatMap(([l, r]) => [cell(l, r, 'left'), cell(r, l, 'right')]));
}
function codes(at, item, mode, run) {
  const shown = item.runs[mode], {prompt, answer, runs} = item.texts, message = piece(item).runs[mode][run]?.[1];
  const choose = D.runs.map((name, k) => make('button', {ariaPressed: String(k == run), onclick() {
    codes(at, item, mode, k);
    at.querySelectorAll('nav button')[k].focus();
  }}, swatch(k), visible(name)));
  const parts = shown[run] ? bars(shown[run], D.metrics, run) : [];
  parts[D.parts.length - 1]?.classList.add('line');
  at.replaceChildren(
    make('div', {}, make('nav', {ariaLabel: 'run'}, ...(last ? choose : [])), ...(message ? [text('p', message, 'message')] : []),
      shown[run] ? compare(answer ?? '', runs[mode][run], D.runs[run]) : make('p', {textContent: 'no answer'})),
    make('div', {className: 'parts'}, make('h4', {textContent: 'parts'}), ...parts, make('h4', {textContent: 'instruction'}), text('pre', prompt)));
}

// ---------------------------------------------------------------------------------------------------- filter, sort, pages

const end = make('div', {}), more = () => { for (const item of list.slice(next, next += 24)) end.before(card(item)); };
new IntersectionObserver(seen => { if (seen[0].isIntersecting) more(); }, {rootMargin: '900px'}).observe(end);
function show() {
  const run = +ui.run.value, order = ui.order.value, find = ui.find.value.toLowerCase(), sign = {best: -1, gain: -1}[order] ?? 1;
  const key = i => value(i, run) === null ? null : value(i, run) - (order == 'gain' || order == 'loss' ? value(i, 0) : 0);
  list = D.items.filter(i => (!pageName || i.page == pageName) && ['task', 'source'].every(k => !ui[k].value || i[k] == ui[k].value)
    && (!ui.status.value || answers(i)[run]?.[0] == ui.status.value) && (!find || lower(i).includes(find)));
  if (order != 'data') list = list.map(i => [i, key(i)]).sort((a, b) => (a[1] === null) - (b[1] === null) || sign * (a[1] - b[1])).map(pair => pair[0]);
  count.textContent = list.length + ' of ' + D.items.length;
  painter.disconnect();
  const again = make('button', {textContent: 'show all', onclick() { for (const k of ['task', 'source', 'status', 'find']) ui[k].value = ''; show(); }});
  $('cards').replaceChildren(...(list.length ? [] : [make('p', {className: 'empty'}, 'No item is like that.', again)]), end);
  next = 0; more();
}
const tabs = [...document.querySelectorAll('main > nav a')], pages = [...document.querySelectorAll('.page')];
function turn() {  // to the page of the address
  const at = Math.max(0, tabs.findIndex(tab => tab.getAttribute('href') == location.hash));
  const reading = $('gallery').getBoundingClientRect().top < innerHeight / 2;
  pages.forEach((page, k) => page.hidden = k != at);
  tabs.forEach((tab, k) => k == at ? tab.setAttribute('aria-current', 'page') : tab.removeAttribute('aria-current'));
  pageName = at ? tabs[at].dataset.page : '';
  show();
  if (reading) $('gallery').scrollIntoView();
}
$('jump').onclick = () => $('gallery').scrollIntoView({behavior: 'smooth'});
$('cards').style.setProperty('--runs', D.runs.length);
addEventListener('hashchange', turn);
turn();
