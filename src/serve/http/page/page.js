'use strict';
// The page of `pipe serve`: tables, queries, runs. Texts reach the document as text only.

const TOKEN = 'pipe-token', HISTORY = 'pipe-history', KEPT = 50;
// The longest statement that a link can carry.
const LINK = 8000;
const narrow = matchMedia('(max-width: 50rem)');
const $ = (id) => document.getElementById(id);

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === 'class') element.className = value;
    else if (name === 'on') for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const button = (text, action, kind) => make('button', { type: 'button', class: kind || '', on: { click: action } }, text);
const count = (n) => Number(n).toLocaleString('en-US');
const counted = (n, what) => `${count(n)} ${what}${Number(n) === 1 ? '' : 's'}`;

function size(bytes) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let at = 0;
  while (bytes >= 1024 && at < units.length - 1) { bytes /= 1024; at += 1; }
  return `${at ? bytes.toFixed(1) : bytes} ${units[at]}`;
}

function lasted(ms) {
  const s = ms / 1000;
  if (s < 60) return `${s.toFixed(s < 10 ? 2 : 1)} s`;
  const two = (n) => String(Math.floor(n)).padStart(2, '0');
  return s < 3600 ? `${Math.floor(s / 60)}:${two(s % 60)} min` : `${Math.floor(s / 3600)}:${two(s / 60 % 60)} h`;
}

function ago(unixSeconds) {
  const s = Math.max(0, Date.now() / 1000 - unixSeconds);
  if (s < 60) return 'just now';
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  return s < 86400 ? `${Math.floor(s / 3600)} h ago` : `${Math.floor(s / 86400)} days ago`;
}

// ---- Asking the server ----

class Refused extends Error {
  constructor(problem) {
    super(problem.detail || problem.title || 'the server refused');
    this.hint = problem.hint || '';
    this.status = problem.status;
  }
}

async function ask(path, options = {}) {
  const headers = new Headers(options.headers || {});
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.set('Authorization', authorization(token));
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: 'no-store', credentials: 'omit' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Refused({ detail: 'The server does not answer.', hint: 'Is `pipe serve` still running?' });
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({ detail: `The server answered ${response.status}.` }));
  if (response.status === 401) askForToken(Boolean(token));
  throw new Refused({ status: response.status, ...problem });
}

// A token has no colon; a user and a password have one between them.
function authorization(secret) {
  if (!secret.includes(':')) return `Bearer ${secret}`;
  return `Basic ${btoa(String.fromCharCode(...new TextEncoder().encode(secret)))}`;
}

function askForToken(wrong) {
  $('login').hidden = false;
  $('all').hidden = true;
  $('leave').hidden = true;
  $('summary').textContent = '';
  $('denied').textContent = wrong ? 'This is not valid.' : '';
  sessionStorage.removeItem(TOKEN);
  $('token').focus();
}

$('login').addEventListener('submit', (event) => {
  event.preventDefault();
  const token = $('token').value.trim();
  // A header takes only these of a token.
  if (!token.includes(':') && !/^[\x21-\x7e]+$/.test(token)) {
    $('denied').textContent = 'This is not a token.';
    $('token').select();
    return;
  }
  sessionStorage.setItem(TOKEN, token);
  $('token').value = '';
  start();
});

$('leave').addEventListener('click', () => { sessionStorage.removeItem(TOKEN); location.reload(); });

function problem(error) {
  const parts = error ? [make('p', {}, make('strong', {}, error.message))] : [];
  if (error && error.hint) parts.push(make('p', {}, error.hint));
  $('problem').replaceChildren(...parts);
  $('problem').hidden = !error;
}

// ---- Tables ----

let known = [];
let loaded = 0;

const quoted = (name) => (/^[a-z_][a-z0-9_]*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`);

function columnList(columns) {
  const item = (column) => make('li', {},
    make('div', { class: 'entry' },
      button(column.name, () => insert(quoted(column.name)), 'plain'),
      make('span', { class: 'soft' }, [column.unit, column.type].filter(Boolean).join(', '))),
    column.description ? make('p', { class: 'soft' }, column.description) : null);
  return make('ul', {}, ...columns.map(item));
}

function entry(pipeline, table, isView, open) {
  const full = `${quoted(pipeline)}.${quoted(table.name)}`;
  const note = isView ? (table.unavailable ? 'unavailable' : 'view') : count(table.rows);
  const details = make('details', { 'data-name': full },
    make('summary', {}, make('div', { class: 'entry' },
      make('span', {}, table.name), make('span', { class: 'soft', title: isView ? '' : 'rows' }, note))));
  // Some tables have hundreds of columns: they are made when they are looked at.
  details.addEventListener('toggle', () => {
    if (details.children.length > 1) return;
    const about = make('div', { class: 'about' });
    if (table.unavailable) {
      about.append(make('p', {}, `This view cannot be queried: ${table.unavailable}`));
    } else {
      if (!isView) {
        const words = `${table.kind} stage ${table.stage}, ${counted(table.rows, 'row')}, ${size(table.bytes)}, made ${ago(table.made_unix_s)}`;
        about.append(make('p', { class: 'soft', title: `fingerprint ${table.fingerprint}` }, words));
      }
      about.append(make('p', { class: 'do' }, button('Show rows', () => query(`SELECT * FROM ${full}`))));
      about.append(columnList(table.columns));
    }
    details.append(about);
  });
  details.open = open.has(full);
  return make('li', {}, details);
}

async function catalog() {
  const open = new Set([...document.querySelectorAll('#catalog details[open]')].map((d) => d.dataset.name));
  const there = new Set([...document.querySelectorAll('.pipeline')].map((d) => d.dataset.name));
  const answer = await (await ask('tables')).json();
  loaded = answer.loaded_unix_ms;
  const words = new Set();
  let tables = 0;
  const nodes = answer.pipelines.map((pipeline) => {
    const list = make('ul', {});
    for (const table of pipeline.tables) { list.append(entry(pipeline.name, table, false, open)); tables += 1; }
    for (const view of pipeline.views) list.append(entry(pipeline.name, view, true, open));
    for (const table of [...pipeline.tables, ...pipeline.views]) {
      if (table.unavailable) continue;
      words.add(`${quoted(pipeline.name)}.${quoted(table.name)}`);
      words.add(quoted(table.name));
      for (const column of table.columns) words.add(quoted(column.name));
    }
    const details = make('details', { class: 'pipeline', 'data-name': pipeline.name },
      make('summary', {}, pipeline.name));
    if (answer.reports) details.append(make('p', { class: 'about' }, reportLink(pipeline.name)));
    details.append(list);
    // What was open stays so; of a few pipelines all are.
    details.open = there.has(pipeline.name) ? open.has(pipeline.name) : answer.pipelines.length <= 3;
    return details;
  });
  known = [...words].sort();
  if (!nodes.length) {
    nodes.push(make('p', { class: 'soft' }, 'No tables yet. They appear here once a pipeline has run: ',
      make('code', {}, 'pipe run pipelines/sweep.yaml')));
  }
  $('catalog').replaceChildren(...nodes);
  $('summary').textContent = tables ? `${counted(tables, 'table')} of ${counted(answer.pipelines.length, 'pipeline')}, read-only` : '';
}

function reportLink(pipeline) {
  const path = `report/${encodeURIComponent(pipeline)}`;
  // A link cannot carry the token.
  if (sessionStorage.getItem(TOKEN)) return button('Download the report', () => save(path, {}, `${pipeline}.html`), 'plain');
  return make('a', { href: path, target: '_blank', rel: 'noopener' }, 'Report');
}

// ---- The query ----

const field = $('sql');
let leaving = false;
let underWay = null;
// What the result on the page is of.
let shown = null;

function insert(text) {
  field.focus();
  field.setRangeText(text, field.selectionStart, field.selectionEnd, 'end');
  suggest();
}

function word() {
  const before = field.value.slice(0, field.selectionStart).match(/[A-Za-z_"][\w."]*$/);
  return before ? before[0] : '';
}

function fitting() {
  const begun = word().toLowerCase();
  if (begun.length < 2) return [];
  return known.filter((name) => name.toLowerCase().startsWith(begun) && name.toLowerCase() !== begun).slice(0, 8);
}

function take(name) {
  const end = field.selectionStart;
  field.focus();
  field.setRangeText(name, end - word().length, end, 'end');
  suggest();
}

function suggest() {
  const names = fitting();
  $('names').replaceChildren(...names.map((name) => button(name, () => take(name))));
  $('names').hidden = !names.length;
}

field.addEventListener('input', suggest);
field.addEventListener('blur', () => { leaving = false; });
field.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    run();
  } else if (event.key === ' ' && event.ctrlKey) {
    event.preventDefault();
    const [first] = fitting();
    if (first) take(first);
  } else if (event.key === 'Escape') {
    leaving = true;
    $('names').hidden = true;
  } else if (event.key === 'Tab' && !event.shiftKey && !leaving) {
    event.preventDefault();
    field.setRangeText('  ', field.selectionStart, field.selectionEnd, 'end');
  } else if (event.key !== 'Tab' && event.key !== 'Shift') {
    leaving = false;
  }
});

$('query').addEventListener('submit', (event) => { event.preventDefault(); run(); });
$('stop').addEventListener('click', () => { if (underWay) underWay.abort(); });

function query(sql) {
  field.value = sql;
  suggest();
  run().then(() => {
    // On a phone the result is far below what was chosen.
    const shown = $('problem').hidden ? $('result') : $('problem');
    if (narrow.matches) shown.scrollIntoView({ block: 'nearest' });
  });
}

async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const parts = (rest + value).split('\n');
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
  if (rest) yield JSON.parse(rest);
}

async function run() {
  const sql = field.value.trim();
  if (!sql) { field.focus(); return; }
  if (underWay) underWay.abort();
  const mine = new AbortController();
  underWay = mine;
  const begun = performance.now();
  problem(null);
  shown = null;
  $('result').hidden = true;
  $('stop').hidden = false;
  $('run').disabled = true;
  remember(sql);
  history.replaceState(null, '', `#sql=${encodeURIComponent(sql)}`);
  let columns = null, total = null;
  const rows = [];
  try {
    const options = { method: 'POST', body: sql, signal: mine.signal, headers: { 'Content-Type': 'application/sql' } };
    for await (const line of lines(await ask('sql?format=preview&rows=1000', options))) {
      if (Array.isArray(line)) rows.push(line);
      else if (line.columns) columns = line.columns;
      else if (line.problem) throw new Refused(line.problem);
      else { total = line.rows; continue; }
      // Where the whole result takes long, its beginning is there to look at.
      if (rows.length === 1000) { result(sql, columns, rows); tell(rows.length, null, performance.now() - begun); }
    }
    if (total === null) throw new Refused({ detail: 'The result broke off.', hint: 'Is `pipe serve` still running?' });
    if (rows.length !== 1000) result(sql, columns, rows);
    tell(rows.length, total, performance.now() - begun);
  } catch (error) {
    if (underWay !== mine) return;
    if (error.name === 'AbortError') problem(new Refused({ detail: 'Stopped.' }));
    else problem(error);
    if (columns && rows.length && $('result').hidden) { result(sql, columns, rows); }
    if (columns && rows.length) $('count').textContent = `The first ${counted(rows.length, 'row')} of a result that broke off`;
  } finally {
    if (underWay === mine) {
      underWay = null;
      $('stop').hidden = true;
      $('run').disabled = false;
    }
  }
}

function tell(there, total, ms) {
  const time = lasted(ms);
  if (total === null) $('count').textContent = `The first ${counted(there, 'row')}; counting the others.`;
  else if (total > there) $('count').textContent = `The first ${count(there)} of ${counted(total, 'row')}, ${time}`;
  else $('count').textContent = `${counted(total, 'row')}, ${time}`;
}

// ---- The result ----

function result(sql, columns, rows) {
  shown = { sql, columns, rows };
  const heading = (column, at) => make('th', { scope: 'col', class: column.number ? 'number' : '', title: column.description || column.type },
    button(column.name, (event) => sort(at, event.target.closest('th'))),
    column.unit ? make('span', { class: 'unit' }, ` ${column.unit}`) : null);
  const table = make('table', {}, make('thead', {}, make('tr', {}, ...columns.map(heading))), make('tbody', {}));
  $('rows').replaceChildren(table);
  fill(table, rows);
  $('result').hidden = false;
}

function fill(table, rows) {
  const cells = (row) => row.map((text, at) => cell(text, shown.columns[at]));
  table.tBodies[0].replaceChildren(...rows.map((row) => make('tr', {}, ...cells(row))));
}

function cell(text, column) {
  if (text === null) return make('td', { class: column.number ? 'null number' : 'null' }, 'NULL');
  if (!column.number) return make('td', text.length > 60 ? { title: text } : {}, text);
  const short = rounded(text);
  return make('td', { class: 'number', title: short === text ? null : text }, short);
}

// Long fractions with eight digits; the title has them all.
function rounded(text) {
  if (text.length <= 12 || !/[.e]/i.test(text) || !Number.isFinite(Number(text))) return text;
  return String(Number(Number(text).toPrecision(8)));
}

function compare(a, b, number) {
  if (!number) return a < b ? -1 : a > b ? 1 : 0;
  const whole = /^-?\d+$/;
  if (whole.test(a) && whole.test(b)) { const [x, y] = [BigInt(a), BigInt(b)]; return x < y ? -1 : x > y ? 1 : 0; }
  const [x, y] = [Number(a), Number(b)];
  return Number.isNaN(x) || Number.isNaN(y) ? Number.isNaN(x) - Number.isNaN(y) : x - y;
}

function sort(at, heading) {
  const down = heading.getAttribute('aria-sort') === 'ascending';
  for (const other of heading.parentElement.children) other.removeAttribute('aria-sort');
  heading.setAttribute('aria-sort', down ? 'descending' : 'ascending');
  const number = shown.columns[at].number;
  const rows = [...shown.rows].sort((a, b) => {
    // What is missing comes last either way.
    if (a[at] === null || b[at] === null) return (a[at] === null) - (b[at] === null);
    return down ? compare(b[at], a[at], number) : compare(a[at], b[at], number);
  });
  fill(heading.closest('table'), rows);
}

// ---- Downloads ----

function hand(href, name) {
  const link = make('a', { href, download: name });
  document.body.append(link);
  link.click();
  link.remove();
}

async function save(path, options, name) {
  try {
    problem(null);
    const response = await ask(path, options);
    const url = URL.createObjectURL(await response.blob());
    hand(url, name);
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  } catch (error) {
    problem(error instanceof Refused ? error : new Refused({ detail: 'The download broke off.', hint: 'The query failed on its way, or the server stopped.' }));
  }
}

const ENDINGS = { arrow: 'arrows' };

$('downloads').addEventListener('click', (event) => {
  const format = event.target.dataset.format;
  if (!format || !shown) return;
  const name = `result.${ENDINGS[format] || format}`;
  const link = `sql?format=${format}&q=${encodeURIComponent(shown.sql)}`;
  // A link is written to disk as it comes; but it cannot carry a token, nor a long statement.
  if (!sessionStorage.getItem(TOKEN) && link.length < LINK) hand(link, name);
  else save(`sql?format=${format}`, { method: 'POST', body: shown.sql, headers: { 'Content-Type': 'application/sql' } }, name);
});

// ---- Earlier queries ----

function earlier() {
  try {
    const list = JSON.parse(localStorage.getItem(HISTORY));
    return Array.isArray(list) ? list.filter((sql) => typeof sql === 'string') : [];
  } catch {
    return [];
  }
}

function remember(sql) {
  const list = [sql, ...earlier().filter((other) => other !== sql)].slice(0, KEPT);
  try { localStorage.setItem(HISTORY, JSON.stringify(list)); } catch { /* It is full, or not allowed. */ }
  recall(list);
}

function recall(list) {
  const item = (sql) => make('li', {}, button(sql.replace(/\s+/g, ' '), () => query(sql), 'plain sql'));
  $('history').replaceChildren(...list.map(item));
  $('before').hidden = !list.length;
}

// ---- Runs that go on ----

const WORDS = { waiting: 'waits', running: 'runs', cached: 'cached', ran: 'done', failed: 'failed', interrupted: 'stopped', skipped: 'skipped' };
let timer = null;

function stage(of) {
  const name = make('span', {}, of.name, ' ', make('span', { class: 'soft' }, of.kind));
  const state = make('span', { class: of.state }, WORDS[of.state] || of.state);
  let bar = make('span', {}), note = '';
  if (of.state === 'running') {
    const known = of.total > 0;
    bar = make('progress', { 'aria-label': `${of.name}, progress`, ...(known ? { max: of.total, value: Math.min(of.done, of.total) } : {}) });
    note = [known ? `${count(of.done)} of ${count(of.total)} ${of.what}` : of.done ? `${count(of.done)} ${of.what}` : '', lasted(of.millis)];
    note = note.filter(Boolean).join(', ');
  } else if (of.state === 'ran' || of.state === 'cached') {
    note = `${counted(of.rows, 'row')}, ${lasted(of.millis)}`;
  }
  return make('li', {}, name, state, bar, make('span', { class: 'soft' }, note));
}

function running(run) {
  const through = run.stages.filter((s) => !['waiting', 'running', 'skipped'].includes(s.state)).length;
  const all = run.stages.filter((s) => s.state !== 'skipped').length;
  const since = lasted(Math.max(0, Date.now() - run.started_unix_ms));
  return make('section', { class: 'run', 'data-run': run.id },
    make('h3', {}, `${run.pipeline} is running: ${through} of ${counted(all, 'stage')}, ${since}`),
    make('ol', {}, ...run.stages.filter((s) => s.state !== 'skipped').map(stage)));
}

async function watch() {
  clearTimeout(timer);
  let pause = 5000;
  try {
    if (!document.hidden) {
      const answer = await (await ask('live')).json();
      if (answer.runs.length) pause = 1000;
      $('live').replaceChildren(...answer.runs.map(running));
      $('live').hidden = !answer.runs.length;
      if (answer.loaded_unix_ms !== loaded) await catalog();
    }
  } catch (error) {
    $('live').hidden = true;
    // Without a token nothing more is asked; a server that does not answer may come back.
    if (error.status === 401) return;
  }
  timer = setTimeout(watch, pause);
}

document.addEventListener('visibilitychange', () => { if (!document.hidden && $('login').hidden) watch(); });

async function start() {
  try {
    await catalog();
    problem(null);
    $('login').hidden = true;
    $('all').hidden = false;
    $('leave').hidden = !sessionStorage.getItem(TOKEN);
  } catch (error) {
    if (error.status !== 401) { $('catalog').replaceChildren(); problem(error); }
    return;
  } finally {
    document.documentElement.dataset.ready = 'yes';
  }
  watch();
  const linked = new URLSearchParams(location.hash.slice(1)).get('sql');
  if (linked && !field.value) query(linked);
}

recall(earlier());
// On a phone the tables would push the query out of sight.
if (narrow.matches) $('tables').open = false;
start();
